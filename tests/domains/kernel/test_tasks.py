"""Tasks in a loop: they go on at what they wait for, once, in order, and a source never runs beside its own task."""

import pytest

from domains.kernel.loop import SPARE_TIMERS, Loop
from domains.kernel.tasks import NEXT_TURN, Pause, Signal, Task


def drain(loop: Loop) -> None:
    while loop.run_one():
        pass


def test_a_task_goes_on_when_its_signal_is_sent_and_not_before() -> None:
    loop, signal, seen = Loop(), Signal(), []

    def task() -> Task[str]:
        seen.append("begun")
        yield Pause((signal,))
        seen.append("told")
        yield Pause((signal,))
        return "result"

    loop.spawn(task(), seen.append)
    drain(loop)
    assert seen == ["begun"]
    signal.send()
    drain(loop)
    assert seen == ["begun", "told"]
    signal.send()
    drain(loop)
    assert seen == ["begun", "told", "result"]


def test_of_several_signals_and_a_deadline_the_first_wakes_once() -> None:
    loop, one, other, seen = Loop(), Signal(), Signal(), []

    def task() -> Task[None]:
        for _ in range(3):
            yield Pause((one, other), deadline=100)
            seen.append(1)

    loop.spawn(task())
    drain(loop)
    one.send()
    other.send()
    drain(loop)
    assert len(seen) == 1
    other.send()
    one.send()
    drain(loop)
    assert len(seen) == 2
    assert loop.fire(100)
    one.send()
    drain(loop)
    assert len(seen) == 3
    assert loop.next_deadline() is None


def test_a_task_that_yields_its_turn_lets_everybody_else_run_first() -> None:
    loop, seen = Loop(), []

    def task() -> Task[None]:
        for step in range(3):
            seen.append(f"task {step}")
            yield NEXT_TURN

    loop.spawn(task())
    for name in "ab":
        loop.call_soon(lambda name=name: seen.append(name))
    drain(loop)
    assert seen == ["task 0", "a", "b", "task 1", "task 2"]


def test_a_source_whose_task_is_under_way_runs_once_more_after_it() -> None:
    loop, signal, seen = Loop(), Signal(), []

    def handler() -> Task[None]:
        seen.append("begins")
        yield Pause((signal,))
        seen.append("ends")

    source = loop.source(handler)
    source.trigger()
    drain(loop)
    source.trigger()
    drain(loop)
    source.trigger()
    drain(loop)
    assert seen == ["begins"]
    signal.send()
    drain(loop)
    assert seen == ["begins", "ends", "begins"]
    signal.send()
    drain(loop)
    assert seen == ["begins", "ends", "begins", "ends"]


def test_what_a_task_raises_goes_to_who_asked_for_it_or_to_who_runs_the_loop() -> None:
    loop = Loop()
    failures: list[BaseException] = []

    def broken() -> Task[None]:
        yield NEXT_TURN
        raise LookupError

    loop.spawn(broken(), failed=failures.append)
    drain(loop)
    assert [type(failure) for failure in failures] == [LookupError]
    loop.spawn(broken())
    with pytest.raises(LookupError):
        drain(loop)
    source = loop.source(broken)
    for _ in range(2):  # a source whose task has failed can run again
        source.trigger()
        with pytest.raises(LookupError):
            drain(loop)


def test_cancelled_timers_do_not_pile_up_behind_one_that_is_far_away() -> None:
    loop = Loop()
    loop.call_at(1_000_000, lambda: None)
    for deadline in range(10_000):
        loop.call_at(1_000 + deadline, lambda: None).cancel()
    loop.call_at(1, lambda: None)
    assert len(loop._timers) <= 2 * SPARE_TIMERS + 2
    assert loop.next_deadline() == 1
