"""A hypercall of a guest with nested paging: VMMCALL or VMCALL, by its kernel alone.

The core reads and writes the guest's memory by the guest's own tables, so where these lie goes into the mailbox before each
call. From 32-bit code only those are passed on whose arguments look the same in both ABIs.
Source: Xen arch/x86/hvm/hypercall.c (hvm_hypercall).
"""

from typing import Final

from domains.cpu.x86.cpu_state import CR
from domains.cpu.x86.hvm_effects import apply_effects
from domains.cpu.x86.hvm_vcpu import HvmVcpu
from domains.cpu.x86.raised import collect_events
from hypervisor.public.errno import Errno
from hypervisor.public.sched import SCHEDOP_block
from hypervisor.public.xen import Hypercall
from hypervisor.wire.mailbox import GuestPaging

SAME_IN_32_BITS: Final = frozenset(
    map(int, (Hypercall.console_io, Hypercall.sched_op, Hypercall.event_channel_op))
)
"""Their structures hold no address and no 64-bit word."""


def hypercall(v: HvmVcpu) -> None:
    """Perform the hypercall in the registers; its effects are in force, and its result is there, afterwards."""
    nr, args = v.mode.hypercall()
    v.exits["hypercall"] += 1
    if v.mode.cpl:
        v.mode.set_result(-Errno.EPERM)
    elif not v.mode.in_64bit_code and nr not in SAME_IN_32_BITS:
        v.exits["32-bit hypercall refused"] += 1
        v.mode.set_result(-Errno.ENOSYS)
    elif nr == Hypercall.sched_op and args[0] == SCHEDOP_block and _is_pending(v):
        v.mode.set_result(0)
    else:
        v.mode.set_result(ask(v, nr, *args))


def ask(v: HvmVcpu, nr: int, *args: int) -> int:
    """Perform hypercall `nr` in the core, and its effects here; its result."""
    v.gate.mailbox.set_guest_paging(v.vcpu_id, v.cpu.q[CR + 3], GuestPaging(v.paging.level_count))
    result, effects = v.gate.hypercall(v.vcpu_id, nr, *args)
    if effects:
        apply_effects(v, effects)
    return result


def _is_pending(v: HvmVcpu) -> bool:
    collect_events(v)
    return v.events.upcall_pending
