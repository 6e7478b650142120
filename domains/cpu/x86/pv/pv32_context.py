"""A 32-bit guest's whole state as compat vcpu_guest_context: taken over at the start, given back when the core asks for it.

What the core checked is as in context.py. The page table is named by the frame of Xen's L4, which comes beside the context: the
CPU needs it before the guest's descriptors can be looked at. Source: Xen arch/x86/domain.c (arch_set_info_guest).
"""

from typing import Final

from domains.cpu.traps import TrapGate
from domains.cpu.x86.descriptors import SelectorFault
from domains.cpu.x86.emulator.cpu_state import RIP
from domains.cpu.x86.emulator.fpu_image import INITIAL, load_fpu, save_fpu
from domains.cpu.x86.pv.context import DATA_SEGMENTS
from domains.cpu.x86.pv.debug_registers import load_drs
from domains.cpu.x86.pv.pv_state import CR4_OF_GUEST, CR4_OF_XEN, NO_CALLBACK, Callback
from domains.cpu.x86.pv.vcpu import X86Vcpu
from domains.cpu.x86.registers import (
    CR0_TS,
    CS,
    EFLAGS_ALL,
    EFLAGS_IF,
    EFLAGS_IOPL,
    EFLAGS_MBS,
    EFLAGS_VM,
    GPR_NAMES,
    SS,
    U32,
)
from hypervisor.public.arch_x86.xen import (
    VGCF_failsafe_disables_events,
    VGCF_i387_valid,
    VGCF_in_kernel,
    vcpu_guest_context_fpu_ctxt,
)
from hypervisor.public.callback import CALLBACKF_mask_events, CALLBACKTYPE_event, CALLBACKTYPE_failsafe
from hypervisor.public.compat import compat_trap_info, compat_vcpu_guest_context

REGISTERS: Final = tuple((number, "e" + name[1:]) for number, name in enumerate(GPR_NAMES[:8]))


def load_compat_context(v: X86Vcpu, raw: bytes, compat_l4: int) -> None:
    """Take over the registers; the CPU runs on the L4 in frame `compat_l4`."""
    context = compat_vcpu_guest_context.unpack(raw)
    _load_pv_state(v, context)
    regs = context.user_regs
    v.paging.activate(compat_l4)
    v.segments.set_ldt(context.ldt_base, context.ldt_ents)
    for number, name in REGISTERS:
        v.cpu.q[number] = getattr(regs, name)
    v.cpu.q[RIP] = regs.eip
    v.cpu.rflags = regs.eflags & EFLAGS_ALL & ~(EFLAGS_IOPL | EFLAGS_VM) | EFLAGS_IF | EFLAGS_MBS
    try:
        v.segments.code_and_stack(regs.cs, regs.ss, compat_l4)
    except SelectorFault:
        v.segments.flat()
    for segment, name in DATA_SEGMENTS:
        v.segments.data(segment, getattr(regs, name), compat_l4)


def _load_pv_state(v: X86Vcpu, context: compat_vcpu_guest_context) -> None:
    pv = v.pv
    pv.iopl = context.user_regs.eflags & EFLAGS_IOPL
    pv.kernel_ss, pv.kernel_sp = context.kernel_ss & 0xFFFF, context.kernel_sp
    pv.cr2 = context.ctrlreg[2]
    pv.cr4 = context.ctrlreg[4] & CR4_OF_GUEST | CR4_OF_XEN
    pv.vm_assist = context.vm_assist
    pv.gdt_entries, pv.gdt_frames = context.gdt_ents, list(context.gdt_frames)
    pv.ldt_base, pv.ldt_entries = context.ldt_base, context.ldt_ents
    for vector, gate in enumerate(context.trap_ctxt):
        pv.traps[vector] = TrapGate(gate.flags, gate.cs, gate.address) if gate.address else None
    masks = int(CALLBACKF_mask_events)
    failsafe_masks = masks if context.flags & VGCF_failsafe_disables_events else 0
    pv.callbacks = {
        CALLBACKTYPE_event: Callback(context.event_callback_eip, masks, context.event_callback_cs & 0xFFFF),
        CALLBACKTYPE_failsafe: Callback(
            context.failsafe_callback_eip, failsafe_masks, context.failsafe_callback_cs & 0xFFFF
        ),
    }
    v.set_ts(bool(context.ctrlreg[0] & CR0_TS))
    image = context.fpu_ctxt.pack() if context.flags & VGCF_i387_valid else INITIAL
    load_fpu(v.cpu, v.float_unit, image)
    load_drs(pv, context.debugreg)
    v.breakpoints.changed()


def save_compat_context(v: X86Vcpu) -> bytes:
    """The bytes of this vCPU's context."""
    cpu, pv = v.cpu, v.pv
    context = compat_vcpu_guest_context()
    regs = context.user_regs
    for number, name in REGISTERS:
        setattr(regs, name, cpu.q[number] & U32)
    regs.eip = cpu.q[RIP] & U32
    regs.eflags = cpu.rflags & ~EFLAGS_IOPL & U32 | pv.iopl
    regs.saved_upcall_mask = int(v.events.upcall_mask)
    for segment, name in ((CS, "cs"), (SS, "ss"), *DATA_SEGMENTS):
        setattr(regs, name, cpu.selector(segment) & 0xFFFF)
    context.user_regs = regs
    context.flags = (int(VGCF_in_kernel) if v.mode.in_kernel else 0) | VGCF_i387_valid
    failsafe = pv.callbacks.get(CALLBACKTYPE_failsafe, NO_CALLBACK)
    event = pv.callbacks.get(CALLBACKTYPE_event, NO_CALLBACK)
    if failsafe.flags & CALLBACKF_mask_events:
        context.flags |= int(VGCF_failsafe_disables_events)
    context.fpu_ctxt = vcpu_guest_context_fpu_ctxt.unpack(save_fpu(cpu, v.float_unit))
    context.trap_ctxt = tuple(
        compat_trap_info(vector=vector, flags=gate.flags, cs=gate.cs, address=gate.address)
        if gate
        else compat_trap_info()
        for vector, gate in enumerate(pv.traps)
    )
    context.ldt_base, context.ldt_ents = pv.ldt_base, pv.ldt_entries
    context.gdt_ents, context.gdt_frames = pv.gdt_entries, tuple((pv.gdt_frames + [0] * 16)[:16])
    context.kernel_ss, context.kernel_sp = pv.kernel_ss, pv.kernel_sp
    context.ctrlreg = (CR0_TS if pv.cr0_ts else 0, 0, pv.cr2 & U32, v.mode.cr3(), pv.cr4, 0, 0, 0)
    context.debugreg = tuple(number & U32 for number in (*pv.dr, 0, 0, pv.dr6, pv.dr7 | pv.dr7_emul))
    context.event_callback_cs, context.event_callback_eip = event.cs, event.address
    context.failsafe_callback_cs, context.failsafe_callback_eip = failsafe.cs, failsafe.address
    context.vm_assist = pv.vm_assist & U32
    return context.pack()
