"""Affinity and CPU pools as the control domain changes them: what XEN_DOMCTL_setvcpuaffinity and XEN_SYSCTL_cpupool_op come to.

    slices.set_affinity ─┐                 ┌─ masks and pools change at once
    move_domain, …       ├── PoolControl ──┤
                         ┘                 └─ a unit that runs where it may not any more is asked to stop, and waits where it
                         belongs

A mask has bit n set for CPU n. Sources: Xen common/sched/core.c (vcpu_set_affinity, sched_move_domain, cpu_disable_scheduler),
common/sched/cpupool.c. Unlike on Xen a CPU leaves its pool at once, though its unit may have it until it has stopped.
"""

from __future__ import annotations

from hypervisor.public.errno import Errno, XenError
from hypervisor.public.vcpu import RunState
from hypervisor.sched.pools import ANY, Pool, Pools
from hypervisor.sched.scheduler import ALL_CPUS, Scheduler, SchedUnit
from hypervisor.sched.slices import Slices


class PoolControl:
    """Changes where units run. `pools` is to be read by anybody, and changed here alone."""

    def __init__(self, slices: Slices) -> None:
        self._slices = slices
        self.pools: Pools = slices.pools

    def set_affinity(
        self, unit: SchedUnit, now: int, *, hard: int | None = None, soft: int | None = None
    ) -> None:
        """Where a unit may run, and where it prefers to; None leaves one as it is.

        XenError(EINVAL), and nothing has changed, for a hard mask without a CPU of the unit's pool. A soft mask may be any, as on
        Xen; one without a CPU of the hard mask has no effect.
        """
        if hard is not None and not hard & self.pools.of_domain(unit.domid).cpus:
            raise XenError(Errno.EINVAL, f"no CPU of the domain's pool is in the mask {hard:#x}")
        unit.hard = unit.hard if hard is None else hard
        unit.soft = unit.soft if soft is None else soft
        self.vcpu_migrate(unit, now)

    def vcpu_migrate(self, unit: SchedUnit, now: int) -> None:
        """Find the unit its place anew: one that runs where it may not is asked to stop; one that waits waits anew; one that
        sleeps will find it when it wakes. (Xen's sched_unit_migrate_start and sched_unit_migrate_finish.)
        """
        pool = self.pools.of_domain(unit.domid)
        if unit.cpu is not None:
            if not (unit.hard & pool.cpus) >> unit.cpu & 1 and not unit.preempting:
                self._slices.ask(unit, now)
        elif unit.runstate.state is RunState.RUNSTATE_runnable:
            pool.scheduler.remove(unit, now)
            pool.scheduler.insert(unit, now, woken=False)
            self._slices.place(unit, now)
        self._slices.fill(now)

    def create(self, scheduler: Scheduler, pool_id: int = ANY) -> Pool:
        """A pool without CPUs; `scheduler` is a fresh one (policies.make_scheduler). Errors as Pools.create."""
        return self.pools.create(scheduler, pool_id)

    def destroy(self, pool: Pool) -> None:
        """Errors as Pools.destroy."""
        self.pools.destroy(pool, self._slices.siblings.domids())

    def add_cpu(self, cpu: int, pool: Pool, now: int) -> int:
        """A CPU that belongs to no pool (ANY: the lowest) comes to this one; its number. Errors as Pools.assign."""
        cpu = self.pools.assign(cpu, pool)
        pool.scheduler.cpu_add(cpu, now)
        self._slices.fill(now)
        return cpu

    def remove_cpu(self, cpu: int, pool: Pool, now: int) -> int:
        """The CPU (ANY: the pool's highest) belongs to no pool from now on; its number. Its unit is asked to stop. A unit
        that could run nowhere else may now run anywhere (Xen's broken affinity). Errors as Pools.unassign.
        """
        domids = self._slices.siblings.domids()
        cpu = self.pools.unassign(cpu, pool, domids)
        pool.scheduler.cpu_remove(cpu, now)
        homeless = [
            unit
            for domid in self.pools.domains_of(pool, domids)
            for unit in self._slices.siblings.of(domid)
            if not unit.hard & pool.cpus
        ]
        for unit in homeless:
            unit.hard = ALL_CPUS
        holder = self._slices.cpus[cpu]
        if holder is not None and not holder.preempting:
            self._slices.ask(holder, now)
        for unit in homeless:
            self.vcpu_migrate(unit, now)
        return cpu

    def move_domain(self, domid: int, pool: Pool, now: int) -> None:
        """The domain's vCPUs belong to `pool` from now on, with default parameters and any affinity, as on Xen. One that
        runs is asked to stop. No-op for the pool that it belongs to. XenError(ENOENT) if the pool has no CPUs.
        """
        old = self.pools.of_domain(domid)
        if old is pool:
            return
        self.pools.move_domain(domid, pool)
        units = self._slices.siblings.of(domid)
        for unit in units:
            old.scheduler.forget(unit, now)
            unit.hard = unit.soft = ALL_CPUS
            pool.scheduler.add(unit, now)
        for unit in units:
            if unit.cpu is not None:
                if not unit.preempting:
                    self._slices.ask(unit, now)
            elif unit.runstate.state is RunState.RUNSTATE_runnable:
                pool.scheduler.insert(unit, now, woken=False)
                self._slices.place(unit, now)
        self._slices.fill(now)
