"""Plain fair round robin: first come, first served, a fixed slice. A woken unit goes behind those that wait already."""

from __future__ import annotations

from collections import deque
from typing import Final

from hypervisor.sched.scheduler import SchedUnit

SLICE_NS: Final = 10_000_000


class RoundRobin:
    def __init__(self, slice_ns: int = SLICE_NS) -> None:
        self.slice_ns = slice_ns
        self._queue: deque[SchedUnit] = deque()

    def insert(self, unit: SchedUnit, now: int, *, woken: bool) -> None:
        self._queue.append(unit)

    def remove(self, unit: SchedUnit) -> None:
        if unit in self._queue:
            self._queue.remove(unit)

    def pick(self, now: int) -> tuple[SchedUnit, int] | None:
        return (self._queue.popleft(), self.slice_ns) if self._queue else None

    def waiting(self) -> bool:
        return bool(self._queue)

    def victim(self, unit: SchedUnit, now: int) -> SchedUnit | None:
        return None

    def forget(self, unit: SchedUnit) -> None:
        self.remove(unit)
