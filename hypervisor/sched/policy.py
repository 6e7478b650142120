"""What the policies share: which units run and for how long they have, the queue of those that wait, and refusals of parameters.

A policy inherits what it does not do itself. Time is charged exactly, when a unit stops or when its policy asks, and nothing
depends on who runs when some tick comes: a guest could be gone just then.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Final

from hypervisor.public.errno import Errno, XenError
from hypervisor.sched.params import DomainParams, GlobalParams, NoGlobals, NoParams
from hypervisor.sched.scheduler import SchedUnit

MIN_SLICE_NS: Final = 500_000
"""Xen's CSCHED2_MIN_TIMER: no shorter slice is given, for a switch costs time as well."""


def in_ms(ns: int) -> str:
    """For a reader."""
    return f"{ns / 1e6:.3f} ms"


class RunQueue:
    """Units that wait, in the order of `rank`, the least first; among equals the one that came first."""

    def __init__(self, rank: Callable[[SchedUnit], Any] = lambda _unit: 0) -> None:
        self._rank = rank
        self._units: list[SchedUnit] = []

    def __iter__(self) -> Iterator[SchedUnit]:
        return iter(self._units)

    def __contains__(self, unit: SchedUnit) -> bool:
        return unit in self._units

    def __len__(self) -> int:
        return len(self._units)

    def add(self, unit: SchedUnit) -> None:
        """`unit` waits from now on."""
        insort(self._units, unit, key=self._rank)

    def remove(self, unit: SchedUnit) -> bool:
        """Whether it waited; it does not any more."""
        if unit in self._units:
            self._units.remove(unit)
            return True
        return False

    def first(self, cpu: int) -> SchedUnit | None:
        """The first of those that may run on the CPU now."""
        for unit in self._units:
            if unit.sibling is None and unit.hard >> cpu & 1:  # may_run, at the heart of every switch
                return unit
        return None


class Policy:
    """Defaults of `Scheduler`. `running`: by unit that runs, up to when its time has been charged, ns."""

    name: ClassVar[str]
    sched_id: ClassVar[int]
    pins: ClassVar[bool] = False
    rotates: ClassVar[bool] = True

    def __init__(self) -> None:
        self.running: dict[SchedUnit, int] = {}

    # --- CPUs and units: see Scheduler -----------------------------------------------------------

    def cpu_add(self, cpu: int, now: int) -> None:
        """See Scheduler."""

    def cpu_remove(self, cpu: int, now: int) -> None:
        """See Scheduler."""

    def relay(self, unit: SchedUnit, heir: SchedUnit, now: int) -> bool:
        """See Scheduler."""
        return False

    def victim(self, unit: SchedUnit, now: int) -> tuple[SchedUnit, int] | None:
        """See Scheduler."""
        return None

    def holds_back(self, unit: SchedUnit, now: int) -> bool:
        """See Scheduler."""
        return False

    def describe(self, unit: SchedUnit, now: int) -> str:
        """See Scheduler."""
        return ""

    def next_event(self) -> int | None:
        """See Scheduler."""
        return None

    def tick(self, now: int) -> list[SchedUnit]:
        """See Scheduler."""
        return []

    # --- running time ----------------------------------------------------------------------------

    def _starts(self, unit: SchedUnit, now: int) -> None:
        self.running[unit] = now

    def _stops(self, unit: SchedUnit, now: int) -> int:
        """How long it ran that has not been charged; 0 for one that did not run."""
        return max(0, now - self.running.pop(unit, now))

    def _ran(self, unit: SchedUnit, now: int) -> int:
        """How long a unit that goes on running ran that has not been charged; it counts as charged."""
        ran = max(0, now - self.running[unit])
        self.running[unit] = now
        return ran

    def _rivals(self, unit: SchedUnit) -> list[SchedUnit]:
        """Those that run on a CPU that `unit`, which waits, might have, and were not asked to stop."""
        return [
            one
            for one in self.running
            if one.cpu is not None and not one.preempting and unit.may_run(one.cpu)
        ]

    # --- parameters ------------------------------------------------------------------------------

    def params(self, domid: int) -> DomainParams:
        """See Scheduler."""
        return NoParams()

    def adjust(self, domid: int, params: DomainParams, now: int) -> None:
        """See Scheduler."""
        raise XenError(Errno.EOPNOTSUPP, f"a domain has no parameters under {self.name}")

    def vcpu_params(self, unit: SchedUnit) -> DomainParams:
        """See Scheduler."""
        raise XenError(Errno.EINVAL, f"a vCPU has no parameters of its own under {self.name}")

    def adjust_vcpu(self, unit: SchedUnit, params: DomainParams, now: int) -> None:
        """See Scheduler."""
        raise XenError(Errno.EINVAL, f"a vCPU has no parameters of its own under {self.name}")

    def global_params(self) -> GlobalParams:
        """See Scheduler."""
        return NoGlobals()

    def adjust_global(self, params: GlobalParams, now: int) -> None:
        """See Scheduler."""
        raise XenError(Errno.EOPNOTSUPP, f"{self.name} has no parameters")

    def _foreign(self, params: DomainParams | GlobalParams) -> XenError:
        return XenError(Errno.EINVAL, f"{type(params).__name__} are not parameters of {self.name}")
