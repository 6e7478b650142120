"""A vCPU's initial registers: checked, then installed as a whole (D4, D6; Xen arch/x86/domain.c, arch_set_info_guest)."""

from __future__ import annotations

from typing import Final

from hypervisor.domain.domain import Vcpu
from hypervisor.domain.hypervisor import Hypervisor
from hypervisor.domain.run_state import Run
from hypervisor.machine.descriptor_window import MAX_LDT_ENTRIES
from hypervisor.machine.paging import is_canonical
from hypervisor.mm.budget import Budget
from hypervisor.mm.layout import addr_ok
from hypervisor.public.arch_x86.xen import FIRST_RESERVED_GDT_ENTRY, VGCF_online, vcpu_guest_context
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.xen import VMASST_TYPE_m2p_strict
from hypervisor.wire.messages import Effect

X86_EFLAGS_IF: Final = 1 << 9
X86_EFLAGS_VM: Final = 1 << 17


def check_context(raw: bytes) -> vcpu_guest_context:
    """The context with its selectors at RPL 3 and its flags as a guest may have them.

    XenError(EINVAL): an address that Xen must not load (D4).
    """
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
    if context.ldt_ents > MAX_LDT_ENTRIES or (context.ldt_ents and not addr_ok(context.ldt_base)):
        raise XenError(Errno.EINVAL, "X6: LDT outside the guest's range")
    if context.gdt_ents > FIRST_RESERVED_GDT_ENTRY:
        raise XenError(Errno.EINVAL, "D1: GDT reaches into Xen's entries")
    for name in ("cs", "ss"):
        setattr(regs, name, getattr(regs, name) | 3)
    regs.rflags = regs.rflags & ~X86_EFLAGS_VM | X86_EFLAGS_IF | 2
    context.user_regs = regs
    return context


def install_context(hv: Hypervisor, vcpu: Vcpu, context: vcpu_guest_context, budget: Budget) -> None:
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
        mmu.bases.set_base_pointers(vcpu.mem, context.ctrlreg[3] >> 12, context.ctrlreg[1] >> 12, budget)
    except XenError:
        mmu.descriptors.set_gdt(vcpu.mem, [], 0)
        raise
    if vcpu.vcpu_id == 0:
        vcpu.domain.vm_assist = context.vm_assist
    vcpu.context = context.pack()
    vcpu.initialised = True
    vcpu.up = bool(context.flags & VGCF_online) and vcpu.vcpu_id == 0
    vcpu.effects.set_context(vcpu.context)
    vcpu.effects.append([Effect.VM_ASSIST, vcpu.domain.vm_assist])


def shown_context(vcpu: Vcpu) -> bytes:
    """The saved registers as the control domain sees them: a hypercall's result is in rax; vm_assist is the domain's."""
    raw = bytearray(vcpu.context)
    if vcpu.run.nr >= 0 and vcpu.run.state is not Run.NEW:
        at = vcpu_guest_context.offsetof("user_regs.rax")
        raw[at : at + 8] = (vcpu.run.result & (1 << 64) - 1).to_bytes(8, "little")
    at = vcpu_guest_context.offsetof("vm_assist")
    raw[at : at + 8] = vcpu.domain.vm_assist.to_bytes(8, "little")
    return bytes(raw)
