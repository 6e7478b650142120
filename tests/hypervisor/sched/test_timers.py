"""Timers are data: due in the order of their deadlines, one of each key, and what is stopped or replaced costs nothing."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hypervisor.sched.timers import SPARE_ENTRIES, Timer, TimerKind, Timers, s_time

SINGLESHOT, POLL, WATCHDOG = TimerKind.SINGLESHOT, TimerKind.POLL, TimerKind.WATCHDOG


def test_a_stopped_timer_is_never_due() -> None:
    timers = Timers()
    timers.set(SINGLESHOT, 1, 0, 5)
    timers.set(SINGLESHOT, 2, 0, 6)
    timers.stop(SINGLESHOT, 1, 0)
    assert timers.next_deadline() == 6
    assert list(timers.due(10)) == [Timer(SINGLESHOT, 2, 0, 6)]
    assert timers.next_deadline() is None


def test_a_timer_stopped_by_one_that_is_due_with_it_does_not_fire() -> None:
    timers = Timers()
    timers.set(WATCHDOG, 1, 1, 5)
    timers.set(POLL, 1, 0, 6)
    fired = []
    for timer in timers.due(10):
        fired.append(timer.kind)
        timers.stop_domain(1)
    assert fired == [WATCHDOG]


def test_a_timer_set_by_one_that_is_due_waits_for_the_next_look() -> None:
    timers = Timers()
    timers.set(SINGLESHOT, 1, 0, 5)
    for timer in timers.due(10):
        timers.set(timer.kind, timer.domid, timer.index, 5)
    assert list(timers.due(10)) == [Timer(SINGLESHOT, 1, 0, 5)]


def test_setting_a_timer_again_and_again_behind_a_near_one_holds_no_memory() -> None:
    timers = Timers()
    timers.set(POLL, 1, 0, 1)
    for turn in range(100_000):
        timers.set(SINGLESHOT, 1, 0, 1_000 + turn)
    assert len(timers) == 2
    assert len(timers._heap) <= 2 * len(timers) + SPARE_ENTRIES


def test_a_guests_word_is_a_signed_time() -> None:
    assert [s_time(word) for word in (0, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)] == [
        0,
        (1 << 63) - 1,
        -(1 << 63),
        -1,
    ]


keys = st.tuples(st.sampled_from(list(TimerKind)), st.integers(0, 2), st.integers(0, 1))


class TimersMachine(RuleBasedStateMachine):
    """Against a dictionary; now and then the timers go on as what was written down of them."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.timers = Timers()
        self.model: dict[tuple[TimerKind, int, int], int] = {}

    @rule(key=keys, after=st.integers(-5, 50) | st.just(1 << 70))
    def set(self, key: tuple[TimerKind, int, int], after: int) -> None:
        self.timers.set(*key, self.now + after)
        self.model[key] = self.now + after

    @rule(key=keys)
    def stop(self, key: tuple[TimerKind, int, int]) -> None:
        self.timers.stop(*key)
        self.model.pop(key, None)

    @rule(domid=st.integers(0, 2))
    def stop_domain(self, domid: int) -> None:
        self.timers.stop_domain(domid)
        self.model = {key: when for key, when in self.model.items() if key[1] != domid}

    @rule(dt=st.integers(0, 40))
    def time_goes_on(self, dt: int) -> None:
        self.now += dt
        due = list(self.timers.due(self.now))
        expected = {key: when for key, when in self.model.items() if when <= self.now}
        assert {(t.kind, t.domid, t.index): t.deadline for t in due} == expected
        assert [t.deadline for t in due] == sorted(expected.values())
        for key in expected:
            del self.model[key]

    @rule()
    def written_down_and_read_back(self) -> None:
        restored = Timers()
        restored.restore(self.timers.snapshot())
        assert restored.snapshot() == self.timers.snapshot()
        self.timers = restored

    @invariant()
    def the_next_deadline_is_the_earliest(self) -> None:
        assert len(self.timers) == len(self.model)
        assert self.timers.next_deadline() == min(self.model.values(), default=None)
        assert all(self.timers.deadline(*key) == when for key, when in self.model.items())


TestTimers = TimersMachine.TestCase
TestTimers.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
