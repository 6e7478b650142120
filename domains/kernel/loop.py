"""What a Python kernel has to run: ready handlers in order of arrival, timers, and tasks.

    source.trigger() ──► ready ──run_one()──► handler          call_later ──► timers ──due──► ready
                           ▲                     │ a task
                           └── wake ◄── Pause ◄──┘

A handler is a function that does not wait, or one whose generator is a task (tasks.py), which says what it waits for.
A Source is one thing that can happen again and again (an event channel, a descriptor). Triggered twice before it ran,
it runs once; triggered while its task is under way, it runs again afterwards; it is never run beside itself. Upcalls may
trigger at any instruction: `trigger` is one append to a deque.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from itertools import count
from types import GeneratorType
from typing import Any, Final

from domains.kernel.tasks import Pause, Task
from hypervisor.machine.busiest import Busiest

Callback = Callable[[], None] | Callable[[], Task[None] | None]
"""A handler."""

SPARE_TIMERS: Final = 64
"""So many cancelled timers may lie among the others before they are swept out."""


class Source:
    """A handler, whether it is queued, and whether its task is under way."""

    __slots__ = ("_again", "_queued", "_under_way", "callback", "loop")

    def __init__(self, loop: Loop, callback: Callback | None) -> None:
        self.callback = callback
        """None: cancelled; what is queued does nothing. A task under way goes on."""
        self.loop = loop
        """Whose handler it is."""
        self._queued = self._under_way = self._again = False

    def trigger(self) -> None:
        """Have the handler run once more."""
        if not self._queued:
            self._queued = True
            self.loop.ready.append(self)

    def __str__(self) -> str:
        """The handler's name, or that of the task which it drives."""
        owner = getattr(self.callback, "__self__", None)
        return str(owner if isinstance(owner, Job) else getattr(self.callback, "__qualname__", "a handler"))

    def run(self) -> None:
        """Run the handler now, or after its task that is under way."""
        self._queued = False
        if self._under_way:
            self._again = True
            return
        loop = self.loop
        loop.running = self
        try:
            task = self.callback() if self.callback is not None else None
            if isinstance(task, GeneratorType):
                self._under_way = True
                Job(loop, task, lambda _: self._over(), self._failed).step()
        finally:
            loop.running = None

    def _failed(self, error: Exception) -> None:
        self._over()
        raise error

    def _over(self) -> None:
        self._under_way = False
        if self._again:
            self._again = False
            self.trigger()


class Job:
    """One task under way: what is to be done with its result, or with the exception that ends it."""

    __slots__ = ("_done", "_failed", "_loop", "_task", "_turn")

    def __init__(
        self, loop: Loop, task: Task[Any], done: Callable[[Any], None], failed: Callable[[Exception], None]
    ) -> None:
        self._loop = loop
        self._task = task
        self._done = done
        self._failed = failed
        self._turn = Source(loop, self.step)

    def __str__(self) -> str:
        """The task's name."""
        return str(getattr(self._task, "__qualname__", "a task"))

    def step(self) -> None:
        """Go on up to the task's next pause, or its end."""
        try:
            pause = next(self._task)
        except StopIteration as end:
            self._done(end.value)
        except Exception as error:  # noqa: BLE001 - whose task it is, decides
            self._failed(error)
        else:
            self._loop.arm(pause, self._turn.trigger)


class Timer:
    """One callback due at `deadline` (system time, nanoseconds)."""

    __slots__ = ("_cancelled", "callback", "deadline")

    def __init__(
        self, deadline: int, callback: Callback, cancelled: Callable[[], None] = lambda: None
    ) -> None:
        self.deadline = deadline
        self.callback: Callback | None = callback
        self._cancelled = cancelled

    def cancel(self) -> None:
        """Never run it; harmless if it has run."""
        if self.callback is not None:
            self.callback = None
            self._cancelled()

    def fire(self) -> Task[None] | None:
        """Run it, once."""
        callback, self.callback = self.callback, None
        return callback() if callback is not None else None


class Loop:
    """Ready sources and timers. Whoever runs it says what time it is."""

    def __init__(self) -> None:
        self.ready: deque[Source] = deque()
        self.running: Source | None = None
        """The handler, or the task's step, that runs now: it must not wait."""
        self.busiest: Busiest | None = None
        """Who wants to know what held the loop longest at a time puts it here."""
        self._timers: list[tuple[int, int, Timer]] = []
        self._cancelled = 0
        self._order = count()

    def source(self, callback: Callback) -> Source:
        """A new source for `callback`."""
        return Source(self, callback)

    def call_soon(self, callback: Callback) -> None:
        """Run `callback` once, after what is ready now."""
        Source(self, callback).trigger()

    def call_at(self, deadline: int, callback: Callback) -> Timer:
        """Run `callback` once, at system time `deadline` in nanoseconds."""
        timer = Timer(deadline, callback, self._one_cancelled)
        heapq.heappush(self._timers, (deadline, next(self._order), timer))
        return timer

    def spawn(
        self,
        task: Task[Any],
        done: Callable[[Any], None] = lambda _: None,
        failed: Callable[[Exception], None] | None = None,
    ) -> None:
        """Drive `task` from the next turn on. Without `failed` what it raises reaches whoever runs the loop."""

        def passed_on(error: Exception) -> None:
            raise error

        self.call_soon(Job(self, task, done, failed or passed_on).step)

    def arm(self, pause: Pause, wake: Callable[[], None]) -> None:
        """Call `wake` once, at the first of what `pause` names."""
        signals, deadline = pause
        if not signals and deadline is None:
            self.call_soon(wake)
            return
        timer: Timer | None = None

        def woken() -> None:
            if timer is not None:
                timer.cancel()
            for signal in signals:
                signal.discard(woken)
            wake()

        if deadline is not None:
            timer = self.call_at(deadline, woken)
        for signal in signals:
            signal.add(woken)

    def run_one(self) -> bool:
        """Run the source that has been ready longest; False if none is."""
        if not self.ready:
            return False
        source = self.ready.popleft()
        source.run()
        if self.busiest is not None:
            self.busiest.lap(source)
        return True

    def next_deadline(self) -> int | None:
        """When the first timer is due."""
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
            self._cancelled -= 1
        return self._timers[0][0] if self._timers else None

    def fire(self, now: int) -> bool:
        """Make the timers ready whose time has come; whether there were any."""
        fired = False
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            self.call_soon(heapq.heappop(self._timers)[2].fire)
            fired = True
        return fired

    def _one_cancelled(self) -> None:
        """Sweep the cancelled timers out when they are more than the others."""
        self._cancelled += 1
        if self._cancelled > SPARE_TIMERS and 2 * self._cancelled > len(self._timers):
            self._timers = [entry for entry in self._timers if entry[2].callback is not None]
            heapq.heapify(self._timers)
            self._cancelled = 0
