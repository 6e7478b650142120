"""One workload under one scheduler: units are made, play their tasks for the workload's time, and are summed up."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

import numpy as np

from domains.xenctl.sched_sim.tasks import Task
from domains.xenctl.sched_sim.workload import Choice, Domain, Workload
from hypervisor.public.vcpu import RunState
from hypervisor.sched.bvt import Bvt
from hypervisor.sched.params import (
    ARINC653_MAX_DOMAINS_PER_SCHEDULE,
    Arinc653Schedule,
    BvtParams,
    CreditParams,
    MinorFrame,
    RtdsParams,
)
from hypervisor.sched.policies import make_scheduler
from hypervisor.sched.rtds import Rtds
from hypervisor.sched.scheduler import ALL_CPUS, Scheduler, SchedUnit
from hypervisor.sched.shares import Shares
from hypervisor.sched.virtual_cpus import VirtualCpus

EVEN_FRAME_NS: Final = 10_000_000
"""Under ARINC 653, if the workload has no schedule: a frame of each vCPU."""


@dataclass(frozen=True)
class Waits:
    """From a wake-up to a CPU, ms; `count`: how many."""

    count: int
    median: float
    p95: float
    p99: float
    longest: float


@dataclass(frozen=True)
class Kind:
    """What became of the domains of one description. `share`: CPU time of one of them in percent of one CPU, on average;
    `least` and `most` of any. `waited`: percent of the time that one was runnable and had no CPU. `jobs` and `missed`: work
    that was due. `server_misses`: periods in which RTDS did not give a vCPU its budget though it was runnable.
    """

    name: str
    domains: int
    share: float
    least: float
    most: float
    waited: float
    waits: Waits | None
    jobs: int
    missed: int
    server_misses: int | None


@dataclass(frozen=True)
class Outcome:
    """`busy`: percent of the CPUs' time in which a unit had them; `switches`: from one unit to another, a second."""

    scheduler: str
    cpus: int
    seconds: float
    busy: float
    switches: float
    kinds: list[Kind]


@dataclass
class Played:
    """A domain in a simulation. `begins`, `ends`: ns."""

    kind: str
    units: list[SchedUnit]
    begins: int
    ends: int


class Simulation:
    """All units of a workload under a scheduler."""

    def __init__(self, workload: Workload, choice: Choice) -> None:
        self._workload, self._choice = workload, choice
        self.scheduler = make_scheduler(choice.name, choice.slice)
        self._tasks: dict[SchedUnit, Task] = {}
        self._cpus = VirtualCpus(
            workload.cpus,
            self.scheduler,
            stop_ns=workload.stop,
            resumed=lambda unit: self._tasks[unit].resumed(),
            stopped=lambda unit: self._tasks[unit].stopped(),
        )
        self._domains: list[Played] = []
        draw = random.Random(workload.seed)
        for name, domain in workload.domains.items():
            for _ in range(domain.count):
                self._add(name, domain, draw)
        self._set_frames()

    def run(self) -> Outcome:
        """Let the workload's time pass; what came of it."""
        workload = self._workload
        self._cpus.run_until(workload.time)
        for task in self._tasks.values():
            task.finish()
        running = sum(self._time(unit, RunState.RUNSTATE_running) for unit in self._tasks)
        seconds = workload.time / 1e9
        return Outcome(
            self._choice.label,
            workload.cpus,
            seconds,
            100 * running / (workload.time * workload.cpus),
            self._cpus.switches / seconds,
            [self._sum_up(name) for name in workload.domains],
        )

    # --- making units ----------------------------------------------------------------------------

    def _add(self, name: str, domain: Domain, draw: random.Random) -> None:
        domid = len(self._domains) + 1
        does = domain.does.in_ns()
        begins, ends = domain.start or 0, min(domain.stop or self._workload.time, self._workload.time)
        units = [SchedUnit(domid, vcpu_id, domid.to_bytes(16, "big")) for vcpu_id in range(domain.vcpus)]
        self._domains.append(Played(name, units, begins, max(ends, begins + 1)))
        for unit in units:
            unit.hard, unit.soft = mask_of(domain.cpus), mask_of(domain.cpus_soft)
            self._cpus.slices.add(unit, 0)
            task = Task(self._cpus, unit, does, random.Random(draw.random()), self._workload.switch or 0)
            self._tasks[unit] = task
            self._cpus.at(begins, task.begin)
            if domain.stop is not None:
                self._cpus.at(domain.stop, task.end)
        adjust(self.scheduler, domid, units, domain)

    def _set_frames(self) -> None:
        """Under ARINC 653 the workload's schedule, or an even one."""
        if self._choice.name != "arinc653":
            return
        wanted = self._workload.arinc653
        if wanted is None:
            units = list(self._tasks)[:ARINC653_MAX_DOMAINS_PER_SCHEDULE]
            frames = [MinorFrame(unit.handle, unit.vcpu_id, EVEN_FRAME_NS) for unit in units]
            major = len(frames) * EVEN_FRAME_NS
        else:
            first = {played.kind: played.units[0].handle for played in reversed(self._domains)}
            frames = [MinorFrame(first[one.domain], one.vcpu, one.runs) for one in wanted.frames]
            major = wanted.major
        self.scheduler.adjust_global(Arinc653Schedule(major, tuple(frames)), 0)

    # --- summing up ------------------------------------------------------------------------------

    def _time(self, unit: SchedUnit, state: RunState) -> int:
        return unit.runstate.times(self._cpus.now)[state]

    def _sum_up(self, name: str) -> Kind:
        played = [one for one in self._domains if one.kind == name]
        shares = [self._percent(one, RunState.RUNSTATE_running) for one in played]
        waited = [self._percent(one, RunState.RUNSTATE_runnable) for one in played]
        units = [unit for one in played for unit in one.units]
        seen = [self._tasks[unit].observed for unit in units]
        waits = np.concatenate([np.asarray(one.waits, dtype=np.int64) for one in seen])
        misses = None
        if isinstance(self.scheduler, Rtds):
            misses = sum(self.scheduler.misses(unit) for unit in units)
        return Kind(
            name,
            len(played),
            sum(shares) / len(shares),
            min(shares),
            max(shares),
            sum(waited) / len(waited),
            waits_of(waits),
            sum(one.jobs for one in seen),
            sum(one.missed for one in seen),
            misses,
        )

    def _percent(self, played: Played, state: RunState) -> float:
        spent = sum(self._time(unit, state) for unit in played.units)
        return 100 * spent / (played.ends - played.begins)


def simulate(workload: Workload, choice: Choice) -> Outcome:
    """The workload under one scheduler."""
    return Simulation(workload, choice).run()


def mask_of(cpus: list[int] | None) -> int:
    """As an affinity."""
    return ALL_CPUS if cpus is None else sum(1 << cpu for cpu in set(cpus))


def waits_of(waits: np.ndarray) -> Waits | None:
    """In ms; None if there was no wake-up."""
    if not len(waits):
        return None
    median, p95, p99 = (float(one) / 1e6 for one in np.percentile(waits, (50, 95, 99)))
    return Waits(len(waits), median, p95, p99, float(waits.max()) / 1e6)


def adjust(scheduler: Scheduler, domid: int, units: list[SchedUnit], domain: Domain) -> None:
    """Set what the workload says, as far as this scheduler knows it."""
    if isinstance(scheduler, Bvt):
        params = domain.bvt.params(domain.weight) if domain.bvt is not None else BvtParams(domain.weight)
        scheduler.adjust(domid, params, 0)
    elif isinstance(scheduler, Shares):
        scheduler.adjust(domid, CreditParams(domain.weight, domain.cap), 0)
    elif isinstance(scheduler, Rtds):
        for unit in units:
            scheduler.adjust_vcpu(unit, domain.rtds.params() if domain.rtds is not None else RtdsParams(), 0)
