"""The iret hypercall of a 32-bit guest: back from a trap, by the words on its kernel stack (D5).

    higher   SS, ESP   of a return to ring 2 or 3
             EFLAGS
             CS
             EIP
    ESP ──►  EAX       for EAX carried the hypercall's number

Source: Xen arch/x86/pv/iret.c (compat_iret).
"""

import struct
from typing import Final, cast

from domains.cpu.x86.descriptors import SelectorFault, drop_inner
from domains.cpu.x86.emulator.cpu_state import RIP
from domains.cpu.x86.paging import GuestFault
from domains.cpu.x86.pv.bounce import inject_hw_exception
from domains.cpu.x86.pv.compat_segments import CompatSegments
from domains.cpu.x86.pv.crash import crash
from domains.cpu.x86.pv.vcpu import X86Vcpu
from domains.cpu.x86.registers import (
    EFLAGS_ALL,
    EFLAGS_IF,
    EFLAGS_IOPL,
    EFLAGS_MBS,
    EFLAGS_VM,
    EXC_GP,
    RSP,
    SS,
    U32,
)
from hypervisor.public.xen import VMASST_TYPE_architectural_iopl

SAME_RING: Final = struct.Struct("<4I")
OUTER_RING: Final = struct.Struct("<2I")


def do_compat_iret(v: X86Vcpu, *_: int) -> int:
    """Perform the return; the result is the saved EAX."""
    q = v.cpu.q
    esp = q[RSP] & U32
    try:
        eax, eip, cs, flags = SAME_RING.unpack(v.paging.read(esp, SAME_RING.size))
        new_esp, ss = esp + SAME_RING.size & U32, v.cpu.selector(SS)
        if cs & 3 > 1:
            new_esp, ss = OUTER_RING.unpack(v.paging.read(esp + SAME_RING.size, OUTER_RING.size))
    except GuestFault as fault:
        crash(v, f"iret: its frame cannot be read: {fault}", walk=fault.va)
    if not cs & 3:
        crash(v, f"iret to ring 0: segment {cs & 0xFFFF:#x}")
    if flags & EFLAGS_VM:
        crash(v, "iret to virtual-8086 mode, which a CPU in long mode does not have")
    if v.pv.vm_assist >> VMASST_TYPE_architectural_iopl & 1:
        v.pv.iopl = flags & EFLAGS_IOPL
    v.cpu.rflags = flags & EFLAGS_ALL & ~EFLAGS_IOPL | EFLAGS_IF | EFLAGS_MBS
    v.events.upcall_mask = not flags & EFLAGS_IF
    q[RSP], q[RIP] = new_esp, eip
    _return(v, cs & 0xFFFF, ss & 0xFFFF)
    return int(eax)


def _return(v: X86Vcpu, cs: int, ss: int) -> None:
    """Load CS and SS; what the CPU refuses is an exception of the guest at the place it wanted to return to."""
    segments = cast(CompatSegments, v.segments)
    try:
        segments.code_and_stack(cs, ss, v.paging.root)
        drop_inner(v.cpu)
    except SelectorFault as fault:
        segments.flat_in(cs & 3, cs, ss)
        inject_hw_exception(v, EXC_GP, fault.error_code)
