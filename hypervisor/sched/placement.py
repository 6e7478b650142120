"""Which free CPU a unit gets, and which running unit moves to a free one. Questions alone: Slices acts (sched/slices.py).

Hard affinity is a rule, soft affinity a preference: a unit takes a free CPU that it does not prefer rather than wait, and
moves when one that it prefers is free and nobody waits for that. Where the policy chooses the CPU (`Scheduler.pins`), nobody
is moved.
"""

from __future__ import annotations

from collections.abc import Sequence

from hypervisor.sched.pools import Pool
from hypervisor.sched.scheduler import ALL_CPUS, SchedUnit

Holders = Sequence[SchedUnit | None]
"""By CPU: the unit that has it."""


def preferred(holders: Holders, unit: SchedUnit, pool: Pool) -> list[int]:
    """The pool's free CPUs that the unit may run on, the best first: one that it prefers, then the one that it ran on last."""
    allowed = unit.hard & pool.cpus
    free = [cpu for cpu, holder in enumerate(holders) if holder is None and allowed >> cpu & 1]
    if len(free) > 1:
        free.sort(key=lambda cpu: (not unit.soft >> cpu & 1, cpu != unit.last_cpu))
    return free


def attracted(holders: Holders, cpu: int, pool: Pool) -> SchedUnit | None:
    """The CPU is free and nobody waits for it: a unit that runs on a CPU that it does not prefer, and prefers this one."""
    if pool.scheduler.pins:
        return None
    for unit in holders:
        if unit is None or unit.cpu is None or unit.preempting or unit.soft == ALL_CPUS:
            continue
        moves = (unit.hard & unit.soft) >> cpu & 1 and not unit.soft >> unit.cpu & 1
        if moves and pool.cpus >> unit.cpu & 1:
            return unit
    return None


def displaced(holders: Holders, unit: SchedUnit, pool: Pool) -> SchedUnit | None:
    """`unit` waits, and no free CPU is for it: a unit that runs where it might, and could go to a free one."""
    free = sum(1 << cpu for cpu, holder in enumerate(holders) if holder is None) & pool.cpus
    if not free or pool.scheduler.pins:
        return None
    for other in holders:
        if other is None or other.cpu is None or not unit.may_run(other.cpu):
            continue
        if pool.cpus >> other.cpu & 1 and other.hard & free:
            return other
    return None
