"""What every scheduler keeps, whatever happens: units wake, sleep, yield, are paused, go up and down, change their parameters,
affinity and pool, die and are replaced.

A run is a list of random steps that follows from a seed; a failure says the scheduler and the seed, and SCHED_SEED=…
SCHED_SEEDS=1 in the environment plays it again. Negative controls: `BROKEN` has schedulers that break one property each, and
each is found.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Final

import pytest

from hypervisor.public.errno import XenError
from hypervisor.public.vcpu import RunState
from hypervisor.sched.bvt import Bvt
from hypervisor.sched.credit import Credit
from hypervisor.sched.credit2 import Credit2
from hypervisor.sched.params import (
    Arinc653Schedule,
    BvtGlobals,
    BvtParams,
    Credit2Globals,
    CreditGlobals,
    CreditParams,
    MinorFrame,
    RoundRobinGlobals,
    RtdsParams,
)
from hypervisor.sched.policies import POLICIES, make_scheduler
from hypervisor.sched.round_robin import RoundRobin
from hypervisor.sched.rtds import Rtds
from hypervisor.sched.scheduler import ALL_CPUS, Scheduler, SchedUnit, Turn
from hypervisor.sched.virtual_cpus import VirtualCpus

MS: Final = 1_000_000
CPUS: Final = 3
DOMAINS: Final = 5
STEPS: Final = 120
SEEDS: Final = int(os.environ.get("SCHED_SEEDS", "6"))
FIRST_SEED: Final = int(os.environ.get("SCHED_SEED", "1"))
RUNNING, RUNNABLE = RunState.RUNSTATE_running, RunState.RUNSTATE_runnable


class Broken(AssertionError):
    """A property does not hold."""


class Played:
    """A machine whose units do random things, and everything that must hold at each moment."""

    def __init__(self, make: Callable[[], Scheduler], seed: int) -> None:
        self.random = random.Random(seed)
        self.make = make
        self.cpus = VirtualCpus(CPUS, make(), stop_ns=self.random.choice((0, 50_000, 3 * MS)))
        self.born: dict[SchedUnit, int] = {}
        self.next_domid = 0
        self.units: list[SchedUnit] = []
        self.other = self.cpus.pool_control.create(make_scheduler(self.random.choice(list(POLICIES))))
        for _ in range(DOMAINS):
            self.a_domain_comes()

    # --- steps -----------------------------------------------------------------------------------

    def a_domain_comes(self) -> None:
        domid = self.next_domid
        self.next_domid += 1
        for vcpu_id in range(self.random.choice((1, 1, 2, 3))):
            unit = SchedUnit(domid, vcpu_id, domid.to_bytes(16, "big"))
            unit.runstate.change(RunState.RUNSTATE_offline, self.cpus.now)
            self.born[unit] = self.cpus.now
            self.cpus.slices.add(unit, self.cpus.now)
            self.units.append(unit)

    def a_domain_dies(self, unit: SchedUnit) -> None:
        for one in [one for one in self.units if one.domid == unit.domid]:
            self.cpus.sleep(one, RunState.RUNSTATE_offline)
            self.cpus.slices.forget(one, self.cpus.now)
            self.units.remove(one)
            del self.born[one]
        self.a_domain_comes()

    def it_sleeps(self, unit: SchedUnit) -> None:
        self.cpus.sleep(unit)

    def it_is_paused(self, unit: SchedUnit) -> None:
        for one in self.units:
            if one.domid == unit.domid:
                self.cpus.sleep(one, RunState.RUNSTATE_offline)

    def it_yields(self, unit: SchedUnit) -> None:
        self.cpus.yield_(unit)

    def it_yields_to_a_sibling(self, unit: SchedUnit) -> None:
        for one in self.units:
            self.cpus.slices.yield_to(unit, one, self.cpus.now)

    def its_affinity_changes(self, unit: SchedUnit) -> None:
        hard = self.random.choice((ALL_CPUS, ALL_CPUS, 1, 2, 4, 5, 6))
        soft = self.random.choice((ALL_CPUS, 1, 2, 6, 8))
        try:
            self.cpus.pool_control.set_affinity(unit, self.cpus.now, hard=hard, soft=soft)
        except XenError:
            assert not hard & self.cpus.pool_control.pools.of_domain(unit.domid).cpus

    def a_cpu_changes_its_pool(self, _unit: SchedUnit) -> None:
        control, now = self.cpus.pool_control, self.cpus.now
        for pool in (control.pools.first, self.other):
            try:
                cpu = control.remove_cpu(0xFFFFFFFF, pool, now)
            except XenError:
                continue
            control.add_cpu(cpu, self.random.choice((control.pools.first, self.other)), now)
            return

    def its_pool_changes(self, unit: SchedUnit) -> None:
        control = self.cpus.pool_control
        if self.other.cpus:
            control.move_domain(
                unit.domid, self.random.choice((control.pools.first, self.other)), self.cpus.now
            )

    def its_parameters_change(self, unit: SchedUnit) -> None:
        scheduler, draw, now = self.cpus.slices.scheduler_of(unit.domid), self.random, self.cpus.now
        if isinstance(scheduler, Credit | Credit2):
            params = CreditParams(draw.choice((1, 64, 256, 1024, 65535)), draw.choice((0, 0, 1, 25, 60, 100)))
            scheduler.adjust(unit.domid, params, now)
        elif isinstance(scheduler, Bvt):
            warp = BvtParams(
                draw.choice((1, 256, 65535)), draw.random() < 0.5, 20_000, draw.choice((0, 3000)), 9000
            )
            scheduler.adjust(unit.domid, warp, now)
        elif isinstance(scheduler, Rtds):
            budget = draw.choice((500, 1000, 4000))
            scheduler.adjust_vcpu(
                unit, RtdsParams(budget * draw.choice((1, 3, 5)), budget, draw.random() < 0.5), now
            )

    def a_scheduler_changes(self, unit: SchedUnit) -> None:
        scheduler, draw, now = self.cpus.slices.scheduler_of(unit.domid), self.random, self.cpus.now
        if isinstance(scheduler, Credit):
            scheduler.adjust_global(CreditGlobals(draw.choice((1, 5, 30)), draw.choice((0, 1000)), 500), now)
        elif isinstance(scheduler, Credit2):
            scheduler.adjust_global(Credit2Globals(draw.choice((0, 1000))), now)
        elif isinstance(scheduler, Bvt):
            scheduler.adjust_global(BvtGlobals(draw.choice((1000, 50_000))), now)
        elif isinstance(scheduler, RoundRobin):
            scheduler.adjust_global(RoundRobinGlobals(draw.choice((1000, 50_000))), now)
        elif scheduler.name == "arinc653":
            frames = tuple(MinorFrame(one.handle, one.vcpu_id, 3 * MS) for one in self.units[:5])
            scheduler.adjust_global(Arinc653Schedule(20 * MS, frames), now)

    def run(self) -> None:
        rare = (
            self.a_domain_dies,
            self.it_is_paused,
            self.its_affinity_changes,
            self.a_cpu_changes_its_pool,
            self.its_pool_changes,
            self.its_parameters_change,
            self.a_scheduler_changes,
            self.it_yields_to_a_sibling,
        )
        for _ in range(STEPS):
            unit = self.random.choice(self.units)
            kind = self.random.random()
            if kind < 0.5:
                self.cpus.wake(unit)
            elif kind < 0.65:
                self.it_sleeps(unit)
            elif kind < 0.72:
                self.it_yields(unit)
            else:
                self.random.choice(rare)(unit)
            self.check()
            end = self.cpus.now + self.random.choice((0, 1000, 400_000, 3 * MS, 40 * MS))
            self.cpus.run_until(end)
            self.check()

    # --- what holds ------------------------------------------------------------------------------

    def check(self) -> None:
        holders = self.cpus.slices.cpus
        running = [unit for unit in self.units if unit.runstate.state is RUNNING]
        require(sorted(map(id, filter(None, holders))) == sorted(map(id, running)), "one unit a CPU")
        require(len({unit.domid for unit in running}) == len(running), "two units of a domain run")
        for unit in self.units:
            scheduler = self.cpus.slices.scheduler_of(unit.domid)
            require(scheduler.describe(unit, self.cpus.now).isprintable(), "a scheduler tells what it knows")
            spent = unit.runstate.times(self.cpus.now)
            require(sum(spent) == self.cpus.now and min(spent) >= 0, "run states add up")
        for unit in running:
            assert unit.cpu is not None
            pool = self.cpus.pool_control.pools.of_domain(unit.domid)
            allowed = (unit.hard & pool.cpus) >> unit.cpu & 1
            require(bool(allowed) or unit.preempting, "a unit runs where it may not")
        for cpu, holder in enumerate(holders):
            self.check_idle(cpu) if holder is None else None

    def check_idle(self, cpu: int) -> None:
        """Nobody waits who could run there, but for those that their policy holds back."""
        pools = self.cpus.pool_control.pools
        for unit in self.units:
            if (
                unit.runstate.state is RUNNABLE
                and unit.may_run(cpu)
                and pools.of_cpu(cpu) is pools.of_domain(unit.domid)
            ):
                pins = pools.of_domain(unit.domid).scheduler.pins
                held = pools.of_domain(unit.domid).scheduler.holds_back(unit, self.cpus.now)
                require(held or pins, f"CPU {cpu} idles while {unit.key} waits")


def require(holds: bool, what: str) -> None:
    if not holds:
        raise Broken(what)


def play(make: Callable[[], Scheduler], seed: int) -> None:
    try:
        Played(make, seed).run()
    except Exception as error:
        raise Broken(f"{make().name}, SCHED_SEED={seed}: {error}") from error


@pytest.mark.parametrize("name", POLICIES)
def test_random_steps_leave_all_in_order(name: str) -> None:
    for seed in range(FIRST_SEED, FIRST_SEED + SEEDS):
        play(POLICIES[name], seed)


# --- negative controls: each breaks what its name says -----------------------------------------------


class LeavesCpusIdle(RoundRobin):
    """Every third time."""

    picks = 0

    def pick(self, cpu: int, now: int) -> Turn | None:
        self.picks += 1
        return super().pick(cpu, now) if self.picks % 3 else None


class ForgetsAffinity(RoundRobin):
    """Whoever waits may run anywhere."""

    def pick(self, cpu: int, now: int) -> Turn | None:
        for unit in self._queue:
            if unit.sibling is None:
                self._queue.remove(unit)
                self._starts(unit, now)
                return Turn(unit, self.slice_ns)
        return None


class ForgetsSiblings(RoundRobin):
    """A vCPU runs beside another of its domain."""

    def pick(self, cpu: int, now: int) -> Turn | None:
        for unit in self._queue:
            if unit.hard >> cpu & 1:
                self._queue.remove(unit)
                self._starts(unit, now)
                return Turn(unit, self.slice_ns)
        return None


class LosesTime(RoundRobin):
    """A unit's time in its states is a little wrong."""

    def pick(self, cpu: int, now: int) -> Turn | None:
        turn = super().pick(cpu, now)
        if turn is not None:
            turn.unit.runstate.state_entry_time += 1
        return turn


BROKEN: Final = {
    LeavesCpusIdle: "idles while",
    ForgetsAffinity: "runs where it may not",
    ForgetsSiblings: "two units of a domain run",
    LosesTime: "run states add up",
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_scheduler_is_found(broken: type[RoundRobin]) -> None:
    def play_some() -> None:
        for seed in range(12):
            play(broken, seed)

    with pytest.raises(Broken, match=BROKEN[broken]):
        play_some()
