"""Timers of the core: a heap of deadlines in ns of system time. A cancelled timer is dropped when it comes up."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count


@dataclass(order=True)
class Timer:
    deadline: int
    number: int
    action: Callable[[], None] | None = field(compare=False)

    def cancel(self) -> None:
        self.action = None


class Timers:
    def __init__(self) -> None:
        self._heap: list[Timer] = []
        self._numbers = count()

    def at(self, deadline: int, action: Callable[[], None]) -> Timer:
        """Run `action` once system time has reached `deadline`."""
        timer = Timer(deadline, next(self._numbers), action)
        heapq.heappush(self._heap, timer)
        return timer

    def next_deadline(self) -> int | None:
        self._drop_cancelled()
        return self._heap[0].deadline if self._heap else None

    def run(self, now: int) -> bool:
        """Run what is due; whether anything was. An action may set timers; those run at a later call."""
        due = []
        while self._heap and self._heap[0].deadline <= now:
            due.append(heapq.heappop(self._heap))
        for timer in due:
            if timer.action is not None:
                action, timer.action = timer.action, None
                action()
        return bool(due)

    def _drop_cancelled(self) -> None:
        while self._heap and self._heap[0].action is None:
            heapq.heappop(self._heap)
