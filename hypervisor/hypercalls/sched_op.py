"""sched_op and set_timer_op: the only hypercalls that wait (Xen common/sched/core.c, public/sched.h)."""

from __future__ import annotations

from typing import Final

from hypervisor.hypercalls.call import Blocked, Call, Result, SubOp
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.sched import (
    SCHEDOP_block,
    SCHEDOP_poll,
    SCHEDOP_remote_shutdown,
    SCHEDOP_shutdown,
    SCHEDOP_shutdown_code,
    SCHEDOP_watchdog,
    SCHEDOP_yield,
    sched_poll,
    sched_remote_shutdown,
    sched_shutdown,
    sched_watchdog,
)
from hypervisor.public.xen import Hypercall, shared_info
from hypervisor.sched.timers import TimerKind, s_time

MAX_POLL_PORTS: Final = 128
NR_WATCHDOG_TIMERS: Final = 2
MAX_SHUTDOWN_CODE: Final = 255
NS_PER_S: Final = 10**9
MAX_SET_TIMER_NS: Final = 1 << 50
"""A set_timer_op at least this far ahead is taken for a mistake of the guest's (about 13 days)."""
HUGE_TIMEOUT_NS: Final = 100_000_000
"""When such a timer fires instead."""


def do_yield(call: Call, _arg: int) -> Result:
    """The others' turn; then 0."""
    call.vcpu.unit.preempting = call.vcpu.unit.yielding = True
    return 0


def do_block(call: Call, _arg: int) -> Result:
    """Sleep until an event comes. An event the process had not seen when it asked is one that came (docs/events.md)."""
    if call.domain.mailbox.counter(call.vcpu.vcpu_id) != call.events_seen:
        return 0
    call.hv.run.vcpu_block(call.vcpu)
    return Blocked()


def do_poll(call: Call, arg: int) -> Result:
    """Sleep until one of the ports is pending or `timeout` (system time, ns; 0: none) has come (E11)."""
    poll = call.read(arg, sched_poll)
    if poll.nr_ports > MAX_POLL_PORTS:
        raise XenError(Errno.EINVAL, f"poll of {poll.nr_ports} ports")
    raw = call.copy_from_guest(poll.ports, 4 * poll.nr_ports) if poll.nr_ports else b""
    ports = tuple(int.from_bytes(raw[i : i + 4], "little") for i in range(0, len(raw), 4))
    events, hv = call.domain.events, call.hv
    for port in ports:
        events.channel(port)
    moved = call.domain.mailbox.counter(call.vcpu.vcpu_id) != call.events_seen
    if any(_pending(call, port) for port in ports) or (moved and not ports):
        return 0
    timeout = s_time(poll.timeout)
    if timeout and timeout <= hv.now():
        return 0
    events.poll(call.vcpu.vcpu_id, ports)
    if timeout:
        hv.timers.set(TimerKind.POLL, call.domain.domid, call.vcpu.vcpu_id, timeout)
    hv.run.vcpu_block(call.vcpu, ports)
    return Blocked()


def _pending(call: Call, port: int) -> bool:
    """Raised but not yet applied, or pending in the guest's own page: a wrong word there hurts only the caller (E12)."""
    if call.domain.mailbox.is_raised(port):
        return True
    pending = call.domain.shared_abi.layout(shared_info).offsetof("evtchn_pending")
    octet = (call.domain.shared_info << 12) + pending + port // 8
    return bool(call.hv.memory.read(octet, 1)[0] >> (port & 7) & 1)


def do_shutdown(call: Call, arg: int) -> Result:
    """Ends the caller's domain with a reason; the vCPU never returns."""
    reason = call.read(arg, sched_shutdown).reason
    call.hv.log.line(f"d{call.domain.domid} shuts down, reason {reason}")
    if call.vcpu.run.nr == Hypercall.sched_op:
        call.vcpu.run.cancelled = 1
    call.hv.shutdown(call.domain, reason & MAX_SHUTDOWN_CODE)
    return Blocked()


def do_shutdown_code(call: Call, arg: int) -> Result:
    """Say beforehand what the domain's shutdown is to count as, whoever makes it; the code that was set first stays."""
    reason = call.read(arg, sched_shutdown).reason & MAX_SHUTDOWN_CODE
    if call.domain.shutdown_code is None:
        call.domain.shutdown_code = reason
    return 0


def do_remote_shutdown(call: Call, arg: int) -> Result:
    """Ends another domain with a reason, for Dom0. EPERM; ESRCH: no such domain, or the caller's own."""
    call.require_control()
    remote = call.read(arg, sched_remote_shutdown)
    target = call.hv.domain(remote.domain_id)
    if target is call.domain:
        raise XenError(Errno.ESRCH, "a remote shutdown is for another domain")
    call.hv.shutdown(target, remote.reason & MAX_SHUTDOWN_CODE)
    return 0


def do_watchdog(call: Call, arg: int) -> Result:
    """Set (id 0: a new one), change or (timeout 0) stop a watchdog timer of the domain; when it fires, the domain shuts down."""
    watchdog = call.read(arg, sched_watchdog)
    hv, domain = call.hv, call.domain
    if watchdog.id > NR_WATCHDOG_TIMERS:
        raise XenError(Errno.EINVAL, f"there is no watchdog {watchdog.id}")
    slot = watchdog.id
    if slot == 0:
        if watchdog.timeout == 0:
            raise XenError(Errno.EINVAL, "a new watchdog needs a timeout")
        free = [i for i in range(1, NR_WATCHDOG_TIMERS + 1) if i not in domain.watchdogs]
        if not free:
            raise XenError(Errno.ENOSPC, "all watchdogs are in use")
        slot = free[0]
    elif slot not in domain.watchdogs:
        raise XenError(Errno.EINVAL, f"watchdog {slot} is not in use")
    if watchdog.timeout:
        domain.watchdogs.add(slot)
        hv.timers.set(TimerKind.WATCHDOG, domain.domid, slot, hv.now() + watchdog.timeout * NS_PER_S)
    else:
        domain.watchdogs.remove(slot)
        hv.timers.stop(TimerKind.WATCHDOG, domain.domid, slot)
    return slot if watchdog.id == 0 else 0


SCHED_OPS: Final[dict[int, SubOp]] = {
    SCHEDOP_yield: do_yield,
    SCHEDOP_block: do_block,
    SCHEDOP_poll: do_poll,
    SCHEDOP_shutdown: do_shutdown,
    SCHEDOP_shutdown_code: do_shutdown_code,
    SCHEDOP_remote_shutdown: do_remote_shutdown,
    SCHEDOP_watchdog: do_watchdog,
}


def do_sched_op(call: Call) -> Result:
    """Gives up the CPU, waits, or ends the domain. ENOSYS: no such operation."""
    op = SCHED_OPS.get(call.args[0])
    if op is None:
        raise XenError(Errno.ENOSYS, f"sched_op {call.args[0]}")
    return op(call, call.args[1])


def do_set_timer_op(call: Call) -> Result:
    """VIRQ_TIMER at `timeout` (system time, ns); 0 stops it. A time that has passed fires at once.

    A 32-bit guest gives its two halves. One that is negative or further away than MAX_SET_TIMER_NS fires soon: Linux means by it
    that something is to be done, old guests mean that there is nothing to wait for, and Xen serves both.
    """
    vcpu, timers, now = call.vcpu, call.hv.timers, call.hv.now()
    low, high = call.args[:2]
    timeout = s_time(low if call.abi.address_size == 64 else high << 32 | low)
    if timeout == 0:
        timers.stop(TimerKind.SINGLESHOT, vcpu.domain.domid, vcpu.vcpu_id)
        return 0
    if timeout < 0 or timeout - now >= MAX_SET_TIMER_NS:
        timeout = now + HUGE_TIMEOUT_NS
    timers.set(TimerKind.SINGLESHOT, vcpu.domain.domid, vcpu.vcpu_id, timeout)
    return 0
