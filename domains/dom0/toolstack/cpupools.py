"""CPU pools under their names: Xen knows the ids, the store the names, in /local/pool/<id>/name.

What goes wrong with single CPUs of many is told of each, and the others are done all the same. Source: libxl's libxl_cpupool.c,
which reports such CPUs too and then ends as if all were well; here that is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final
from uuid import UUID

from domains.control.cpus import mask_of, numbers, shown
from domains.control.description import bad_name
from domains.control.sched_operations import Cpupool, CpupoolCreate
from domains.dom0.toolstack.errors import ToolstackError
from domains.dom0.toolstack.sched_ctrl import PoolInfo, SchedCtrl
from domains.dom0.toolstack.sched_names import sched_id_of, scheduler_name
from domains.dom0.toolstack.store_tree import read_or_none, remove, write_all
from domains.dom0.toolstack.xenctrl import DomainInfo, XenCtrl
from domains.kernel.xenbus import Xenbus
from hypervisor.public.errno import Errno, XenError

FIRST_POOL: Final = "Pool-0"
CPU_REFUSALS: Final = {
    Errno.EINVAL: "CPU 0 stays in Pool-0, and others must exist",
    Errno.ENODEV: "it is not free",
    Errno.EADDRNOTAVAIL: "it is not in the pool",
    Errno.EBUSY: "domains need it",
}
"""Why Xen does not put a CPU into a pool, or take it out."""


class Cpupools:
    """The machine's pools."""

    def __init__(self, xen: XenCtrl, sched: SchedCtrl, xenbus: Xenbus, chance: Random) -> None:
        self._xen = xen
        self._sched = sched
        self._xenbus = xenbus
        self._chance = chance

    @property
    def nr_cpus(self) -> int:
        """CPUs of the machine."""
        return self._xen.physinfo().nr_cpus

    def all(self) -> list[Cpupool]:
        """Every pool, in the order of their ids."""
        return [self._described(info) for info in self._sched.cpupools()]

    def find(self, wanted: str) -> PoolInfo:
        """The pool of that name or id. Raises ToolstackError."""
        for info in self._sched.cpupools():
            if wanted == (str(info.id) if wanted.isdecimal() else self.name_of(info.id)):
                return info
        raise ToolstackError(f"there is no CPU pool '{wanted}'; 'xenctl cpupool-list' shows those there are")

    def show(self, wanted: str | None) -> list[Cpupool]:
        """That pool, or all. Raises ToolstackError."""
        return self.all() if wanted is None else [self._described(self.find(wanted))]

    def name_of(self, pool: int) -> str:
        """A pool's name in the store; one that was made by others may have none, and is shown by its id."""
        name = read_or_none(self._xenbus, f"{home(pool)}/name")
        return name if name is not None else FIRST_POOL if pool == 0 else str(pool)

    def names(self) -> dict[int, str]:
        """The name of each pool by its id."""
        return {info.id: self.name_of(info.id) for info in self._sched.cpupools()}

    def create(self, wanted: CpupoolCreate) -> Cpupool:
        """Make a pool with its CPUs, or nothing of it. Raises ToolstackError."""
        self._check_name(wanted.name)
        sched_id = self._sched.sched_id() if wanted.scheduler is None else sched_id_of(wanted.scheduler)
        cpus = self._cpus_for(wanted)
        if wanted.dry_run:
            return Cpupool(0, wanted.name, scheduler_name(sched_id), numbers(cpus), 0)
        try:
            pool = self._sched.cpupool_create(sched_id)
        except XenError as error:
            raise ToolstackError(f"the CPU pool could not be made: {error}") from None
        try:
            self._each(pool, cpus, self._sched.cpupool_add_cpu, "added to")
        except ToolstackError:
            self._end(pool, cpus)
            raise
        uuid = UUID(int=self._chance.getrandbits(128), version=4)
        write_all(self._xenbus, home(pool), {"uuid": str(uuid), "name": wanted.name})
        return self._described(self.find(str(pool)))

    def _cpus_for(self, wanted: CpupoolCreate) -> int:
        """The CPUs of a new pool. Raises ToolstackError."""
        free, nr_cpus = self._sched.free_cpus(), self.nr_cpus
        if wanted.nodes is not None:
            cpus = free if 0 in wanted.nodes else 0
            if not cpus:
                raise ToolstackError("no CPU of these nodes is free; 'xenctl cpupool-cpu-remove' frees one")
            return cpus
        cpus = mask_of(wanted.cpus or "", nr_cpus)
        if cpus & ~free:
            taken = shown(cpus & ~free, nr_cpus)
            raise ToolstackError(f"CPUs that are not free: {taken}; 'xenctl cpupool-cpu-remove' frees them")
        return cpus

    def destroy(self, wanted: str) -> None:
        """End a pool; its CPUs are free. Raises ToolstackError."""
        info = self.find(wanted)
        if info.n_dom:
            raise ToolstackError(
                f"CPU pool '{wanted}' has domains; move them with 'xenctl cpupool-migrate', or end them"
            )
        try:
            self._end(info.id, info.cpus)
        except XenError as error:
            raise ToolstackError(f"CPU pool '{wanted}' cannot be ended: {error}") from None

    def _end(self, pool: int, cpus: int) -> None:
        """XenError."""
        for cpu in numbers(cpus & self._now(pool).cpus):
            self._sched.cpupool_remove_cpu(pool, cpu)
        self._sched.cpupool_destroy(pool)
        remove(self._xenbus, home(pool))

    def rename(self, wanted: str, name: str) -> None:
        """Give a pool another name. Raises ToolstackError."""
        info = self.find(wanted)
        if name != self.name_of(info.id):
            self._check_name(name)
            self._xenbus.write(f"{home(info.id)}/name", name)

    def add_cpus(self, wanted: str, cpus: str) -> None:
        """Put CPUs into a pool. Raises ToolstackError with those that could not be."""
        info = self.find(wanted)
        self._each(info.id, self._named(cpus), self._sched.cpupool_add_cpu, "added to")

    def remove_cpus(self, wanted: str, cpus: str) -> None:
        """Take CPUs out of a pool. Raises ToolstackError with those that could not be."""
        info = self.find(wanted)
        self._each(info.id, self._named(cpus), self._sched.cpupool_remove_cpu, "removed from")

    def migrate(self, domain: DomainInfo, wanted: str) -> None:
        """Move a domain into a pool. Raises ToolstackError."""
        info = self.find(wanted)
        if domain.domid == 0 and domain.cpupool != info.id:
            raise ToolstackError(f"Dom0 stays in {self.name_of(domain.cpupool)}")
        if not info.cpus:
            raise ToolstackError(f"CPU pool '{wanted}' has no CPU; add one with 'xenctl cpupool-cpu-add'")
        try:
            self._sched.cpupool_move_domain(info.id, domain.domid)
        except XenError as error:
            raise ToolstackError(
                f"domain {domain.domid} cannot be moved to CPU pool '{wanted}': {error}"
            ) from None

    def _named(self, cpus: str) -> int:
        mask = mask_of(cpus, self.nr_cpus)
        if not mask:
            raise ToolstackError(f"'{cpus}' names no CPU of this machine, which has {self.nr_cpus}")
        return mask

    def _each(self, pool: int, cpus: int, act: Callable[[int, int], None], what: str) -> None:
        """Raises ToolstackError with the CPUs that Xen refused."""
        refused = []
        for cpu in numbers(cpus):
            try:
                act(pool, cpu)
            except XenError as error:
                refused.append(f"CPU {cpu} ({CPU_REFUSALS.get(error.errno, error)})")
        if refused:
            raise ToolstackError(f"not {what} CPU pool '{self.name_of(pool)}': {', '.join(refused)}")

    def _check_name(self, name: str) -> None:
        if (why := bad_name(name)) is not None:
            raise ToolstackError(f"the name of a CPU pool {why}")
        if any(self.name_of(info.id) == name for info in self._sched.cpupools()):
            raise ToolstackError(f"there is a CPU pool '{name}' already")

    def _now(self, pool: int) -> PoolInfo:
        return self.find(str(pool))

    def _described(self, info: PoolInfo) -> Cpupool:
        return Cpupool(
            info.id,
            self.name_of(info.id),
            scheduler_name(info.sched_id),
            numbers(info.cpus),
            info.n_dom,
        )


def home(pool: int) -> str:
    """A pool's own directory in the store."""
    return f"/local/pool/{pool}"
