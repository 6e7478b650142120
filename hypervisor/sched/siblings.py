"""The vCPUs of a domain among themselves: of those that are runnable one runs at a time, in turn.

    line      [A, B, C]     A runs: B.sibling = C.sibling = A, and no policy gives them a CPU
    its turn is over        [B, C, A]     B has the rest of A's slice

A domain's process is one thread; that is why. Owns all units there are, by domain, and each domain's line.
"""

from __future__ import annotations

from collections import deque

from hypervisor.public.vcpu import RunState
from hypervisor.sched.scheduler import SchedUnit


class Siblings:
    """All units, by domain, and of each domain those that run or would, the one whose turn it is first."""

    def __init__(self) -> None:
        self._units: dict[int, dict[SchedUnit, None]] = {}
        self._lines: dict[int, deque[SchedUnit]] = {}

    def add(self, unit: SchedUnit) -> bool:
        """Whether the unit was not known."""
        units = self._units.setdefault(unit.domid, {})
        new = unit not in units
        units[unit] = None
        return new

    def forget(self, unit: SchedUnit) -> bool:
        """The unit, which sleeps, is gone; whether its domain has no other."""
        units = self._units.get(unit.domid, {})
        units.pop(unit, None)
        if not units:
            self._units.pop(unit.domid, None)
        return not units

    def domids(self) -> set[int]:
        """All domains that have units."""
        return set(self._units)

    def of(self, domid: int) -> list[SchedUnit]:
        """All units of a domain."""
        return list(self._units.get(domid, ()))

    # --- the line --------------------------------------------------------------------------------

    def join(self, unit: SchedUnit) -> None:
        """The unit is runnable: it stands at the end."""
        others = self._units[unit.domid]
        holds = (other for other in others if other is not unit and (other.cpu is not None or other.frozen))
        unit.sibling = next(holds, None)
        self._lines.setdefault(unit.domid, deque()).append(unit)

    def leave(self, unit: SchedUnit) -> None:
        """The unit sleeps. No-op for one that did."""
        unit.sibling = None
        line = self._lines.get(unit.domid)
        if line is not None and unit in line:
            line.remove(unit)
            if not line:
                del self._lines[unit.domid]

    def had_its_turn(self, unit: SchedUnit) -> None:
        """The unit stands at the end again."""
        line = self._lines[unit.domid]
        line.remove(unit)
        line.append(unit)

    def wait_for(self, unit: SchedUnit) -> bool:
        """Whether siblings of the unit, which runs, wait for their turn."""
        return len(self._lines[unit.domid]) > 1

    def are_runnable(self, domid: int) -> bool:
        """Whether units of the domain run, or would."""
        return domid in self._lines

    def runs(self, unit: SchedUnit) -> None:
        """The unit has a CPU; the others may not have one."""
        unit.sibling = None
        for other in self._lines[unit.domid]:
            if other is not unit:
                other.sibling = unit

    def stopped(self, unit: SchedUnit) -> None:
        """The unit has no CPU any more; any of them may have one."""
        for other in self._lines.get(unit.domid, ()):
            other.sibling = None

    # --- the rest of a slice ---------------------------------------------------------------------

    def heir(self, unit: SchedUnit, cpu: int) -> SchedUnit | None:
        """The sibling that would go on in the unit's place: the one that was named, or the first that can."""
        if unit.heir is not None and can_inherit(unit.heir, unit, cpu):
            return unit.heir
        return next((other for other in self._lines[unit.domid] if can_inherit(other, unit, cpu)), None)


def can_inherit(heir: SchedUnit, unit: SchedUnit, cpu: int) -> bool:
    """Whether `heir` is a sibling that waits and may run on the unit's CPU."""
    waits = (
        heir.domid == unit.domid and heir is not unit and heir.runstate.state is RunState.RUNSTATE_runnable
    )
    return waits and bool(heir.hard >> cpu & 1)
