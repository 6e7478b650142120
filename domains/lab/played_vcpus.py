"""Virtual CPUs' time for the experiments about schedulers: domains that compute, that sleep, that cheat, in virtual time.

The schedulers and Slices are a machine's own (hypervisor/sched); only the domains are played.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from hypervisor.public.vcpu import RunState
from hypervisor.sched.params import BvtParams, CreditParams, DomainParams, RtdsParams
from hypervisor.sched.policies import make_scheduler
from hypervisor.sched.rtds import Rtds
from hypervisor.sched.scheduler import Scheduler, SchedUnit
from hypervisor.sched.virtual_cpus import VirtualCpus

US: Final = 1_000
MS: Final = 1_000_000
SECOND: Final = 1_000_000_000
STOP: Final = 50 * US
"""How long a vCPU takes to stop when it is told to: what an x86 guest of a machine needs."""
TICK: Final = 10 * MS
"""When a scheduler that samples would look."""


class Sleeper(NamedTuple):
    """Of one that works a little and sleeps: how long it waited for the CPU at each wake-up, ns, in order."""

    waits: list[int]

    @property
    def median(self) -> float:
        """Half of the waits are no longer, ms."""
        return self.waits[len(self.waits) // 2] / MS

    @property
    def longest(self) -> float:
        """In ms."""
        return self.waits[-1] / MS


def weighted(scheduler: Scheduler, weight: int) -> DomainParams | None:
    """Parameters that give a domain this weight; None: the scheduler knows none."""
    if scheduler.name == "bvt":
        return BvtParams(weight)
    return CreditParams(weight) if scheduler.name in ("credit", "credit2") else None


def shares(name: str, weights: Sequence[int], seconds: int = 10) -> list[float]:
    """What each of domains that always compute has of one CPU, in percent."""
    scheduler = make_scheduler(name)
    cpus = VirtualCpus(1, scheduler, stop_ns=STOP)
    units = [SchedUnit(domid, 0) for domid in range(1, len(weights) + 1)]
    for unit, weight in zip(units, weights, strict=True):
        cpus.slices.add(unit, 0)
        params = weighted(scheduler, weight)
        if params is not None:
            scheduler.adjust(unit.domid, params, 0)
    for unit in units:
        cpus.wake(unit)
    cpus.run_until(seconds * SECOND)
    return [percent(unit, cpus.now) for unit in units]


def sleeper_beside(name: str, hogs: int, work: int = MS // 2, every: int = 10 * MS) -> Sleeper:
    """One that works for `work` ns every `every`, beside so many that always compute, on one CPU for 10 s."""
    waits: list[int] = []
    woken = 0

    def resumed(unit: SchedUnit) -> None:
        if unit is sleeper:
            waits.append(cpus.now - woken)
            cpus.planned(unit, work, lambda: cpus.sleep(sleeper))

    def wakes() -> None:
        nonlocal woken
        if sleeper.runstate.state is not RunState.RUNSTATE_runnable and sleeper.cpu is None:
            woken = cpus.now
            cpus.wake(sleeper)
        cpus.at(cpus.now + every, wakes)

    cpus = VirtualCpus(1, make_scheduler(name), stop_ns=STOP, resumed=resumed)
    sleeper = SchedUnit(1, 0)
    for number in range(hogs):
        cpus.wake(SchedUnit(number + 2, 0))
    cpus.at(every, wakes)
    cpus.run_until(10 * SECOND)
    return Sleeper(sorted(waits))


def cheat(name: str, gap: int = MS) -> float:
    """What one has of a CPU, in percent, that computes but sleeps whenever a tick comes, beside one that always computes."""
    cpus = VirtualCpus(1, make_scheduler(name), stop_ns=STOP)
    one = SchedUnit(1, 0)

    def before() -> None:
        if one.runstate.state in (RunState.RUNSTATE_running, RunState.RUNSTATE_runnable):
            cpus.sleep(one)
        cpus.at(cpus.now + gap + US, after)

    def after() -> None:
        cpus.wake(one)
        cpus.at(cpus.now + TICK - gap - US, before)

    cpus.wake(SchedUnit(2, 0))
    cpus.at(TICK - gap, before)
    cpus.wake(one)
    cpus.run_until(10 * SECOND)
    return percent(one, cpus.now)


def missed_deadlines(budgets: Sequence[int], period: int = TICK) -> int:
    """Periods in which RTDS did not give its budget (ns) to one of these, which always compute, on one CPU in 10 s."""
    scheduler = make_scheduler("rtds")
    assert isinstance(scheduler, Rtds)
    cpus = VirtualCpus(1, scheduler, stop_ns=STOP)
    units = [SchedUnit(domid, 0) for domid in range(1, len(budgets) + 1)]
    for unit, budget in zip(units, budgets, strict=True):
        cpus.slices.add(unit, 0)
        scheduler.adjust_vcpu(unit, RtdsParams(period // US, budget // US, extratime=False), 0)
    for unit in units:
        cpus.wake(unit)
    cpus.run_until(10 * SECOND)
    return sum(scheduler.misses(unit) for unit in units)


def switches(domains: int, slice_ns: int, cpus: int = 1) -> float:
    """How often a second each CPU goes over to another of so many domains that always compute, with slices of that length."""
    machine = VirtualCpus(cpus, make_scheduler("round-robin", slice_ns), stop_ns=0)
    for domid in range(1, domains + 1):
        machine.wake(SchedUnit(domid, 0))
    machine.run_until(10 * SECOND)
    return machine.switches / 10 / cpus


def percent(unit: SchedUnit, now: int) -> float:
    """Of the time until `now`, in which the unit ran."""
    return 100 * unit.runstate.times(now)[RunState.RUNSTATE_running] / now
