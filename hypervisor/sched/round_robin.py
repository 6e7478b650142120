"""Plain fair round robin: first come, first served, a fixed slice. A woken unit goes behind those that wait already."""

from __future__ import annotations

from collections import deque
from typing import Final

from hypervisor.sched.scheduler import SchedUnit

SLICE_NS: Final = 10_000_000


class RoundRobin:
    """One queue; every slice has the same length, in ns."""

    def __init__(self, slice_ns: int = SLICE_NS) -> None:
        self.slice_ns = slice_ns
        self._queue: deque[SchedUnit] = deque()

    def insert(self, unit: SchedUnit, now: int, *, woken: bool) -> None:
        """The unit can run: it waits behind all others."""
        self._queue.append(unit)

    def remove(self, unit: SchedUnit) -> None:
        """The unit sleeps: it does not wait any more."""
        if unit in self._queue:
            self._queue.remove(unit)

    def pick(self, now: int) -> tuple[SchedUnit, int] | None:
        """The unit that has waited longest, and its slice in ns; None: nobody waits."""
        return (self._queue.popleft(), self.slice_ns) if self._queue else None

    def waiting(self) -> bool:
        """Whether a unit waits for a CPU."""
        return bool(self._queue)

    def victim(self, unit: SchedUnit, now: int) -> SchedUnit | None:
        """None: nobody's slice is cut short."""
        return None

    def forget(self, unit: SchedUnit) -> None:
        """The unit is gone."""
        self.remove(unit)
