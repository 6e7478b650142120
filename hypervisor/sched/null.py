"""Null: each vCPU has a CPU of its own for as long as it lives, and runs there whenever it has something to do.

    d1v0 ─ CPU 0      d1v1 ─ CPU 1      waiting: d2v0, d3v0 …

A vCPU that finds no free CPU which its hard affinity allows waits in a list, and does not run, until one is free. Source: Xen
common/sched/null.c. It is given its CPU when it first has something to do (on Xen when it comes up), one that it prefers if
there is any, and keeps it while it sleeps, is paused or is down. The vCPUs of a domain, of which one runs at a time, take turns.
"""

from __future__ import annotations

from typing import Final

from hypervisor.public.domctl_vcpu import XEN_SCHEDULER_NULL
from hypervisor.sched.policy import Policy
from hypervisor.sched.scheduler import SchedUnit, Turn

FOREVER_NS: Final = 1 << 62


class Null(Policy):
    """Which CPU is whose."""

    name = "null"
    sched_id = int(XEN_SCHEDULER_NULL)
    pins = True

    def __init__(self) -> None:
        super().__init__()
        self._owners: dict[int, SchedUnit | None] = {}
        """By CPU of the pool."""
        self._list: dict[SchedUnit, None] = {}
        """Those without a CPU, in the order in which they came."""
        self._waiting: dict[SchedUnit, None] = {}

    def cpu_add(self, cpu: int, now: int) -> None:
        """The first in the list that may have it has it."""
        self._owners[cpu] = None
        self._hand_out(cpu)

    def cpu_remove(self, cpu: int, now: int) -> None:
        """Its vCPU stands in the list, if there is no other for it."""
        unit = self._owners.pop(cpu, None)
        if unit is not None:
            self._find_cpu(unit)

    # --- units -----------------------------------------------------------------------------------

    def add(self, unit: SchedUnit, now: int) -> None:
        """It gets a CPU when it first needs one."""

    def forget(self, unit: SchedUnit, now: int) -> None:
        """The vCPU is gone, and its CPU the next one's."""
        self.remove(unit, now)
        self._list.pop(unit, None)
        self._take_away(unit)

    def insert(self, unit: SchedUnit, now: int, *, woken: bool) -> None:
        """It runs as soon as its CPU is free, which it is but for a unit that is on its way."""
        self._stops(unit, now)
        unit.yielding = False
        self._waiting[unit] = None
        own = self._cpu_of(unit)
        if own is not None and not unit.hard >> own & 1:
            self._take_away(unit)
            own = None
        if own is None:
            self._find_cpu(unit)

    def remove(self, unit: SchedUnit, now: int) -> None:
        """It sleeps, and keeps its CPU."""
        self._stops(unit, now)
        self._waiting.pop(unit, None)

    def pick(self, cpu: int, now: int) -> Turn | None:
        """The CPU's owner."""
        unit = self._owners.get(cpu)
        if unit is None or unit not in self._waiting or not unit.may_run(cpu):
            return None
        del self._waiting[unit]
        self._starts(unit, now)
        return Turn(unit, FOREVER_NS)

    def relay(self, unit: SchedUnit, heir: SchedUnit, now: int) -> bool:
        """The sibling has its turn on this CPU: its own is of no use to it while this one runs."""
        if unit not in self.running or heir not in self._waiting:
            return False
        self.insert(unit, now, woken=False)
        del self._waiting[heir]
        self._starts(heir, now)
        return True

    def waits_for(self, cpu: int) -> bool:
        """Whether the CPU's owner waits for it, because another unit has not left it yet."""
        unit = self._owners.get(cpu)
        return unit is not None and unit in self._waiting and unit.may_run(cpu)

    def victim(self, unit: SchedUnit, now: int) -> tuple[SchedUnit, int] | None:
        """One that has its turn on the CPU of another domain's: it is not its own."""
        own = self._cpu_of(unit)
        guest = next((one for one in self.running if one.cpu == own and own is not None), None)
        return (guest, now) if guest is not None and guest.domid != unit.domid else None

    def holds_back(self, unit: SchedUnit, now: int) -> bool:
        """Whether it has no CPU."""
        return unit in self._list

    def describe(self, unit: SchedUnit, now: int) -> str:
        """Its CPU."""
        own = self._cpu_of(unit)
        return "no CPU" if own is None else f"CPU {own}"

    # --- CPUs ------------------------------------------------------------------------------------

    def _cpu_of(self, unit: SchedUnit) -> int | None:
        return next((cpu for cpu, owner in self._owners.items() if owner is unit), None)

    def _find_cpu(self, unit: SchedUnit) -> None:
        free = [cpu for cpu, owner in self._owners.items() if owner is None and unit.hard >> cpu & 1]
        best = min(free, key=lambda cpu: (not unit.soft >> cpu & 1, cpu != unit.last_cpu, cpu), default=None)
        if best is None:
            self._list[unit] = None
        else:
            self._owners[best] = unit
            self._list.pop(unit, None)

    def _take_away(self, unit: SchedUnit) -> None:
        cpu = self._cpu_of(unit)
        if cpu is not None:
            self._owners[cpu] = None
            self._hand_out(cpu)

    def _hand_out(self, cpu: int) -> None:
        unit = next((unit for unit in self._list if unit.hard >> cpu & 1), None)
        if unit is not None:
            del self._list[unit]
            self._owners[cpu] = unit
