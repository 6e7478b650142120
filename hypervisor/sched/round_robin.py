"""Plain fair round robin: first come, first served, a fixed slice. A woken unit goes behind those that wait already."""

from __future__ import annotations

from typing import Final

from hypervisor.public.xenoscope_sched import XENOSCOPE_SCHEDULER_RR
from hypervisor.sched.params import GlobalParams, RoundRobinGlobals
from hypervisor.sched.policy import Policy, RunQueue
from hypervisor.sched.scheduler import SchedUnit, Turn

SLICE_NS: Final = 10_000_000


class RoundRobin(Policy):
    """One queue for all CPUs; every slice has the same length, in ns."""

    name = "round-robin"
    sched_id = int(XENOSCOPE_SCHEDULER_RR)

    def __init__(self, slice_ns: int = SLICE_NS) -> None:
        super().__init__()
        self.slice_ns = slice_ns
        self._queue = RunQueue()

    def add(self, unit: SchedUnit, now: int) -> None:
        """There is nothing to be known of it."""

    def forget(self, unit: SchedUnit, now: int) -> None:
        """The unit is gone."""
        self.remove(unit, now)

    def insert(self, unit: SchedUnit, now: int, *, woken: bool) -> None:
        """The unit can run: it waits behind all others."""
        self._stops(unit, now)
        self._queue.add(unit)

    def remove(self, unit: SchedUnit, now: int) -> None:
        """The unit sleeps: it does not wait any more."""
        self._stops(unit, now)
        self._queue.remove(unit)

    def pick(self, cpu: int, now: int) -> Turn | None:
        """The unit that has waited longest, and the slice."""
        unit = self._queue.first(cpu)
        if unit is None:
            return None
        self._queue.remove(unit)
        self._starts(unit, now)
        return Turn(unit, self.slice_ns)

    def relay(self, unit: SchedUnit, heir: SchedUnit, now: int) -> bool:
        """The sibling has the rest of the slice."""
        if unit not in self.running or not self._queue.remove(heir):
            return False
        self.insert(unit, now, woken=False)
        self._starts(heir, now)
        return True

    def waits_for(self, cpu: int) -> bool:
        """Whether a unit waits that may run on the CPU."""
        return self._queue.first(cpu) is not None

    def global_params(self) -> GlobalParams:
        """The length of a slice."""
        return RoundRobinGlobals(self.slice_ns // 1000)

    def adjust_global(self, params: GlobalParams, now: int) -> None:
        """Of the slices that begin from now on."""
        if not isinstance(params, RoundRobinGlobals):
            raise self._foreign(params)
        self.slice_ns = params.slice_us * 1000
