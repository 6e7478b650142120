"""Pools, parameters and turns of siblings: what the control domain may ask for and what is refused, with Xen's errors."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hypervisor.public.errno import Errno, XenError
from hypervisor.sched.params import (
    Arinc653Schedule,
    BvtParams,
    Credit2Globals,
    CreditGlobals,
    CreditParams,
    DomainParams,
    GlobalParams,
    MinorFrame,
    NoGlobals,
    NoParams,
    RtdsParams,
)
from hypervisor.sched.policies import POLICIES, make_scheduler
from hypervisor.sched.pools import ANY
from hypervisor.sched.scheduler import ALL_CPUS, SchedUnit
from hypervisor.sched.slices import TURN_NS
from hypervisor.sched.virtual_cpus import VirtualCpus

MS = 1_000_000


def refused(errno: Errno, act: Callable[[], object]) -> None:
    with pytest.raises(XenError) as error:
        act()
    assert error.value.errno is errno


# --- pools -------------------------------------------------------------------------------------------


def test_a_domain_that_moves_runs_on_its_new_pools_cpus_alone() -> None:
    cpus = VirtualCpus(2, make_scheduler("credit2"))
    control, unit = cpus.pool_control, SchedUnit(1, 0)
    pool = control.create(make_scheduler("rtds"))
    cpus.wake(unit)
    unit.soft = 1
    refused(Errno.ENOENT, lambda: control.move_domain(1, pool, 0))
    assert control.remove_cpu(ANY, control.pools.first, 0) == 1
    assert control.add_cpu(ANY, pool, 0) == 1
    control.move_domain(1, pool, 0)
    cpus.run_until(MS)
    assert (unit.cpu, unit.hard, unit.soft) == (1, ALL_CPUS, ALL_CPUS)
    assert cpus.slices.scheduler_of(1).vcpu_params(unit) == RtdsParams()
    refused(Errno.EBUSY, lambda: control.destroy(pool))
    refused(Errno.EBUSY, lambda: control.remove_cpu(1, pool, 0))
    control.move_domain(1, control.pools.first, cpus.now)
    cpus.run_until(2 * MS)
    assert unit.cpu == 0
    control.remove_cpu(1, pool, 0)
    control.destroy(pool)
    refused(Errno.ENOENT, lambda: control.pools.get(pool.pool_id))


def test_what_xen_refuses_of_pools() -> None:
    control = VirtualCpus(2, make_scheduler("credit2")).pool_control
    first = control.pools.first
    refused(Errno.EINVAL, lambda: control.remove_cpu(0, first, 0))
    refused(Errno.EINVAL, lambda: control.remove_cpu(2, first, 0))
    refused(Errno.ENODEV, lambda: control.add_cpu(1, first, 0))
    refused(Errno.ENODEV, lambda: control.add_cpu(ANY, first, 0))
    refused(Errno.EEXIST, lambda: control.create(make_scheduler("null"), 0))
    refused(Errno.EBUSY, lambda: control.destroy(first))
    while len(control.pools.by_id) < 64:
        control.create(make_scheduler("null"))
    refused(Errno.ENOSPC, lambda: control.create(make_scheduler("null")))


def test_a_vcpu_whose_only_cpu_leaves_the_pool_may_run_anywhere() -> None:
    cpus = VirtualCpus(2, make_scheduler("credit2"))
    control, unit = cpus.pool_control, SchedUnit(1, 0)
    cpus.slices.add(unit, 0)
    control.set_affinity(unit, 0, hard=2)
    cpus.wake(unit)
    assert unit.cpu == 1
    control.remove_cpu(1, control.pools.first, 0)
    cpus.run_until(MS)
    assert (unit.cpu, unit.hard) == (0, ALL_CPUS)
    refused(Errno.EINVAL, lambda: control.set_affinity(unit, MS, hard=2))


# --- parameters --------------------------------------------------------------------------------------


def test_parameters_out_of_xens_ranges_are_refused() -> None:
    frame = MinorFrame(bytes(16), 0, 5)
    for make in (
        lambda: CreditParams(0),
        lambda: CreditParams(65536),
        lambda: CreditParams(256, -1),
        lambda: RtdsParams(9, 9),
        lambda: RtdsParams(100, 101),
        lambda: BvtParams(256, True, -1),
        lambda: CreditGlobals(0),
        lambda: CreditGlobals(1001),
        lambda: CreditGlobals(30, 99),
        lambda: CreditGlobals(1, 1001),
        lambda: CreditGlobals(30, 0, 100_001),
        lambda: Credit2Globals(500_001),
        lambda: MinorFrame(bytes(16), 0, 0),
        lambda: Arinc653Schedule(4, (frame,)),
        lambda: Arinc653Schedule(400, ()),
        lambda: Arinc653Schedule(4000, (frame,) * 65),
        lambda: make_scheduler("credit", 99_999),
        lambda: make_scheduler("null", 5 * MS),
    ):
        refused(Errno.EINVAL, make)


@pytest.mark.parametrize("name", POLICIES)
def test_parameters_of_another_policy_are_refused_and_change_nothing(name: str) -> None:
    cpus = VirtualCpus(1, make_scheduler(name))
    scheduler, unit = cpus.slices.scheduler_of(1), SchedUnit(1, 0)
    cpus.slices.add(unit, 0)
    before, all_of = scheduler.params(1), scheduler.global_params()
    domain: list[DomainParams] = [CreditParams(), RtdsParams(), BvtParams(), NoParams()]
    for params in domain:
        if type(params) is not type(before):
            with pytest.raises(XenError):
                scheduler.adjust(1, params, 0)
    whole: list[GlobalParams] = [CreditGlobals(), Credit2Globals(), NoGlobals()]
    for one in whole:
        if type(one) is not type(all_of):
            with pytest.raises(XenError):
                scheduler.adjust_global(one, 0)
    if name != "rtds":
        refused(Errno.EINVAL, lambda: scheduler.vcpu_params(unit))
        refused(Errno.EINVAL, lambda: scheduler.adjust_vcpu(unit, RtdsParams(), 0))
    assert (scheduler.params(1), scheduler.global_params()) == (before, all_of)


def test_a_cap_above_what_the_vcpus_could_use_is_refused_under_credit2() -> None:
    cpus = VirtualCpus(1, make_scheduler("credit2"))
    for vcpu_id in range(2):
        cpus.slices.add(SchedUnit(1, vcpu_id), 0)
    scheduler = cpus.slices.scheduler_of(1)
    scheduler.adjust(1, CreditParams(256, 200), 0)
    refused(Errno.EINVAL, lambda: scheduler.adjust(1, CreditParams(256, 201), 0))
    refused(Errno.ESRCH, lambda: scheduler.adjust(2, CreditParams(), 0))


def test_a_cap_that_is_taken_away_lets_the_domain_run_at_once() -> None:
    cpus = VirtualCpus(1, make_scheduler("credit2"))
    unit = SchedUnit(1, 0)
    cpus.slices.add(unit, 0)
    scheduler = cpus.slices.scheduler_of(1)
    scheduler.adjust(1, CreditParams(256, 10), 0)
    cpus.wake(unit)
    cpus.run_until(5 * MS)
    assert unit.cpu is None
    scheduler.adjust(1, CreditParams(), cpus.now)
    cpus.run_until(cpus.now)
    assert unit.cpu == 0


# --- siblings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["credit2", "credit", "bvt", "round-robin", "null"])
def test_siblings_share_a_slice_in_turns(name: str) -> None:
    cpus = VirtualCpus(1, make_scheduler(name))
    first, second = SchedUnit(1, 0), SchedUnit(1, 1)
    cpus.wake(first)
    cpus.wake(second)
    end = first.slice_end
    cpus.run_until(TURN_NS)
    assert (first.cpu, second.cpu) == (None, 0)
    if end > TURN_NS:
        assert second.slice_end == end


def test_a_vcpu_gives_its_turn_to_the_sibling_that_it_names() -> None:
    cpus = VirtualCpus(1, make_scheduler("credit2"))
    units = [SchedUnit(1, vcpu_id) for vcpu_id in range(3)]
    stranger = SchedUnit(2, 0)
    for unit in (*units, stranger):
        cpus.wake(unit)
    slices = cpus.slices
    assert not slices.yield_to(units[0], stranger, 0)
    assert not slices.yield_to(units[1], units[0], 0), "it does not run"
    cpus.run_until(MS // 10)
    assert slices.yield_to(units[0], units[2], cpus.now)
    assert not slices.yield_to(units[0], units[1], cpus.now), "it stops already"
    cpus.run_until(cpus.now)
    assert units[2].cpu == 0
