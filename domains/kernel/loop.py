"""What a Python kernel has to run: ready handlers in order of arrival, and timers.

    source.trigger() ──► ready ──run_one()──► handler          call_later ──► timers ──due──► ready

A Source is one thing that can happen again and again (an event channel, a descriptor). Triggered twice before
it ran, it runs once; triggered while it runs, it runs again afterwards; it never nests into itself, even when
its handler waits. Upcalls may trigger at any instruction: `trigger` is one append to a deque.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from itertools import count

Callback = Callable[[], None]


class Source:
    """A handler and whether it is queued or running."""

    __slots__ = ("_again", "_loop", "_queued", "_running", "callback")

    def __init__(self, loop: Loop, callback: Callback | None) -> None:
        self.callback = callback
        """None: cancelled; what is queued does nothing."""
        self._loop = loop
        self._queued = self._running = self._again = False

    def trigger(self) -> None:
        """Have the handler run once more."""
        if not self._queued:
            self._queued = True
            self._loop.ready.append(self)

    def run(self) -> None:
        """Run the handler now, unless it is running already further up the stack; then after it."""
        self._queued = False
        if self._running:
            self._again = True
            return
        self._running = True
        try:
            if self.callback is not None:
                self.callback()
        finally:
            self._running = False
            if self._again:
                self._again = False
                self.trigger()


class Timer:
    """One callback due at `deadline` (system time, nanoseconds)."""

    __slots__ = ("callback", "deadline")

    def __init__(self, deadline: int, callback: Callback) -> None:
        self.deadline = deadline
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        """Never run it; harmless if it has run."""
        self.callback = None

    def fire(self) -> None:
        """Run it, once."""
        callback, self.callback = self.callback, None
        if callback is not None:
            callback()


class Loop:
    """Ready sources and timers. Whoever runs it says what time it is."""

    def __init__(self) -> None:
        self.ready: deque[Source] = deque()
        self._timers: list[tuple[int, int, Timer]] = []
        self._order = count()

    def source(self, callback: Callback) -> Source:
        """A new source for `callback`."""
        return Source(self, callback)

    def call_soon(self, callback: Callback) -> None:
        """Run `callback` once, after what is ready now."""
        Source(self, callback).trigger()

    def call_at(self, deadline: int, callback: Callback) -> Timer:
        """Run `callback` once, at system time `deadline` in nanoseconds."""
        timer = Timer(deadline, callback)
        heapq.heappush(self._timers, (deadline, next(self._order), timer))
        return timer

    def run_one(self) -> bool:
        """Run the source that has been ready longest; False if none is."""
        if not self.ready:
            return False
        self.ready.popleft().run()
        return True

    def next_deadline(self) -> int | None:
        """When the first timer is due."""
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def fire(self, now: int) -> bool:
        """Make the timers ready whose time has come; whether there were any."""
        fired = False
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            self.call_soon(heapq.heappop(self._timers)[2].fire)
            fired = True
        return fired
