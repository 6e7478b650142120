"""Credit2: shares are kept, who sleeps most is served first, and nobody waits for ever."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypervisor.public.vcpu import RunState
from hypervisor.sched.credit2 import CREDIT_INIT_NS, Credit2
from hypervisor.sched.params import CreditParams
from hypervisor.sched.policy import MIN_SLICE_NS
from hypervisor.sched.scheduler import SchedUnit
from hypervisor.sched.slices import Slices

MS = 1_000_000


class Cpus:
    """A machine's CPUs whose units stop at once when they are asked to, and time that is the test's."""

    def __init__(self, nr_cpus: int) -> None:
        self.now = 0
        self.ran: list[SchedUnit] = []
        self.asked: list[SchedUnit] = []
        self.policy = Credit2()
        self.slices = Slices(nr_cpus, self.policy, self.ran.append, self.asked.append, self.refuse)

    def refuse(self, unit: SchedUnit) -> None:
        raise AssertionError(f"{unit} was taken off by force")

    def stop_asked(self) -> None:
        while self.asked:
            self.slices.yield_(self.asked.pop(), self.now)

    def compute(self, duration: int) -> None:
        """Let whoever runs compute, slice by slice."""
        end = self.now + duration
        while self.now < end:
            deadline = self.slices.next_deadline()
            self.now = min(end, max(deadline, self.now)) if deadline is not None else end
            self.slices.expire(self.now)
            self.stop_asked()

    def wake(self, unit: SchedUnit) -> None:
        self.slices.wake(unit, self.now)
        self.stop_asked()

    def sleep(self, unit: SchedUnit) -> None:
        self.slices.sleep(unit, self.now)

    def time_of(self, unit: SchedUnit) -> int:
        return unit.runstate.times(self.now)[RunState.RUNSTATE_running]


def test_who_wakes_takes_the_cpu_of_who_has_computed_all_the_time() -> None:
    cpus = Cpus(2)
    hog, busy, quiet = (SchedUnit(i, 0) for i in range(3))
    cpus.wake(hog)
    cpus.compute(50 * MS)
    cpus.wake(busy)
    for _ in range(100):
        cpus.compute(3 * MS)
        cpus.wake(quiet)
        assert quiet.cpu is not None
        cpus.compute(MS // 10)
        cpus.sleep(quiet)


def test_of_two_that_run_the_one_that_has_used_more_gives_way() -> None:
    cpus = Cpus(2)
    hog, fresh, woken = (SchedUnit(i, 0) for i in range(3))
    cpus.wake(hog)
    cpus.compute(8 * MS)
    cpus.wake(fresh)
    cpus.slices.wake(woken, cpus.now)
    assert cpus.asked == [hog]


def test_who_has_slept_long_has_no_more_than_a_little_over_one_round() -> None:
    cpus = Cpus(1)
    sleeper, other = SchedUnit(0, 0), SchedUnit(1, 0)
    cpus.wake(sleeper)
    cpus.sleep(sleeper)
    cpus.wake(other)
    cpus.compute(10_000 * MS)
    before = cpus.time_of(other)
    cpus.wake(sleeper)
    cpus.compute(4 * CREDIT_INIT_NS)
    assert cpus.time_of(other) - before >= CREDIT_INIT_NS


@pytest.mark.parametrize("weights", [(256, 256), (256, 512), (64, 256, 1024)])
def test_who_computes_gets_its_share_by_weight(weights: tuple[int, ...]) -> None:
    cpus = Cpus(1)
    units = [SchedUnit(i, 0) for i in range(len(weights))]
    for unit, weight in zip(units, weights, strict=True):
        cpus.slices.add(unit, 0)
        cpus.policy.adjust(unit.domid, CreditParams(weight), 0)
        cpus.wake(unit)
    cpus.compute(4000 * MS)
    for unit, weight in zip(units, weights, strict=True):
        share = cpus.time_of(unit) / cpus.now
        assert share == pytest.approx(weight / sum(weights), rel=0.1)


def test_who_sleeps_and_wakes_to_be_first_gets_no_more_than_its_share() -> None:
    cpus = Cpus(1)
    trickster, honest = SchedUnit(0, 0), SchedUnit(1, 0)
    cpus.wake(honest)
    for _ in range(1000):
        cpus.wake(trickster)
        cpus.compute(2 * MS)
        cpus.sleep(trickster)
        cpus.compute(MS // 20)
    assert cpus.time_of(honest) > 0.4 * cpus.now


def test_who_yields_lets_the_others_run() -> None:
    cpus = Cpus(1)
    units = [SchedUnit(i, 0) for i in range(3)]
    for unit in units:
        cpus.wake(unit)
    turns: Counter[int] = Counter()
    for _ in range(30):
        running = cpus.ran[-1]
        turns[running.domid] += 1
        running.yielding = True
        cpus.slices.yield_(running, cpus.now)
    assert turns == {0: 10, 1: 10, 2: 10}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 8 * MS)), min_size=1, max_size=200))
def test_who_can_run_waits_for_a_round_of_all_the_others_at_most(steps: list[tuple[int, int]]) -> None:
    """However the others sleep and wake, compute and yield."""
    cpus, waiting = Cpus(1), SchedUnit(9, 0)
    others = [SchedUnit(i, 0) for i in range(5)]
    cpus.wake(waiting)
    last = 0
    for who, duration in steps:
        if who < len(others):
            unit = others[who]
            (cpus.sleep if unit.cpu is not None else cpus.wake)(unit)
        before = cpus.time_of(waiting)
        cpus.compute(duration)
        last = cpus.now if cpus.time_of(waiting) > before else last
        assert cpus.now - last <= 8 * MS + len(others) * (2 * CREDIT_INIT_NS + MIN_SLICE_NS)
