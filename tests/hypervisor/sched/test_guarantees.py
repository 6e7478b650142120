"""What the policies promise, each in some seconds of virtual time: shares by weight, caps, budgets before deadlines, short
waits for who mostly sleeps, and nothing to be gained by tricks.

Negative controls: round robin knows no weights and lets a sleeper wait; a credit scheduler that charges by samples is
robbed; one without caps overruns them; a fixed order starves somebody.
"""

from __future__ import annotations

import random
from typing import Any, Final

import pytest

from domains.xenctl.sched_sim.simulate import Kind, Simulation, simulate
from domains.xenctl.sched_sim.workload import Choice, Workload
from hypervisor.public.vcpu import RunState
from hypervisor.sched.credit import Credit, CreditAccount
from hypervisor.sched.credit2 import Credit2
from hypervisor.sched.params import Arinc653Schedule, MinorFrame
from hypervisor.sched.policies import POLICIES, make_scheduler
from hypervisor.sched.policy import RunQueue
from hypervisor.sched.round_robin import RoundRobin
from hypervisor.sched.scheduler import Scheduler, SchedUnit
from hypervisor.sched.virtual_cpus import VirtualCpus

MS: Final = 1_000_000
TICK_NS: Final = 10 * MS
FAIR: Final = ("credit", "credit2", "bvt")
HOG: Final = {"does": "compute"}
SLEEPER: Final = {"does": {"sleep": "8ms", "work": "500us", "random": True}}


def kinds(scheduler: str, domains: dict[str, Any], **workload: Any) -> dict[str, Kind]:
    """What became of them on one CPU, or as many as are said."""
    described = Workload.model_validate({"time": "3s", "domains": domains, **workload})
    return {kind.name: kind for kind in simulate(described, Choice.model_validate(scheduler)).kinds}


def played_by(
    scheduler: Scheduler, domains: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> dict[str, Kind]:
    """The same, with a scheduler that is in no table."""
    monkeypatch.setattr("domains.xenctl.sched_sim.simulate.make_scheduler", lambda _name, _slice: scheduler)
    return kinds("credit2", domains)


# --- shares ------------------------------------------------------------------------------------------


def are_shared_by_weight(found: dict[str, Kind]) -> bool:
    return all(found[f"w{weight}"].share == pytest.approx(100 * weight / 7, rel=0.03) for weight in (1, 2, 4))


WEIGHTED: Final = {f"w{weight}": {"does": "compute", "weight": 128 * weight} for weight in (1, 2, 4)}


@pytest.mark.parametrize("scheduler", FAIR)
def test_who_computes_gets_its_share_by_weight(scheduler: str) -> None:
    assert are_shared_by_weight(kinds(scheduler, WEIGHTED, time="10s"))


def test_round_robin_knows_no_weights() -> None:
    assert not are_shared_by_weight(kinds("round-robin", WEIGHTED))


@pytest.mark.parametrize("scheduler", FAIR)
def test_what_a_domain_cannot_use_goes_to_the_others(scheduler: str) -> None:
    """Two CPUs: the heavy one has one of them, which is less than its weight is worth."""
    found = kinds(scheduler, {"heavy": {**HOG, "weight": 8192}, "light": {**HOG, "count": 2}}, cpus=2)
    assert found["heavy"].share == pytest.approx(100, abs=1)
    assert found["light"].least == pytest.approx(50, abs=2)


@pytest.mark.parametrize("scheduler", [*FAIR, "credit:5ms", "credit2:5ms"])
def test_equals_get_the_same_whoever_sleeps_beside_them(scheduler: str) -> None:
    """Credit lost what sleepers did not use, and then shared by chance: one hog had half as much again as another."""
    found = kinds(
        scheduler, {"sleepers": {**SLEEPER, "weight": 512, "count": 2}, "hogs": {**HOG, "count": 3}}
    )
    assert found["hogs"].most < 1.04 * found["hogs"].least


@pytest.mark.parametrize("scheduler", FAIR)
def test_four_vcpus_of_a_domain_have_no_larger_claim_than_one(scheduler: str) -> None:
    found = kinds(scheduler, {"four": {**HOG, "vcpus": 4}, "one": HOG})
    assert found["four"].share == pytest.approx(50, abs=1.5)


# --- caps --------------------------------------------------------------------------------------------


def keeps_its_cap(found: Kind, cap: int) -> bool:
    return found.share == pytest.approx(cap, rel=0.02)


@pytest.mark.parametrize("cap", [5, 25, 60])
@pytest.mark.parametrize("scheduler", ["credit", "credit2"])
def test_a_capped_domain_gets_its_cap_and_no_more(scheduler: str, cap: int) -> None:
    capped = {**HOG, "cap": cap}
    assert keeps_its_cap(kinds(scheduler, {"capped": capped})["capped"], cap)
    beside = kinds(scheduler, {"capped": {**capped, "weight": 4096}, "hog": HOG})
    assert keeps_its_cap(beside["capped"], cap)
    assert beside["hog"].share == pytest.approx(100 - cap, abs=1)


def test_without_the_budget_a_cap_is_overrun(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoBudget(Credit2):
        def _set_cap(self, *_: object) -> None: ...

    assert not keeps_its_cap(played_by(NoBudget(), {"capped": {**HOG, "cap": 25}}, monkeypatch)["capped"], 25)


# --- deadlines ---------------------------------------------------------------------------------------


def servers(*budgets: tuple[int, int]) -> dict[str, Any]:
    """Each computes all the time, and is due a budget in each period, both in ms."""
    return {
        f"s{number}": {**HOG, "rtds": {"period": f"{period}ms", "budget": f"{budget}ms", "extratime": False}}
        for number, (budget, period) in enumerate(budgets)
    }


def misses(domains: dict[str, Any], **workload: Any) -> int:
    return sum(kind.server_misses or 0 for kind in kinds("rtds", domains, **workload).values())


@pytest.mark.parametrize(
    ("cpus", "budgets"), [(1, ((2, 10), (8, 20), (11, 30))), (2, ((7, 10), (9, 20), (9, 30)))]
)
def test_budgets_that_can_be_met_are_met(cpus: int, budgets: tuple[tuple[int, int], ...]) -> None:
    """97 percent of one CPU, 145 of two; the rest is for stopping."""
    found = kinds("rtds", servers(*budgets), cpus=cpus)
    assert sum(kind.server_misses or 0 for kind in found.values()) == 0
    for kind, (budget, period) in zip(found.values(), budgets, strict=True):
        assert kind.share == pytest.approx(100 * budget / period, rel=0.02)


def test_budgets_that_cannot_be_met_are_counted() -> None:
    assert misses(servers((6, 10), (10, 20), (6, 30))) > 100


def test_work_that_is_due_is_done_in_time_beside_hogs() -> None:
    video = {"does": {"every": "20ms", "work": "4ms"}, "rtds": {"period": "20ms", "budget": "5ms"}}
    hogs = {**HOG, "count": 3, "rtds": {"period": "10ms", "budget": "1ms"}}
    assert kinds("rtds", {"video": video, "hogs": hogs})["video"].missed == 0
    assert kinds("round-robin", {"video": video, "hogs": hogs})["video"].missed > 50


# --- waits, and tricks -------------------------------------------------------------------------------


def waits_in_median(scheduler: str) -> float:
    waits = kinds(scheduler, {"sleeper": SLEEPER, "hogs": {**HOG, "count": 3}})["sleeper"].waits
    assert waits is not None
    return waits.median


@pytest.mark.parametrize("scheduler", FAIR)
def test_who_mostly_sleeps_gets_a_cpu_soon(scheduler: str) -> None:
    assert waits_in_median(scheduler) < 1


def test_under_round_robin_it_waits_for_all_others() -> None:
    assert waits_in_median("round-robin") > 20


TRICKS: Final = {
    "is gone when a tick comes": {"dodge": "10ms", "gap": "100us"},
    "sleeps for a moment now and then": {"work": "2ms", "sleep": "20us"},
    "yields all the time": {"yield_after": "300us"},
}


@pytest.mark.parametrize("trick", TRICKS)
@pytest.mark.parametrize("scheduler", FAIR)
def test_no_trick_gets_more_than_the_share(scheduler: str, trick: str) -> None:
    found = kinds(scheduler, {"cheat": {"does": TRICKS[trick]}, "honest": {**HOG, "count": 2}})
    assert found["cheat"].share < 100 / 3 * 1.03


class SampledCredit(Credit):
    """Charges whoever runs when a tick comes, for a whole tick."""

    def _charge(self, unit: SchedUnit, account: CreditAccount, ran: int, now: int) -> None:
        ticks = now // TICK_NS - (now - ran) // TICK_NS
        super()._charge(unit, account, ticks * TICK_NS, now)


def test_a_scheduler_that_samples_is_robbed(monkeypatch: pytest.MonkeyPatch) -> None:
    cheat = {"does": TRICKS["is gone when a tick comes"]}
    found = played_by(SampledCredit(), {"cheat": cheat, "honest": {**HOG, "count": 2}}, monkeypatch)
    assert found["cheat"].share > 90


# --- nobody starves, and time is charged -------------------------------------------------------------


def longest_wait(scheduler: Scheduler, seed: int) -> int:
    """Of a unit that always computes, beside five that do random things; ms."""
    draw, waits, since = random.Random(seed), [0], 0
    units = [SchedUnit(domid, 0) for domid in range(1, 7)]

    def resumed(unit: SchedUnit) -> None:
        if unit is units[0]:
            waits.append(cpus.now - since)

    def stopped(unit: SchedUnit) -> None:
        nonlocal since
        if unit is units[0]:
            since = cpus.now

    cpus = VirtualCpus(1, scheduler, resumed=resumed, stopped=stopped)
    for unit in units:
        cpus.wake(unit)
    for _ in range(300):
        one = draw.choice(units[1:])
        draw.choice((cpus.wake, cpus.wake, cpus.sleep, cpus.yield_))(one)
        cpus.run_until(cpus.now + draw.choice((10_000, MS, 8 * MS)))
    return max(*waits, cpus.now - since if units[0].cpu is None else 0) // MS


class LowestLast(RoundRobin):
    """The highest domain first."""

    def __init__(self) -> None:
        super().__init__()
        self._queue = RunQueue(lambda unit: -unit.domid)


@pytest.mark.parametrize("scheduler", [*FAIR, "round-robin"])
def test_nobody_starves(scheduler: str) -> None:
    for seed in range(5):
        assert longest_wait(make_scheduler(scheduler), seed) < 250, seed


def test_somebody_starves_where_the_same_ones_are_always_first() -> None:
    assert longest_wait(LowestLast(), 0) > 500


def test_all_running_time_is_charged_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    charged: dict[SchedUnit, int] = {}

    class Counting(Credit):
        def _charge(self, unit: SchedUnit, account: CreditAccount, ran: int, now: int) -> None:
            charged[unit] = charged.get(unit, 0) + ran
            super()._charge(unit, account, ran, now)

    monkeypatch.setattr("domains.xenctl.sched_sim.simulate.make_scheduler", lambda _name, _slice: Counting())
    domains = {
        "sleepers": {**SLEEPER, "count": 3},
        "hogs": {**HOG, "count": 2, "vcpus": 2},
        "capped": {**HOG, "cap": 20},
    }
    workload = Workload.model_validate({"time": "3s", "cpus": 2, "domains": domains})
    simulation = Simulation(workload, Choice(name="credit"))
    simulation.run()
    now = workload.time
    scheduler = simulation.scheduler
    assert isinstance(scheduler, Counting)
    for unit, ran in charged.items():
        not_yet = now - scheduler.running.get(unit, now)
        assert ran + not_yet == unit.runstate.times(now)[RunState.RUNSTATE_running]


# --- fixed places ------------------------------------------------------------------------------------


def test_a_frame_is_one_vcpus_whatever_the_others_do() -> None:
    scheduler = make_scheduler("arinc653")
    runs: list[tuple[int, int]] = []
    cpus = VirtualCpus(1, scheduler, resumed=lambda unit: runs.append((unit.domid, cpus.now // MS)))
    one, two = SchedUnit(1, 0, b"1" * 16), SchedUnit(2, 0, b"2" * 16)
    for unit in (one, two, SchedUnit(3, 0, b"3" * 16)):
        cpus.wake(unit)
    frames = tuple(
        MinorFrame(unit.handle, 0, length * MS) for unit, length in ((one, 5), (two, 10), (one, 2))
    )
    scheduler.adjust_global(Arinc653Schedule(20 * MS, frames), 0)
    cpus.run_until(39 * MS)
    assert runs == [(1, 0), (2, 5), (1, 15), (1, 20), (2, 25), (1, 35)]
    assert one.runstate.times(cpus.now)[RunState.RUNSTATE_running] == 14 * MS


def test_under_null_a_vcpu_has_a_cpu_of_its_own_or_waits_for_one() -> None:
    cpus = VirtualCpus(2, make_scheduler("null"))
    one, two, third = (SchedUnit(domid, 0) for domid in (1, 2, 3))
    for unit in (one, two, third):
        cpus.wake(unit)
    cpus.sleep(one)
    cpus.run_until(1000 * MS)
    assert (third.cpu, cpus.slices.cpus) == (None, [None, two])
    cpus.slices.forget(one, cpus.now)
    assert third.cpu == 0


@pytest.mark.parametrize("scheduler", sorted(POLICIES))
def test_who_may_run_on_one_cpu_alone_drives_another_to_a_free_one(scheduler: str) -> None:
    """It may not under ARINC 653 and null, which choose the CPU."""
    policy = make_scheduler(scheduler)
    cpus = VirtualCpus(2, policy)
    mover, pinned = SchedUnit(1, 0), SchedUnit(2, 0)
    pinned.hard = 1
    cpus.wake(mover)
    cpus.wake(pinned)
    cpus.run_until(1)
    if not policy.pins:
        assert (mover.cpu, pinned.cpu) == (1, 0)


def test_a_unit_goes_where_it_prefers_to_run_when_there_is_room() -> None:
    cpus = VirtualCpus(2, make_scheduler("credit2"))
    first, second = SchedUnit(1, 0), SchedUnit(2, 0)
    second.soft = 1
    cpus.wake(first)
    cpus.wake(second)
    assert (first.cpu, second.cpu) == (0, 1)
    cpus.sleep(first)
    cpus.run_until(1)
    assert second.cpu == 0
