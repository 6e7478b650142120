"""A 32-bit guest's state as its vcpu_guest_context: what is loaded into a vCPU is what is saved from it."""

from domains.cpu.x86.pv.engine import X86Cpu
from domains.cpu.x86.pv.kinds import PV32
from domains.cpu.x86.pv.pv32_context import load_compat_context, save_compat_context
from hypervisor.public.arch_x86.xen import VGCF_failsafe_disables_events, VGCF_i387_valid, VGCF_in_kernel
from hypervisor.public.arch_x86.xen_x86_32 import FLAT_KERNEL_CS, FLAT_KERNEL_SS, xen_pfn_to_cr3
from hypervisor.public.callback import CALLBACKTYPE_event
from hypervisor.public.compat import compat_trap_info, compat_vcpu_guest_context
from hypervisor.public.types import PAGE_SHIFT
from hypervisor.wire.messages import Effect
from tests.domains.cpu.x86.bench import L4, SHARED, BenchGate

L3 = 0x12_3456
"""A frame above 4 GiB: its number goes around in CR3."""


def context() -> compat_vcpu_guest_context:
    """A state in which no field is like another."""
    whole = compat_vcpu_guest_context(
        flags=VGCF_in_kernel | VGCF_failsafe_disables_events,
        kernel_ss=FLAT_KERNEL_SS,
        kernel_sp=0x8000,
        gdt_ents=512,
        gdt_frames=(77, *[0] * 15),
        ctrlreg=(0, 0, 0x1234, xen_pfn_to_cr3(L3), 0, 0, 0, 0),
        debugreg=(0x1110, 0x2220, 0, 0, 0, 0, 0xFFFF_0FF0, 0x400),
        event_callback_cs=0xE019,
        event_callback_eip=0x4000,
        failsafe_callback_cs=0xE01B,
        failsafe_callback_eip=0x5000,
    )
    regs = whole.user_regs
    for number, name in enumerate(("eax", "ebx", "ecx", "edx", "esi", "edi", "ebp", "esp", "eip")):
        setattr(regs, name, 0xFFFF_0000 + number)
    regs.cs, regs.ss, regs.eflags = FLAT_KERNEL_CS, FLAT_KERNEL_SS, 0x3246
    whole.user_regs = regs
    traps = list(whole.trap_ctxt)
    traps[14] = compat_trap_info(vector=14, flags=4, cs=0xE019, address=0x6000)
    whole.trap_ctxt = tuple(traps)
    return whole


def test_what_is_loaded_is_saved() -> None:
    gate = BenchGate()
    cpu = X86Cpu(gate, PV32)  # type: ignore[arg-type]
    gate.memory.page(L4)[0] = L3 << PAGE_SHIFT | 7
    cpu.share(SHARED << PAGE_SHIFT)
    loaded = context()
    cpu.apply([[Effect.CONTEXT, loaded.pack(), SHARED, L4]])
    saved = compat_vcpu_guest_context.unpack(PV32.entry.save_context(cpu.vcpu))
    for name in ("kernel_ss", "kernel_sp", "gdt_ents", "gdt_frames", "debugreg", "trap_ctxt"):
        assert getattr(saved, name) == getattr(loaded, name), name
    assert saved.ctrlreg[2:4] == loaded.ctrlreg[2:4]
    assert saved.flags == loaded.flags | VGCF_i387_valid
    for name in ("event_callback_cs", "event_callback_eip", "failsafe_callback_cs", "failsafe_callback_eip"):
        assert getattr(saved, name) == getattr(loaded, name), name
    wanted, found = loaded.user_regs, saved.user_regs
    wanted.saved_upcall_mask = found.saved_upcall_mask
    assert found == wanted
    assert cpu.vcpu.mode.in_kernel
    assert cpu.vcpu.pv.callbacks[CALLBACKTYPE_event].cs == 0xE019
    again = save_compat_context(cpu.vcpu)
    load_compat_context(cpu.vcpu, again, L4)
    assert save_compat_context(cpu.vcpu) == again
