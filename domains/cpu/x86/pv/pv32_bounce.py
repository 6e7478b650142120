"""A frame on a 32-bit guest kernel's stack, in ring 1, and on to its handler (Xen's compat_create_bounce_frame).

    higher   SS           }  if user space was interrupted; then the frame is on
             ESP          }  the stack that stack_switch named, else below the current one
             EFLAGS          IF: the inverse of the upcall mask
             CS              bits 16 to 23: the upcall mask
             EIP
    lower    error code      if the vector has one

Source: Xen arch/x86/x86_64/compat/entry.S.
"""

import struct
from typing import Final

from domains.cpu.x86.descriptors import SelectorFault
from domains.cpu.x86.emulator.cpu_state import RIP
from domains.cpu.x86.paging import GuestFault
from domains.cpu.x86.pv.compat_segments import CompatSegments
from domains.cpu.x86.pv.crash import crash
from domains.cpu.x86.pv.vcpu import X86Vcpu
from domains.cpu.x86.registers import (
    CS,
    EFLAGS_IF,
    EFLAGS_IOPL,
    EFLAGS_NT,
    EFLAGS_RF,
    EFLAGS_TF,
    EFLAGS_VM,
    RSP,
    SS,
    U32,
)
from hypervisor.public.xen import VMASST_TYPE_architectural_iopl

CLEARED_ON_TRAP: Final = EFLAGS_VM | EFLAGS_RF | EFLAGS_NT | EFLAGS_TF | EFLAGS_IOPL
ARCHITECTURAL_IOPL: Final = 1 << VMASST_TYPE_architectural_iopl
OUTER_RING: Final = 2
"""Bit of a selector: rings 2 and 3, which are not the guest's kernel."""
FRAMES: Final = {count: struct.Struct(f"<{count}I") for count in (3, 4, 5, 6)}


def compat_bounce(v: X86Vcpu, cs: int, address: int, *, mask: bool, error_code: int | None = None) -> None:
    """Enter the guest's kernel at `cs:address`. `mask`: hold back upcalls there. Ends the domain if it cannot be done."""
    cpu, events, q = v.cpu, v.events, v.cpu.q
    flags, masked = cpu.rflags, events.upcall_mask
    old_cs, old_ss, old_esp = cpu.selector(CS) & 0xFFFF, cpu.selector(SS) & 0xFFFF, q[RSP] & U32
    saved = flags & ~(EFLAGS_IF | EFLAGS_IOPL) & U32 | (0 if masked else EFLAGS_IF)
    if v.pv.vm_assist & ARCHITECTURAL_IOPL:
        saved |= v.pv.iopl
    words = [] if error_code is None else [error_code & U32]
    words += [q[RIP] & U32, old_cs | masked << 16, saved]
    ss, esp = old_ss, old_esp
    if old_cs & OUTER_RING:
        words += [old_esp, old_ss]
        ss, esp = v.pv.kernel_ss, v.pv.kernel_sp
    if not cs & ~3 or not address:
        crash(v, "a trap or an event, and the guest has set no handler for it")
    enter_ring(v, cs, ss)
    esp = esp - 4 * len(words) & U32
    try:
        v.paging.write(cpu.base(SS) + esp, FRAMES[len(words)].pack(*words))
    except GuestFault as fault:
        crash(v, f"no frame for a trap can be written at {esp:#x}: {fault}", walk=fault.va)
    if mask:
        events.upcall_mask = True
    q[RSP], q[RIP] = esp, address & U32
    cpu.rflags = flags & ~CLEARED_ON_TRAP | EFLAGS_IF


def enter_ring(v: X86Vcpu, cs: int, ss: int) -> None:
    """Load the segments of the guest's kernel; what the CPU refuses ends the domain."""
    assert isinstance(v.segments, CompatSegments)
    try:
        v.segments.code_and_stack(cs, ss, v.paging.root)
    except SelectorFault as fault:
        crash(v, f"the kernel's segments {cs:#x} and {ss:#x} cannot be loaded: {fault}")
