"""The loop of a Python kernel: sources run once per trigger, in order."""

from functools import partial

from domains.kernel.loop import Loop


def drain(loop: Loop) -> None:
    while loop.run_one():
        pass


def test_sources_run_in_the_order_of_their_triggers() -> None:
    loop = Loop()
    seen: list[object] = []
    for name in "abc":
        loop.source(partial(seen.append, name)).trigger()
    drain(loop)
    assert seen == ["a", "b", "c"]


def test_triggers_before_the_run_coalesce() -> None:
    loop = Loop()
    seen: list[object] = []
    source = loop.source(lambda: seen.append(1))
    source.trigger()
    source.trigger()
    drain(loop)
    assert seen == [1]


def test_a_handler_that_raises_can_run_again() -> None:
    loop, calls = Loop(), []

    def handler() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise ValueError

    source = loop.source(handler)
    for _ in range(2):
        source.trigger()
        try:
            drain(loop)
        except ValueError:
            continue
    assert len(calls) == 2


def test_a_source_without_callback_is_cancelled() -> None:
    loop = Loop()
    seen: list[object] = []
    source = loop.source(lambda: seen.append(1))
    source.trigger()
    source.callback = None
    drain(loop)
    assert seen == []


def test_timers_fire_in_order_of_their_deadlines_and_only_when_due() -> None:
    loop = Loop()
    seen: list[object] = []
    for deadline in (30, 10, 20, 20):
        loop.call_at(deadline, partial(seen.append, deadline))
    assert loop.next_deadline() == 10
    assert not loop.fire(9)
    assert loop.fire(20)
    drain(loop)
    assert seen == [10, 20, 20]
    assert loop.next_deadline() == 30


def test_a_cancelled_timer_neither_fires_nor_sets_the_next_deadline() -> None:
    loop = Loop()
    seen: list[object] = []
    loop.call_at(10, lambda: seen.append(10)).cancel()
    assert loop.next_deadline() is None
    loop.fire(100)
    drain(loop)
    assert seen == []
