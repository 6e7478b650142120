"""How long each CPU was somebody's, and how long nobody's: what XEN_SYSCTL_getcpuinfo tells."""

from __future__ import annotations

from hypervisor.public.vcpu import RunState
from hypervisor.sched.scheduler import SchedUnit

RUNNING = RunState.RUNSTATE_running


class BusyTimes:
    """Told by Slices who has which CPU. Times are those that the units' run states account for."""

    def __init__(self, nr_cpus: int) -> None:
        self._busy = [0] * nr_cpus
        """ns, without the unit that has the CPU now."""
        self._holders: dict[int, tuple[SchedUnit, int]] = {}
        """The unit that has a CPU, and for how many ns it had run before."""

    def takes(self, unit: SchedUnit, cpu: int) -> None:
        """`unit` has the CPU from now on, and begins to run."""
        self._holders[cpu] = unit, unit.runstate.time[RUNNING]

    def leaves(self, cpu: int) -> None:
        """The unit that had the CPU runs no more, and has it no longer."""
        unit, before = self._holders.pop(cpu)
        self._busy[cpu] += unit.runstate.time[RUNNING] - before

    def idle(self, now: int) -> list[int]:
        """For how many ns of the machine's life, until `now`, each CPU was nobody's."""
        idle = [now - busy for busy in self._busy]
        for cpu, (unit, before) in self._holders.items():
            idle[cpu] -= unit.runstate.times(now)[RUNNING] - before
        return [max(0, ns) for ns in idle]
