"""A vCPU's initial registers: checked, then installed as a whole (D4, D6; Xen arch/x86/domain.c, arch_set_info_guest)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from hypervisor.domain.domain import Domain, Kind, Vcpu
from hypervisor.domain.hypervisor import Hypervisor
from hypervisor.domain.run_state import Run
from hypervisor.machine.descriptor_window import COMPAT_KERNEL_RPL, MAX_LDT_ENTRIES, guest_selector
from hypervisor.machine.paging import is_canonical
from hypervisor.mm.budget import Budget
from hypervisor.mm.layout import addr_ok, compat_addr_ok
from hypervisor.public.arch_x86.xen import FIRST_RESERVED_GDT_ENTRY, VGCF_online, vcpu_guest_context
from hypervisor.public.arch_x86.xen_x86_32 import xen_cr3_to_pfn
from hypervisor.public.compat import compat_vcpu_guest_context
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.xen import VMASST_TYPE_m2p_strict
from hypervisor.wire.messages import Effect

X86_EFLAGS_IF: Final = 1 << 9
X86_EFLAGS_VM: Final = 1 << 17
DR_MAX: Final = (1 << 32) - 1


PvContext = vcpu_guest_context | compat_vcpu_guest_context
"""Registers in the layout of their guest's width."""


def check_context(domain: Domain, raw: bytes) -> PvContext:
    """The registers with selectors and flags as a guest may have them. XenError(EINVAL): what Xen must not load (D4)."""
    return CHECKS[domain.kind](raw)


def check_context_64(raw: bytes) -> vcpu_guest_context:
    """Of a 64-bit guest: selectors at RPL 3."""
    context = vcpu_guest_context.unpack(raw)
    regs = context.user_regs
    entries = (
        context.event_callback_eip,
        context.failsafe_callback_eip,
        context.syscall_callback_eip,
    )
    bases = (context.fs_base, context.gs_base_kernel, context.gs_base_user)
    loaded = (regs.rip, regs.rsp, context.kernel_sp, *entries, *(trap.address for trap in context.trap_ctxt))
    if not all(is_canonical(address) for address in (*loaded, *bases)):
        raise XenError(Errno.EINVAL, "D4: an address of the context is not canonical")
    _check_tables(context, addr_ok)
    _check_debug_registers(context.debugreg)
    for name in ("cs", "ss"):
        setattr(regs, name, getattr(regs, name) | 3)
    regs.rflags = regs.rflags & ~X86_EFLAGS_VM | X86_EFLAGS_IF | 2
    context.user_regs = regs
    return context


def check_context_32(raw: bytes) -> compat_vcpu_guest_context:
    """Of a 32-bit guest: selectors of code and stacks at RPL 1 at least, those of its handlers too."""
    context = compat_vcpu_guest_context.unpack(raw)
    _check_tables(context, compat_addr_ok)
    regs = context.user_regs
    for name in ("cs", "ss"):
        setattr(regs, name, guest_selector(getattr(regs, name), COMPAT_KERNEL_RPL))
    regs.eflags = regs.eflags & ~X86_EFLAGS_VM | X86_EFLAGS_IF | 2
    context.user_regs = regs
    for name in ("kernel_ss", "event_callback_cs", "failsafe_callback_cs"):
        setattr(context, name, guest_selector(getattr(context, name) & 0xFFFF, COMPAT_KERNEL_RPL))
    traps = list(context.trap_ctxt)
    for trap in traps:
        trap.cs = guest_selector(trap.cs, COMPAT_KERNEL_RPL)
    context.trap_ctxt = tuple(traps)
    return context


def _check_tables(context: PvContext, may_use: Callable[[int], bool]) -> None:
    if context.ldt_ents > MAX_LDT_ENTRIES or (context.ldt_ents and not may_use(context.ldt_base)):
        raise XenError(Errno.EINVAL, "X6: LDT outside the guest's range")
    if context.gdt_ents > FIRST_RESERVED_GDT_ENTRY:
        raise XenError(Errno.EINVAL, "D1: GDT reaches into Xen's entries")


def _check_debug_registers(values: Sequence[int]) -> None:
    """Of a 64-bit guest; what else Xen refuses of DR7, such as I/O breakpoints, is as after a reset then."""
    if not all(addr_ok(address) for address in values[:4]):
        raise XenError(Errno.EINVAL, "D4: a breakpoint outside the guest's range")
    if max(values[6:]) > DR_MAX:
        raise XenError(Errno.EINVAL, "D4: DR6 and DR7 have 32 bits")


CHECKS: Final[dict[Kind, Callable[[bytes], PvContext]]] = {
    Kind.PV64: check_context_64,
    Kind.PV32: check_context_32,
}


def base_pointers(domain: Domain, context: PvContext) -> tuple[int, int]:
    """The frames of the kernel's and the user's page table; a 32-bit guest has one for both, and no second."""
    if domain.kind is Kind.PV32:
        return xen_cr3_to_pfn(context.ctrlreg[3]), 0
    return context.ctrlreg[3] >> 12, context.ctrlreg[1] >> 12


def install_context(hv: Hypervisor, vcpu: Vcpu, context: PvContext, budget: Budget) -> None:
    """Take the references that the registers need, then make them the vCPU's (D6). All or nothing.

    Restart: a large page table is being validated; the same call again goes on with it.
    """
    entries = context.gdt_ents
    frames = [int(mfn) for mfn in context.gdt_frames[: (entries + 511) // 512]]
    mmu = hv.mmu
    mmu.descriptors.set_gdt(vcpu.mem, frames, entries)
    if vcpu.vcpu_id == 0:
        vcpu.domain.mem.m2p_strict = bool(context.vm_assist >> VMASST_TYPE_m2p_strict & 1)
    try:
        mmu.bases.set_base_pointers(vcpu.mem, *base_pointers(vcpu.domain, context), budget)
    except XenError:
        mmu.descriptors.set_gdt(vcpu.mem, [], 0)
        raise
    if vcpu.vcpu_id == 0:
        vcpu.domain.vm_assist = context.vm_assist
    vcpu.context = context.pack()
    vcpu.initialised = True
    runs = vcpu.vcpu_id == 0 or vcpu.domain.mailbox.engine.runs_all_vcpus
    vcpu.up = bool(context.flags & VGCF_online) and runs
    l4 = vcpu.mem.compat_l4
    vcpu.effects.set_context(vcpu.context, vcpu.domain.shared_info, *(() if l4 is None else (l4,)))
    vcpu.effects.append([Effect.VM_ASSIST, vcpu.domain.vm_assist])


def shown_context(vcpu: Vcpu) -> bytes:
    """The saved registers as the control domain sees them: a hypercall's result is in rax; vm_assist is the domain's."""
    raw, abi = bytearray(vcpu.context), vcpu.domain.abi
    layout, word = abi.layout(vcpu_guest_context), abi.word
    if vcpu.run.nr >= 0 and vcpu.run.state is not Run.NEW:
        at = layout.offsetof(RESULTS[vcpu.domain.kind])
        raw[at : at + word] = (vcpu.run.result & (1 << 8 * word) - 1).to_bytes(word, "little")
    at = layout.offsetof("vm_assist")
    raw[at : at + word] = (vcpu.domain.vm_assist & (1 << 8 * word) - 1).to_bytes(word, "little")
    return bytes(raw)


RESULTS: Final = {Kind.PV64: "user_regs.rax", Kind.PV32: "user_regs.eax"}
"""Where a hypercall's result goes."""
