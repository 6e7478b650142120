"""A vCPU's whole state as vcpu_guest_context: taken over at the start, given back when the core asks for it.

Virtual addresses and frames were checked by the core (D4, D6); selectors get RPL 3 here. Without
VGCF_i387_valid the FPU starts as FNINIT leaves it; what is given back has it.
Source: Xen arch/x86/domain.c (arch_set_info_guest).
"""

from typing import Final

from domains.cpu.traps import TrapGate
from domains.cpu.x86.descriptors import SelectorFault
from domains.cpu.x86.emulator.cpu_state import RIP
from domains.cpu.x86.emulator.fpu_image import INITIAL, load_fpu, save_fpu
from domains.cpu.x86.pv.debug_registers import load_drs
from domains.cpu.x86.pv.pv_state import CR4_OF_GUEST, CR4_OF_XEN, NO_CALLBACK, Callback
from domains.cpu.x86.pv.vcpu import X86Vcpu
from domains.cpu.x86.registers import (
    CR0_TS,
    CS,
    DS,
    EFLAGS_ALL,
    EFLAGS_IF,
    EFLAGS_IOPL,
    EFLAGS_MBS,
    EFLAGS_VM,
    ES,
    FS,
    GPR_NAMES,
    GS,
    SS,
)
from hypervisor.public.arch_x86.xen import (
    VGCF_failsafe_disables_events,
    VGCF_i387_valid,
    VGCF_in_kernel,
    VGCF_syscall_disables_events,
    trap_info,
    vcpu_guest_context,
    vcpu_guest_context_fpu_ctxt,
)
from hypervisor.public.callback import (
    CALLBACKF_mask_events,
    CALLBACKTYPE_event,
    CALLBACKTYPE_failsafe,
    CALLBACKTYPE_syscall,
)
from hypervisor.public.types import PAGE_SHIFT

DATA_SEGMENTS: Final = ((DS, "ds"), (ES, "es"), (FS, "fs"), (GS, "gs"))


def load_context(v: X86Vcpu, raw: bytes) -> None:
    """Take over the registers in the bytes of a 64-bit guest's vcpu_guest_context."""
    context = vcpu_guest_context.unpack(raw)
    _load_pv_state(v, context)
    regs = context.user_regs
    in_kernel = bool(context.flags & VGCF_in_kernel)
    v.pv64.be_in(kernel=in_kernel)
    v.pv64.kernel_l4 = context.ctrlreg[3] >> PAGE_SHIFT
    v.pv64.user_l4 = context.ctrlreg[1] >> PAGE_SHIFT
    v.paging.activate(v.pv64.kernel_l4 if in_kernel else v.pv64.user_l4)
    v.segments.set_ldt(context.ldt_base, context.ldt_ents)
    for number, name in enumerate(GPR_NAMES):
        v.cpu.q[number] = getattr(regs, name)
    v.cpu.q[RIP] = regs.rip
    v.cpu.rflags = regs.rflags & EFLAGS_ALL & ~(EFLAGS_IOPL | EFLAGS_VM) | EFLAGS_IF | EFLAGS_MBS
    try:
        v.segments.code_and_stack(regs.cs | 3, regs.ss | 3, v.paging.root)
    except SelectorFault:
        v.segments.flat()
    for segment, name in DATA_SEGMENTS:
        v.segments.data(segment, getattr(regs, name), v.paging.root)
    v.cpu.set_base(FS, context.fs_base)
    bases = (context.gs_base_kernel, context.gs_base_user)
    v.cpu.set_base(GS, bases[0 if in_kernel else 1])
    v.mode.inactive_gs = bases[1 if in_kernel else 0]


def _load_pv_state(v: X86Vcpu, context: vcpu_guest_context) -> None:
    pv = v.pv
    pv.iopl = context.user_regs.rflags & EFLAGS_IOPL
    pv.kernel_ss, pv.kernel_sp = context.kernel_ss & 0xFFFF | 3, context.kernel_sp
    pv.cr2 = context.ctrlreg[2]
    pv.cr4 = context.ctrlreg[4] & CR4_OF_GUEST | CR4_OF_XEN
    pv.vm_assist = context.vm_assist
    pv.gdt_entries = context.gdt_ents
    pv.gdt_frames = list(context.gdt_frames)
    pv.ldt_base, pv.ldt_entries = context.ldt_base, context.ldt_ents
    for vector, gate in enumerate(context.trap_ctxt):
        pv.traps[vector] = TrapGate(gate.flags, gate.cs, gate.address) if gate.address else None
    masks = int(CALLBACKF_mask_events)
    flags = context.flags
    pv.callbacks = {
        CALLBACKTYPE_event: Callback(context.event_callback_eip, masks),
        CALLBACKTYPE_failsafe: Callback(
            context.failsafe_callback_eip,
            masks if flags & VGCF_failsafe_disables_events else 0,
        ),
        CALLBACKTYPE_syscall: Callback(
            context.syscall_callback_eip,
            masks if flags & VGCF_syscall_disables_events else 0,
        ),
    }
    v.set_ts(bool(context.ctrlreg[0] & CR0_TS))
    image = context.fpu_ctxt.pack() if flags & VGCF_i387_valid else INITIAL
    load_fpu(v.cpu, v.float_unit, image)
    load_drs(pv, context.debugreg)
    v.breakpoints.changed()


def save_context(v: X86Vcpu) -> bytes:
    """The bytes of this vCPU's vcpu_guest_context."""
    cpu, pv = v.cpu, v.pv
    context = vcpu_guest_context()
    regs = context.user_regs
    for number, name in enumerate(GPR_NAMES):
        setattr(regs, name, cpu.q[number])
    regs.rip = cpu.q[RIP]
    regs.rflags = cpu.rflags & ~EFLAGS_IOPL | pv.iopl
    regs.saved_upcall_mask = int(v.events.upcall_mask)
    for segment, name in ((CS, "cs"), (SS, "ss"), *DATA_SEGMENTS):
        setattr(regs, name, cpu.selector(segment) & 0xFFFF)
    context.flags = int(VGCF_in_kernel) if v.mode.in_kernel else 0
    context.flags |= _callback_flags(v) | VGCF_i387_valid
    context.fpu_ctxt = vcpu_guest_context_fpu_ctxt.unpack(save_fpu(cpu, v.float_unit))
    context.trap_ctxt = tuple(
        trap_info(vector=vector, flags=gate.flags, cs=gate.cs, address=gate.address) if gate else trap_info()
        for vector, gate in enumerate(pv.traps)
    )
    context.ldt_base, context.ldt_ents = pv.ldt_base, pv.ldt_entries
    context.gdt_ents = pv.gdt_entries
    context.gdt_frames = tuple((pv.gdt_frames + [0] * 16)[:16])
    context.kernel_ss, context.kernel_sp = pv.kernel_ss, pv.kernel_sp
    user, kernel = v.pv64.user_l4 << PAGE_SHIFT, v.pv64.kernel_l4 << PAGE_SHIFT
    context.ctrlreg = (CR0_TS if pv.cr0_ts else 0, user, pv.cr2, kernel, pv.cr4, 0, 0, 0)
    context.debugreg = (*pv.dr, 0, 0, pv.dr6, pv.dr7 | pv.dr7_emul)
    context.event_callback_eip = pv.callbacks.get(CALLBACKTYPE_event, NO_CALLBACK).address
    context.failsafe_callback_eip = pv.callbacks.get(CALLBACKTYPE_failsafe, NO_CALLBACK).address
    context.syscall_callback_eip = pv.callbacks.get(CALLBACKTYPE_syscall, NO_CALLBACK).address
    context.vm_assist = pv.vm_assist
    context.fs_base = cpu.base(FS)
    active, inactive = cpu.base(GS), v.mode.inactive_gs
    context.gs_base_kernel, context.gs_base_user = (
        (active, inactive) if v.mode.in_kernel else (inactive, active)
    )
    return context.pack()


def _callback_flags(v: X86Vcpu) -> int:
    flags = 0
    for kind, flag in (
        (CALLBACKTYPE_failsafe, VGCF_failsafe_disables_events),
        (CALLBACKTYPE_syscall, VGCF_syscall_disables_events),
    ):
        if v.pv.callbacks.get(kind, NO_CALLBACK).flags & CALLBACKF_mask_events:
            flags |= int(flag)
    return flags
