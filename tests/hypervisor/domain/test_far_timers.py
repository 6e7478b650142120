"""A guest's times, of any size: the machine serves others whatever number a guest gives.

The core once handed the nearest deadline to epoll as it was, and epoll refuses what does not fit its number of milliseconds:
one timer more than 24 days ahead, set by any guest, ended the core and with it the machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from domains.lab.in_process import StandingClock
from hypervisor.domain.lifecycle import process_gone
from hypervisor.hypercalls.sched_op import HUGE_TIMEOUT_NS, MAX_SET_TIMER_NS
from hypervisor.public.errno import Errno
from hypervisor.public.layout import Struct
from hypervisor.public.sched import (
    SCHEDOP_poll,
    SCHEDOP_watchdog,
    SHUTDOWN_poweroff,
    sched_poll,
    sched_watchdog,
)
from hypervisor.public.vcpu import (
    VCPUOP_set_periodic_timer,
    VCPUOP_set_singleshot_timer,
    VCPUOP_stop_periodic_timer,
    vcpu_set_periodic_timer,
    vcpu_set_singleshot_timer,
)
from hypervisor.public.xen import Hypercall
from hypervisor.sched.timers import TimerKind
from tests.inprocess import BLOCKED, Built, InProcess
from tests.machines import Machine

EXTREMES = [0, 1, 1 << 31, 1 << 32, (1 << 50) - 1, 1 << 50, (1 << 50) + 1, 1 << 62]
EXTREMES += [(1 << 63) - 1, 1 << 63, (1 << 64) - 1]
NOW = 1_000_000_000
SINGLESHOT, PERIODIC, POLL, WATCHDOG = (
    TimerKind.SINGLESHOT,
    TimerKind.PERIODIC,
    TimerKind.POLL,
    TimerKind.WATCHDOG,
)


class Guest:
    """A guest on a machine whose clock stands still at NOW."""

    def __init__(self, machine: InProcess) -> None:
        self.machine = machine
        self.built: Built = machine.build()
        self.timers = machine.hv.timers

    def call(self, nr: int, cmd: int, record: Struct, *, vcpu_op: bool = False) -> int | object:
        self.machine.hv.mmu.guest.copy_to_guest(self.built.vcpu.mem, self.built.scratch, record.pack())
        args = (cmd, 0, self.built.scratch) if vcpu_op else (cmd, self.built.scratch)
        return self.machine.hypercall(self.built.vcpu, nr, *args)

    def set_timer(self, timeout: int) -> int | object:
        return self.machine.hypercall(self.built.vcpu, Hypercall.set_timer_op, timeout)

    def poll(self, timeout: int) -> int | object:
        return self.call(Hypercall.sched_op, SCHEDOP_poll, sched_poll(timeout=timeout))

    def periodic(self, period: int) -> int | object:
        record = vcpu_set_periodic_timer(period_ns=period)
        return self.call(Hypercall.vcpu_op, VCPUOP_set_periodic_timer, record, vcpu_op=True)

    def singleshot(self, when: int) -> int | object:
        record = vcpu_set_singleshot_timer(timeout_abs_ns=when)
        return self.call(Hypercall.vcpu_op, VCPUOP_set_singleshot_timer, record, vcpu_op=True)

    def watchdog(self, number: int, seconds: int) -> int | object:
        record = sched_watchdog(id=number, timeout=seconds)
        return self.call(Hypercall.sched_op, SCHEDOP_watchdog, record)

    def deadline(self, kind: TimerKind, index: int = 0) -> int | None:
        return self.timers.deadline(kind, self.built.domain.domid, index)


@pytest.fixture
def guest() -> Iterator[Guest]:
    clock = StandingClock(NOW)
    machine = InProcess(clock=clock)
    try:
        yield Guest(machine)
    finally:
        machine.close()


@pytest.mark.parametrize("timeout", EXTREMES)
def test_a_set_timer_op_that_is_negative_or_too_far_ahead_fires_soon(guest: Guest, timeout: int) -> None:
    assert guest.set_timer(timeout) == 0
    huge = timeout >> 63 or timeout - NOW >= MAX_SET_TIMER_NS
    expected = None if timeout == 0 else NOW + HUGE_TIMEOUT_NS if huge else timeout
    assert guest.deadline(SINGLESHOT) == expected


@pytest.mark.parametrize("timeout", EXTREMES)
def test_a_far_poll_waits_and_a_negative_one_is_over(guest: Guest, timeout: int) -> None:
    over = timeout >> 63 or 0 < timeout <= NOW
    assert guest.poll(timeout) == (0 if over else BLOCKED)
    assert guest.deadline(POLL) == (None if over or timeout == 0 else timeout)


@pytest.mark.parametrize("period", EXTREMES)
def test_a_period_lies_between_a_millisecond_and_a_quarter_of_all_time(guest: Guest, period: int) -> None:
    allowed = 1_000_000 <= period < 1 << 62
    assert guest.periodic(period) == (0 if allowed else -Errno.EINVAL)
    assert guest.deadline(PERIODIC) == (NOW + period if allowed else None)


@pytest.mark.parametrize("when", EXTREMES)
def test_a_single_shot_with_its_top_bit_set_is_long_past(guest: Guest, when: int) -> None:
    assert guest.singleshot(when) == 0
    assert guest.deadline(SINGLESHOT) == (when - (1 << 64) if when >> 63 else when)


@pytest.mark.parametrize("seconds", [1, 1 << 31, (1 << 32) - 1])
def test_a_far_watchdog_waits(guest: Guest, seconds: int) -> None:
    assert guest.watchdog(0, seconds) == 1
    assert guest.deadline(WATCHDOG, 1) == NOW + seconds * 10**9


def test_a_periodic_timer_ticks_until_it_is_stopped(guest: Guest) -> None:
    assert isinstance(guest.machine.hv.clock, StandingClock)
    assert guest.periodic(1_000_000) == 0
    for tick in range(1, 4):
        guest.machine.hv.clock.time = NOW + tick * 1_000_000
        guest.machine.background()
        assert guest.deadline(PERIODIC) == NOW + (tick + 1) * 1_000_000
    stop = vcpu_set_periodic_timer()
    assert guest.call(Hypercall.vcpu_op, VCPUOP_stop_periodic_timer, stop, vcpu_op=True) == 0
    assert guest.deadline(PERIODIC) is None


def test_a_watchdog_shuts_its_domain_down_and_does_not_outlive_it(guest: Guest) -> None:
    """A watchdog that stayed would have met the next domain of the same id."""
    assert guest.watchdog(0, 1) == 1
    assert guest.set_timer(NOW + 10**10) == 0
    guest.machine.destroy(guest.built.domain)
    assert len(guest.timers) == 0
    other = Guest(guest.machine)
    assert other.watchdog(0, 1) == 1
    assert isinstance(guest.machine.hv.clock, StandingClock)
    guest.machine.hv.clock.time = NOW + 10**9
    guest.machine.background()
    assert other.built.domain.is_shut_down


def test_a_watchdog_says_nothing_of_a_domain_that_has_shut_down(guest: Guest) -> None:
    """Xen common/sched/core.c, domain_watchdog_timeout: a domain may be kept for a look at it (on_poweroff="preserve")."""
    assert guest.watchdog(0, 1) == 1
    hv = guest.machine.hv
    hv.shutdown(guest.built.domain, int(SHUTDOWN_poweroff))
    assert isinstance(hv.clock, StandingClock)
    hv.clock.time = NOW + 10**9
    guest.machine.background()
    assert guest.built.domain.shutdown_code == SHUTDOWN_poweroff
    assert b"watchdog" not in hv.log.read()


def test_a_domain_whose_process_dies_takes_its_timers_along(guest: Guest) -> None:
    assert guest.set_timer(NOW + 10**10) == 0
    process_gone(guest.machine.hv, guest.built.domain)
    assert guest.deadline(SINGLESHOT) is None
    while guest.machine.hv.work:
        guest.machine.background()


FAR = """
from hypervisor.public.sched import SCHEDOP_poll, SCHEDOP_watchdog, sched_poll, sched_watchdog
from hypervisor.public.vcpu import *

FAR = 40 * 86400 * 10**9


class Probe(Guest):
    def main(self):
        calls, numbers = self.kernel.hypercalls, [1 << 31, 1 << 50, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
        for number in numbers:
            calls.hypercall_set_timer_op(number)
            record = vcpu_set_singleshot_timer(timeout_abs_ns=number)
            calls.hypercall_vcpu_op(VCPUOP_set_singleshot_timer, 0, record)
        calls.hypercall_set_timer_op(0)
        calls.hypercall_vcpu_op(VCPUOP_set_periodic_timer, 0, vcpu_set_periodic_timer(period_ns=FAR))
        calls.hypercall_vcpu_op(
            VCPUOP_set_singleshot_timer, 0, vcpu_set_singleshot_timer(timeout_abs_ns=FAR)
        )
        calls.hypercall_sched_op(SCHEDOP_watchdog, sched_watchdog(id=0, timeout=40 * 86400))
        while True:
            calls.hypercall_sched_op(SCHEDOP_poll, sched_poll(timeout=FAR))
"""
ALIVE = """
class Probe(Guest):
    def main(self):
        print("alive")
"""


def test_a_machine_whose_nearest_deadline_is_far_serves_others(
    clean_machine: Machine, tmp_path: Path
) -> None:
    assert clean_machine.guest(tmp_path, FAR, name="far").returncode == 0
    assert "alive" in clean_machine.guest(tmp_path, ALIVE, "-c", name="alive").stdout
    assert clean_machine.xenctl("destroy", "far").returncode == 0
    assert "hypervisor bug" not in clean_machine.xenctl("dmesg").stdout
