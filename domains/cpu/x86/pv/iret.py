"""The iret hypercall: back from a trap to where the guest says, from the nine words on its kernel stack (D5).

Kernel and user are told apart by the saved CS's RPL. The real CPU always returns to ring 3; IOPL and VM are cleared, IF is set,
and the saved IF becomes the upcall mask. Source: Xen arch/x86/pv/iret.c; the fault on a bad return, arch/x86/x86_64/entry.S.
"""

import struct
from typing import Final

from domains.cpu.x86.descriptors import SelectorFault
from domains.cpu.x86.emulator.cpu_state import RIP
from domains.cpu.x86.paging import GuestFault
from domains.cpu.x86.pv.bounce import inject_hw_exception
from domains.cpu.x86.pv.crash import crash
from domains.cpu.x86.pv.segments import COMPAT_CS
from domains.cpu.x86.pv.vcpu import X86Vcpu
from domains.cpu.x86.registers import (
    EFLAGS_ALL,
    EFLAGS_IF,
    EFLAGS_IOPL,
    EFLAGS_MBS,
    EFLAGS_VM,
    EXC_GP,
    R11,
    RCX,
    RSP,
)
from hypervisor.machine.paging import is_canonical
from hypervisor.public.arch_x86.xen_x86_64 import FLAT_KERNEL_CS, FLAT_KERNEL_SS, iret_context
from hypervisor.public.xen import VMASST_TYPE_architectural_iopl

VGCF_in_syscall: Final = 1 << 8  # of iret_context.flags: Xen public/arch-x86/xen-x86_64.h
_FRAME: Final = struct.Struct(f"<{iret_context.sizeof // 8}Q")


def do_iret(v: X86Vcpu, *_: int) -> int:
    """Perform the return; the result is the saved RAX, for RAX itself carried the hypercall's number."""
    cpu = v.cpu
    q = cpu.q
    try:
        frame: tuple[int, ...] = _FRAME.unpack(v.paging.read(q[RSP], _FRAME.size))
    except GuestFault as fault:
        crash(v, f"iret: its frame cannot be read: {fault}", walk=fault.va)
    rax, r11, rcx, flags, rip, cs, rflags, rsp, ss = frame
    if cs & 3 == 3:
        if not v.pv64.user_l4:
            crash(v, "iret to user mode with no user page tables")
        v.pv64.leave()
    if v.pv.vm_assist >> VMASST_TYPE_architectural_iopl & 1:
        v.pv.iopl = rflags & EFLAGS_IOPL
    cpu.rflags = new_flags = rflags & EFLAGS_ALL & ~(EFLAGS_IOPL | EFLAGS_VM) | EFLAGS_IF | EFLAGS_MBS
    q[RSP] = rsp
    q[RIP] = rip
    v.events.upcall_mask = not rflags & EFLAGS_IF
    cs, ss = cs & 0xFFFF | 3, ss & 0xFFFF | 3
    if flags & VGCF_in_syscall:
        q[RCX], q[R11] = rip, new_flags
        if is_canonical(rip):
            cs, ss = COMPAT_CS if cs == COMPAT_CS else FLAT_KERNEL_CS, FLAT_KERNEL_SS
    else:
        q[RCX], q[R11] = rcx, r11
    if cs == FLAT_KERNEL_CS and ss == FLAT_KERNEL_SS and is_canonical(rip):
        v.segments.flat()
    else:
        _return(v, rip, cs, ss)
    return rax


def _return(v: X86Vcpu, rip: int, cs: int, ss: int) -> None:
    """Load CS and SS; what the CPU refuses is an exception of the guest at the place it wanted to return to."""
    try:
        v.segments.code_and_stack(cs, ss, v.paging.root)
    except SelectorFault as fault:
        error_code = fault.error_code
    else:
        if is_canonical(rip):
            return
        error_code = 0
    inject_hw_exception(v, EXC_GP, error_code)
