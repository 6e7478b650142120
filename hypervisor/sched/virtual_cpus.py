"""Emulated CPUs in virtual time: the schedulers and Slices of a machine, driven by whoever plays the units, without any process.

    at(when, act) ──► heap of what happens ──┐
                                             ├──► run_until: the earliest first, and time jumps there
    slices.next_deadline() ──────────────────┘
            │ resumed(unit): it has a CPU          stopped(unit): it has none any more
            ▼
        the player: wake, sleep, yield_

A unit that is asked to stop does so `stop_ns` later, as a process needs some time for it. Simulations (xenctl sched-sim), the
laboratory and the tests of schedulers are players.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

from hypervisor.public.vcpu import RunState
from hypervisor.sched.pool_control import PoolControl
from hypervisor.sched.scheduler import Scheduler, SchedUnit
from hypervisor.sched.slices import Slices

Play = Callable[[SchedUnit], None]


def nothing(_unit: SchedUnit) -> None:
    """What a player does that need not know."""


class VirtualCpus:
    """`now`: virtual time, ns. `switches`: how often a CPU went over to another unit than it had last; `cold`: whether the unit
    that was resumed last was such a one.
    """

    def __init__(
        self,
        nr_cpus: int,
        scheduler: Scheduler,
        *,
        stop_ns: int = 0,
        resumed: Play = nothing,
        stopped: Play = nothing,
    ) -> None:
        self.now = 0
        self.switches = 0
        self.cold = False
        self.slices = Slices(nr_cpus, scheduler, self._resumed, self._asked, self._asked)
        self.pool_control = PoolControl(self.slices)
        self._stop_ns = stop_ns
        self._play_resumed, self._play_stopped = resumed, stopped
        self._last: list[SchedUnit | None] = [None] * nr_cpus
        self._happens: list[tuple[int, int, Callable[[], None]]] = []
        self._order = count()
        self._runs: dict[SchedUnit, int] = {}
        """Which run of a unit this is, by number: what was planned for an earlier one is over."""

    # --- what a player does ----------------------------------------------------------------------

    def at(self, when: int, act: Callable[[], None]) -> None:
        """Have `act` called at that time, at once if it has passed; at one time in the order in which it was asked for."""
        heapq.heappush(self._happens, (max(when, self.now), next(self._order), act))

    def wake(self, unit: SchedUnit) -> None:
        """The unit has something to do."""
        self.slices.wake(unit, self.now)

    def sleep(self, unit: SchedUnit, state: RunState = RunState.RUNSTATE_blocked) -> None:
        """It has not any more."""
        self._stopping(unit)
        self.slices.sleep(unit, self.now, state)

    def yield_(self, unit: SchedUnit) -> None:
        """It runs, and lets others go first (SCHEDOP_yield)."""
        if unit.cpu is not None:
            self._stopping(unit)
            unit.yielding = True
            self.slices.yield_(unit, self.now)

    def planned(self, unit: SchedUnit, after: int, act: Callable[[], None]) -> None:
        """Have `act` called when the unit, which runs, has run for `after` ns from now on, unless it stops before."""
        run = self._runs[unit]

        def still_runs() -> None:
            if self._runs.get(unit) == run:
                act()

        self.at(self.now + after, still_runs)

    def run_until(self, end: int) -> None:
        """Let all happen that happens until then, and that time come."""
        while True:
            happens = self._happens[0][0] if self._happens else None
            deadline = self.slices.next_deadline()
            if happens is not None and (deadline is None or happens <= max(deadline, self.now)):
                if happens > end:
                    break
                self.now = happens
                heapq.heappop(self._happens)[2]()
            elif deadline is None or deadline > end:
                break
            else:
                self.now = max(self.now, deadline)
                self.slices.expire(self.now)
        self.now = max(self.now, end)

    # --- what Slices does ------------------------------------------------------------------------

    def _resumed(self, unit: SchedUnit) -> None:
        cpu = unit.cpu
        assert cpu is not None
        self._runs[unit] = next(self._order)
        self.cold = self._last[cpu] is not unit
        self.switches += self.cold
        self._last[cpu] = unit
        self._play_resumed(unit)

    def _asked(self, unit: SchedUnit) -> None:
        """It stops a little later; not in here, since Slices is in the middle of something."""
        self.planned(unit, self._stop_ns, lambda: self._stops(unit))

    def _stops(self, unit: SchedUnit) -> None:
        self._stopping(unit)
        self.slices.yield_(unit, self.now)

    def _stopping(self, unit: SchedUnit) -> None:
        if unit.cpu is not None:
            self._runs.pop(unit, None)
            self._play_stopped(unit)
