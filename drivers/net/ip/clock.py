"""The time that a stack lives by: what it needs of a Kernel, and an alarm that is set again and again."""

from collections.abc import Callable
from typing import Final, Protocol

SECOND: Final = 10**9
"""In nanoseconds."""


class Timer(Protocol):
    """A callback that will come; `cancel` is harmless when it has."""

    def cancel(self) -> None:
        """The callback is not called any more."""


class Clock(Protocol):
    """Nanoseconds that never go back, and callbacks after seconds."""

    def now(self) -> int:
        """Time in ns, which never goes back."""

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Has `callback` called once, after `seconds`."""


class Alarm:
    """Calls `ring` once when its time has come. Put off, as most alarms of TCP are, it costs no new timer."""

    def __init__(self, clock: Clock, ring: Callable[[], None]) -> None:
        self._clock = clock
        self._ring = ring
        self._due: int | None = None
        self._timer: Timer | None = None
        self._timer_due = 0

    @property
    def is_set(self) -> bool:
        """Whether it will ring."""
        return self._due is not None

    def set(self, nanoseconds: int) -> None:
        """Ring in so much time from now, and not when it was set to before."""
        self._due = self._clock.now() + nanoseconds
        if self._timer is None or self._timer_due > self._due:
            self._start(self._due, nanoseconds)

    def clear(self) -> None:
        """Do not ring."""
        self._due = None

    def _start(self, due: int, nanoseconds: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._clock.call_later(nanoseconds / SECOND, self._fire)

    def _fire(self) -> None:
        self._timer = None
        if self._due is None:
            return
        left = self._due - self._clock.now()
        if left > 0:
            self._start(self._due, left)
            return
        self._due = None
        self._ring()
