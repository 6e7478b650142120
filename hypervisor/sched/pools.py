"""Pools of CPUs: each has a scheduler of its own, and every domain belongs to one (Xen common/sched/cpupool.c).

Pool 0 is there from the start, with all CPUs. A CPU belongs to one pool or to none. Here is only which belongs to which,
with Xen's refusals; that the units move is done by Slices (sched/slices.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hypervisor.public.errno import Errno, XenError
from hypervisor.public.sysctl import XEN_SYSCTL_CPUPOOL_PAR_ANY
from hypervisor.sched.scheduler import Scheduler

MAX_POOLS: Final = 64
"""Xen has no bound; here a toolstack's mistake must not make the core grow."""
ANY: Final = XEN_SYSCTL_CPUPOOL_PAR_ANY
"""As a pool's id or a CPU's number: any that will do."""


@dataclass(eq=False)
class Pool:
    """`cpus`: mask of the CPUs that belong to it."""

    pool_id: int
    scheduler: Scheduler
    cpus: int = 0


class Pools:
    """All pools of a machine, and which of them a CPU and a domain belongs to."""

    def __init__(self, nr_cpus: int, scheduler: Scheduler) -> None:
        self.nr_cpus = nr_cpus
        self.first = Pool(0, scheduler)
        self.by_id: dict[int, Pool] = {0: self.first}
        self._of_cpu: list[Pool | None] = [None] * nr_cpus
        self._of_domain: dict[int, Pool] = {}
        """Those that are not in pool 0."""

    def get(self, pool_id: int) -> Pool:
        """XenError(ENOENT) if there is no such pool."""
        pool = self.by_id.get(pool_id)
        if pool is None:
            raise XenError(Errno.ENOENT, f"there is no CPU pool {pool_id}")
        return pool

    def of_cpu(self, cpu: int) -> Pool | None:
        """The pool that the CPU belongs to; None: to none."""
        return self._of_cpu[cpu]

    def of_domain(self, domid: int) -> Pool:
        """The pool that the domain belongs to: pool 0 unless it was moved."""
        return self._of_domain.get(domid, self.first)

    def domains_of(self, pool: Pool, known: set[int]) -> set[int]:
        """Those of the `known` domains that belong to the pool."""
        return {domid for domid in known if self.of_domain(domid) is pool}

    def next_event(self) -> int | None:
        """When the first of the schedulers has something to do of its own (`Scheduler.next_event`)."""
        first = None
        for pool in self.by_id.values():
            event = pool.scheduler.next_event()
            if event is not None and (first is None or event < first):
                first = event
        return first

    def free_cpus(self) -> int:
        """Mask of the CPUs that belong to no pool."""
        return sum(1 << cpu for cpu, pool in enumerate(self._of_cpu) if pool is None)

    def create(self, scheduler: Scheduler, pool_id: int = ANY) -> Pool:
        """A pool without CPUs. XenError(EEXIST) if that id is taken; ENOSPC if there are too many."""
        if pool_id in self.by_id:
            raise XenError(Errno.EEXIST, f"there is a CPU pool {pool_id}")
        if len(self.by_id) >= MAX_POOLS:
            raise XenError(Errno.ENOSPC, f"a machine has {MAX_POOLS} CPU pools at most")
        if pool_id == ANY:
            pool_id = next(number for number in range(MAX_POOLS) if number not in self.by_id)
        pool = self.by_id[pool_id] = Pool(pool_id, scheduler)
        return pool

    def destroy(self, pool: Pool, known: set[int]) -> None:
        """XenError(EBUSY) while it has CPUs, which pool 0 always has, or domains. `known`: all domains there are."""
        if pool.cpus or self.domains_of(pool, known):
            raise XenError(Errno.EBUSY, f"CPU pool {pool.pool_id} has CPUs or domains")
        del self.by_id[pool.pool_id]

    def assign(self, cpu: int, pool: Pool) -> int:
        """The CPU is the pool's from now on; its number. ANY: the lowest that is free. XenError(EINVAL) if there is no such CPU;
        ENODEV if it belongs to a pool, or none is free.
        """
        if cpu == ANY:
            cpu = next((number for number, of in enumerate(self._of_cpu) if of is None), ANY)
        elif not 0 <= cpu < self.nr_cpus:
            raise XenError(Errno.EINVAL, f"there is no CPU {cpu}")
        if cpu == ANY or self._of_cpu[cpu] is not None:
            raise XenError(Errno.ENODEV, "no CPU is free" if cpu == ANY else f"CPU {cpu} belongs to a pool")
        self._of_cpu[cpu] = pool
        pool.cpus |= 1 << cpu
        return cpu

    def unassign(self, cpu: int, pool: Pool, known: set[int]) -> int:
        """The CPU is no pool's from now on; its number. ANY: the pool's highest. XenError(EINVAL) if it is not the pool's,
        or CPU 0, which stays in pool 0; EBUSY if it is the pool's last and the pool has domains.
        """
        if cpu == ANY:
            cpu = pool.cpus.bit_length() - 1
        if not 0 <= cpu < self.nr_cpus or self._of_cpu[cpu] is not pool:
            raise XenError(Errno.EINVAL, f"CPU {cpu} does not belong to CPU pool {pool.pool_id}")
        if pool is self.first and cpu == 0:
            raise XenError(Errno.EINVAL, "CPU 0 stays in CPU pool 0")
        if pool.cpus == 1 << cpu and self.domains_of(pool, known):
            raise XenError(Errno.EBUSY, f"CPU pool {pool.pool_id} has domains, and CPU {cpu} is its last")
        self._of_cpu[cpu] = None
        pool.cpus &= ~(1 << cpu)
        return cpu

    def move_domain(self, domid: int, pool: Pool) -> None:
        """XenError(ENOENT), as on Xen, if the pool has no CPUs."""
        if not pool.cpus:
            raise XenError(Errno.ENOENT, f"CPU pool {pool.pool_id} has no CPUs")
        self._of_domain[domid] = pool

    def forget_domain(self, domid: int) -> None:
        """The domain is gone."""
        self._of_domain.pop(domid, None)
