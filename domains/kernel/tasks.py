"""Long things as tasks: generators that say what they wait for, so that nothing in a kernel waits but its loop.

    def closed(device) -> Task[bool]:
        device.switch(XenbusStateClosing)
        yield from kernel.until(lambda: device.peer is XenbusStateClosed, device.changed, timeout=10)

A task yields a Pause: it goes on when one of the pause's signals is sent, or at its deadline, or, when it names neither,
after everybody else had a turn. `yield from` calls another task and gives its result. The loop drives tasks
(loop.py); straight-line code drives one with `Kernel.run`, which waits.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Final, NamedTuple, TypeVar

T = TypeVar("T")


class Signal:
    """Something that happens now and then. `send` wakes those that wait at that moment, and is not remembered:
    a task that waits for a condition looks at the condition first."""

    __slots__ = ("_wakers",)

    def __init__(self) -> None:
        self._wakers: dict[Callable[[], None], None] = {}

    def send(self) -> None:
        """It has happened. Only handlers and tasks may say so, not an upcall."""
        wakers, self._wakers = self._wakers, {}
        for wake in wakers:
            wake()

    def add(self, wake: Callable[[], None]) -> None:
        """Have `wake` called the next time, once."""
        self._wakers[wake] = None

    def discard(self, wake: Callable[[], None]) -> None:
        """Take that back; harmless if it was called."""
        self._wakers.pop(wake, None)


class Pause(NamedTuple):
    """What a task waits for: the first of these. `deadline` is a system time in nanoseconds."""

    signals: tuple[Signal, ...] = ()
    deadline: int | None = None


Task = Generator[Pause, None, T]
"""A task whose result is a T."""

NEXT_TURN: Final = Pause()
"""Go on after everybody else had a turn: long work is cut into pieces with it."""
