"""Slices: at most one unit a CPU, nobody waits while a CPU idles, everybody gets a turn."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hypervisor.public.vcpu import RunState
from hypervisor.sched.credit2 import Credit2
from hypervisor.sched.round_robin import RoundRobin
from hypervisor.sched.scheduler import Scheduler, SchedUnit
from hypervisor.sched.slices import TURN_NS, Slices

SLICE = 10


def make(nr_cpus: int, scheduler: Scheduler | None = None) -> tuple[Slices, list[SchedUnit], list[SchedUnit]]:
    resumed: list[SchedUnit] = []
    preempted: list[SchedUnit] = []

    def overrun(unit: SchedUnit) -> None:
        slices.yield_(unit, unit.deadline)

    slices = Slices(nr_cpus, scheduler or RoundRobin(SLICE), resumed.append, preempted.append, overrun)
    return slices, resumed, preempted


def test_a_woken_unit_gets_an_idle_cpu_at_once() -> None:
    slices, resumed, _ = make(1)
    unit = SchedUnit(1, 0)
    slices.wake(unit, 0)
    assert resumed == [unit]
    assert unit.cpu == 0


def test_a_unit_whose_slice_is_over_is_asked_to_stop_only_if_somebody_waits() -> None:
    slices, _, preempted = make(1)
    first, second = SchedUnit(1, 0), SchedUnit(2, 0)
    slices.wake(first, 0)
    slices.expire(SLICE)
    assert preempted == []
    slices.wake(second, SLICE)
    slices.expire(SLICE)
    assert preempted == [first]


def test_a_unit_that_will_not_stop_is_taken_off_by_force_and_goes_on_later() -> None:
    slices, resumed, preempted = make(1)
    hog, other = SchedUnit(1, 0), SchedUnit(2, 0)
    slices.wake(hog, 0)
    slices.wake(other, 1)
    slices.expire(SLICE)
    assert preempted == [hog]
    slices.expire(hog.deadline)
    assert resumed == [hog, other]
    slices.sleep(other, hog.deadline + 5)
    assert resumed == [hog, other, hog]


def test_units_take_turns_in_the_order_in_which_they_came() -> None:
    slices, resumed, _ = make(1)
    units = [SchedUnit(i, 0) for i in range(3)]
    for unit in units:
        slices.wake(unit, 0)
    for turn in range(6):
        slices.yield_(resumed[-1], turn)
    assert [unit.domid for unit in resumed] == [0, 1, 2, 0, 1, 2, 0]


def test_the_units_of_a_domain_take_turns_even_when_cpus_idle() -> None:
    slices, resumed, preempted = make(2)
    first, second = SchedUnit(1, 0), SchedUnit(1, 1)
    slices.wake(first, 0)
    slices.wake(second, 0)
    assert resumed == [first]
    assert slices.next_deadline() == TURN_NS
    slices.expire(TURN_NS)
    assert preempted == [first]
    slices.yield_(first, TURN_NS)
    assert resumed == [first, second]
    slices.sleep(second, TURN_NS + 1)
    assert resumed == [first, second, first]


def test_time_in_each_run_state_adds_up_to_the_time_that_passed() -> None:
    slices, _, _ = make(1)
    first, second = SchedUnit(1, 0), SchedUnit(2, 0)
    slices.wake(first, 5)
    slices.wake(second, 7)
    slices.yield_(first, 20)
    slices.sleep(second, 30)
    assert sum(first.runstate.times(100)) == 100
    assert second.runstate.times(100)[RunState.RUNSTATE_blocked] == 70
    assert second.runstate.times(100)[RunState.RUNSTATE_runnable] == 13


class SlicesMachine(RuleBasedStateMachine):
    policy: type[Scheduler] = RoundRobin

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.slices, self.resumed, self.preempted = make(2, self.policy())
        self.units = [SchedUnit(i // 2, i % 2) for i in range(6)]

    @rule(i=st.integers(0, 5), dt=st.integers(0, 15_000_000))
    def wake(self, i: int, dt: int) -> None:
        self.now += dt
        self.slices.wake(self.units[i], self.now)

    @rule(i=st.integers(0, 5))
    def sleep(self, i: int) -> None:
        self.slices.sleep(self.units[i], self.now)

    @rule(i=st.integers(0, 5))
    def yield_(self, i: int) -> None:
        self.slices.yield_(self.units[i], self.now)

    @rule(dt=st.integers(0, 30_000_000))
    def expire(self, dt: int) -> None:
        self.now += dt
        self.slices.expire(self.now)

    @invariant()
    def one_unit_a_cpu_and_no_idle_cpu_while_one_waits(self) -> None:
        holders = [unit for unit in self.slices.cpus if unit is not None]
        running = [u for u in self.units if u.runstate.state is RunState.RUNSTATE_running]
        assert sorted(u.domid for u in holders) == sorted(u.domid for u in running)
        assert len({u.domid for u in running}) == len(running), "two units of a domain run"
        assert all(self.slices.cpus[u.cpu] is u for u in running if u.cpu is not None)
        waiting = [u for u in self.units if u.runstate.state is RunState.RUNSTATE_runnable]
        idle = None in self.slices.cpus
        assert not idle or {u.domid for u in waiting} <= {u.domid for u in running}


class Credit2Machine(SlicesMachine):
    """Now and then the policy goes on as what was written down of it."""

    policy = Credit2

    @rule()
    def written_down_and_read_back(self) -> None:
        before = self.slices.pools.first.scheduler
        assert isinstance(before, Credit2)
        after = Credit2()
        after.restore(before.snapshot(), {unit.key: unit for unit in self.units})
        assert after.snapshot() == before.snapshot()
        self.slices.pools.first.scheduler = after


TestSlices = SlicesMachine.TestCase
TestCredit2 = Credit2Machine.TestCase
TestSlices.settings = TestCredit2.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
