"""A hypercall of an HVM guest: VMMCALL or VMCALL, by its kernel alone.

The core reads and writes the guest's memory by the guest's own tables, and its structures as the code that calls has them: where
the tables lie and how wide the code is goes into the mailbox before each call.
Source: Xen arch/x86/hvm/hypercall.c (hvm_hypercall).
"""

from domains.cpu.x86.hvm.effects import apply_effects
from domains.cpu.x86.hvm.vcpu import HvmVcpu
from domains.cpu.x86.paging import GuestFault
from domains.cpu.x86.raised import collect_events
from hypervisor.public.errno import Errno
from hypervisor.public.event_channel import EVTCHNOP_send, evtchn_send
from hypervisor.public.sched import SCHEDOP_block
from hypervisor.public.xen import Hypercall
from hypervisor.wire.mailbox import GuestPaging

U64_SIZE, U32_SIZE = 8, 4


def hypercall(v: HvmVcpu) -> None:
    """Perform the hypercall in the registers; its effects are in force, and its result is there, afterwards."""
    nr, args = v.mode.hypercall()
    v.exits["hypercall"] += 1
    if v.mode.cpl:
        v.mode.set_result(-Errno.EPERM)
    elif _is_done_here(v, nr, args):
        v.mode.set_result(0)
    else:
        v.result_size = U64_SIZE if v.mode.in_64bit_code else U32_SIZE
        v.mode.set_result(ask(v, nr, *args))
        v.result_size = 0


def ask(v: HvmVcpu, nr: int, *args: int) -> int:
    """Perform hypercall `nr` in the core, and its effects here; its result."""
    paging, code32 = GuestPaging(v.paging.level_count), not v.mode.in_64bit_code
    v.gate.mailbox.set_guest_mode(v.vcpu_id, v.paging.control(3), paging, code32=code32)
    result, effects = v.gate.hypercall(v.vcpu_id, nr, *args)
    if effects:
        apply_effects(v, effects)
    return result


def _is_done_here(v: HvmVcpu, nr: int, args: tuple[int, ...]) -> bool:
    """Whether it needs no answer of the core: a block with an event pending, or an event that is certain to be sent."""
    if nr == Hypercall.sched_op:
        return args[0] == SCHEDOP_block and _is_pending(v)
    return nr == Hypercall.event_channel_op and args[0] == EVTCHNOP_send and _is_sent(v, args[1])


def _is_sent(v: HvmVcpu, argument: int) -> bool:
    """Whether the event needs no answer (event_posts.py); the port's number is read by the kernel's tables."""
    try:
        port = v.paging.read(argument, evtchn_send.sizeof)
    except GuestFault:
        return False
    return v.gate.post_event(v.vcpu_id, int.from_bytes(port, "little"))


def _is_pending(v: HvmVcpu) -> bool:
    collect_events(v)
    return v.events.upcall_pending
