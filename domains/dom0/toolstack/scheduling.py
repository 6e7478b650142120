"""vCPUs, schedulers and CPU pools together: what a new domain gets of its description, and the table of their operations."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Final

from domains.control import sched_operations as ops
from domains.control.description import DomainConfig
from domains.dom0.toolstack.cpupools import Cpupools
from domains.dom0.toolstack.domains import Domains
from domains.dom0.toolstack.sched_ctrl import SchedCtrl
from domains.dom0.toolstack.sched_names import scheduler_name
from domains.dom0.toolstack.schedulers import Schedulers
from domains.dom0.toolstack.vcpus import Vcpus
from domains.dom0.toolstack.xenctrl import XenCtrl
from domains.kernel.kernel import Kernel
from hypervisor.public.types import DomId


class Scheduling:
    """One per toolstack."""

    def __init__(self, kernel: Kernel, xen: XenCtrl, domains: Domains, chance: Random) -> None:
        self._sched = SchedCtrl(kernel, xen)
        self.pools = Cpupools(xen, self._sched, kernel.xenbus, chance)
        self.vcpus = Vcpus(xen, self._sched, kernel.xenbus, domains)
        self.schedulers = Schedulers(xen, self._sched, domains, self.pools)
        self._domains = domains

    @property
    def name(self) -> str:
        """The machine's scheduler: that of Pool-0."""
        return scheduler_name(self._sched.sched_id())

    @property
    def free_cpus(self) -> int:
        """How many CPUs are in no pool."""
        return self._sched.free_cpus().bit_count()

    def pool_of(self, config: DomainConfig) -> int:
        """The id of the pool that a description names. Raises ToolstackError."""
        return 0 if config.pool is None else self.pools.find(config.pool).id

    def apply(self, domid: DomId, config: DomainConfig) -> tuple[str, ...]:
        """Give a new domain its vCPUs' CPUs and its parameters; warnings. Raises ToolstackError."""
        warnings = self.vcpus.pin_as_described(domid, config)
        self.schedulers.set_as_described(domid, config)
        return warnings

    def perform(self, wanted: Any) -> Any:
        """What the operation answers, or a task that will. Raises ToolstackError."""
        return self.HANDLERS[type(wanted)](self, wanted)

    def _migrate(self, wanted: ops.CpupoolMigrate) -> None:
        self.pools.migrate(self._domains.find(wanted.domain), wanted.pool)

    HANDLERS: Final[dict[type[Any], Callable[[Scheduling, Any], Any]]] = {
        ops.VcpuList: lambda self, wanted: self.vcpus.listing(wanted.domains),
        ops.VcpuSet: lambda self, wanted: self.vcpus.set_online(wanted),
        ops.VcpuPin: lambda self, wanted: self.vcpus.pin(wanted),
        ops.SchedList: lambda self, wanted: self.schedulers.listing(wanted),
        ops.SchedShow: lambda self, wanted: self.schedulers.show(wanted),
        ops.SchedSet: lambda self, wanted: self.schedulers.set(wanted),
        ops.SchedSetVcpus: lambda self, wanted: self.schedulers.set_vcpus(wanted),
        ops.SchedShowPool: lambda self, wanted: self.schedulers.show_pool(wanted),
        ops.SchedSetPool: lambda self, wanted: self.schedulers.set_pool(wanted),
        ops.CpupoolList: lambda self, wanted: self.pools.show(wanted.pool),
        ops.CpupoolCreate: lambda self, wanted: self.pools.create(wanted),
        ops.CpupoolDestroy: lambda self, wanted: self.pools.destroy(wanted.pool),
        ops.CpupoolRename: lambda self, wanted: self.pools.rename(wanted.pool, wanted.name),
        ops.CpupoolCpuAdd: lambda self, wanted: self.pools.add_cpus(wanted.pool, wanted.cpus),
        ops.CpupoolCpuRemove: lambda self, wanted: self.pools.remove_cpus(wanted.pool, wanted.cpus),
        ops.CpupoolMigrate: _migrate,
    }
    """What performs each operation."""
