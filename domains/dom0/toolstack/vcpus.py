"""The vCPUs of domains: which there are, how many are online, which CPUs they may run on.

How many are online is the guest's to do: the toolstack writes `cpu/<n>/availability` into the domain's directory of the store,
and the guest brings vCPUs up and down (libxl_set_vcpuonline).
"""

from __future__ import annotations

from domains.control.cpus import mask_of, numbers
from domains.control.description import DomainConfig
from domains.control.sched_operations import VcpuListing, VcpuPin, VcpuSet, VcpuState
from domains.dom0.toolstack.domains import Domains
from domains.dom0.toolstack.errors import ToolstackError
from domains.dom0.toolstack.sched_ctrl import SchedCtrl
from domains.dom0.toolstack.store_tree import write_availability
from domains.dom0.toolstack.xenctrl import DomainInfo, XenCtrl
from domains.kernel.tasks import NEXT_TURN, Task
from domains.kernel.xenbus import Xenbus
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.types import DomId


class Vcpus:
    """One per toolstack."""

    def __init__(self, xen: XenCtrl, sched: SchedCtrl, xenbus: Xenbus, domains: Domains) -> None:
        self._xen = xen
        self._sched = sched
        self._xenbus = xenbus
        self._domains = domains

    # --- what there is ---------------------------------------------------------------------------

    def listing(self, wanted: tuple[str, ...]) -> Task[VcpuListing]:
        """The vCPUs of these domains, or of all; the others' turn comes after each domain. Raises ToolstackError."""
        if wanted:
            infos = [self._domains.find(name) for name in wanted]
        else:
            infos = yield from self._xen.all_domains()
        found: list[VcpuState] = []
        for info in infos:
            try:
                found += self._of(info)
            except XenError as error:  # it has ended meanwhile
                if error.errno is not Errno.ESRCH:
                    raise
            yield NEXT_TURN
        return VcpuListing(self._xen.physinfo().nr_cpus, tuple(found))

    def _of(self, info: DomainInfo) -> tuple[VcpuState, ...]:
        name = self._domains.name_of(info.domid)
        return tuple(self._state(info.domid, name, vcpu) for vcpu in range(info.max_vcpus))

    def _state(self, domid: DomId, name: str | None, vcpu: int) -> VcpuState:
        info = self._sched.vcpu_info(domid, vcpu)
        hard, soft = self._sched.affinity(domid, vcpu)
        return VcpuState(
            name=name,
            domid=domid,
            vcpu=vcpu,
            online=bool(info.online),
            blocked=bool(info.blocked),
            running=bool(info.running),
            cpu=info.cpu,
            cpu_time=info.cpu_time / 1e9,
            hard=numbers(hard),
            soft=numbers(soft),
        )

    # --- how many are online ---------------------------------------------------------------------

    def set_online(self, wanted: VcpuSet) -> None:
        """Ask a domain to have so many vCPUs. Raises ToolstackError."""
        info, count = self._domains.find(wanted.domain), wanted.vcpus
        if count < 1:
            raise ToolstackError("a domain has one vCPU online at least")
        if count > info.max_vcpus:
            raise ToolstackError(
                f"domain '{wanted.domain}' can have {info.max_vcpus} vCPUs online, not {count};"
                " 'maxvcpus' of its description says how many"
            )
        nr_cpus = self._xen.physinfo().nr_cpus
        if not wanted.ignore_host and count > max(nr_cpus, info.vcpus):
            raise ToolstackError(
                f"the machine has {nr_cpus} CPUs, fewer than {count}; --ignore-host goes on all the same"
            )
        self._xenbus.in_transaction(
            lambda nodes: write_availability(nodes, info.domid, count, info.max_vcpus)
        )
        if (record := self._domains.records.get(info.domid)) is not None:
            record.config = record.config.replaced(vcpus=count)

    # --- which CPUs they run on ------------------------------------------------------------------

    def pin(self, wanted: VcpuPin) -> tuple[str, ...]:
        """Set the CPUs of a vCPU, or of all; warnings. Raises ToolstackError."""
        info = self._domains.find(wanted.domain)
        if wanted.vcpu is not None and wanted.vcpu >= info.max_vcpus:
            raise ToolstackError(
                f"domain '{wanted.domain}' has no vCPU {wanted.vcpu}; its highest is {info.max_vcpus - 1}"
            )
        vcpus = range(info.max_vcpus) if wanted.vcpu is None else (wanted.vcpu,)
        warnings: list[str] = []
        for vcpu in vcpus:
            warnings += self._pin(info.domid, vcpu, wanted.hard, wanted.soft, force=wanted.force)
        return tuple(warnings)

    def pin_as_described(self, domid: DomId, config: DomainConfig) -> tuple[str, ...]:
        """Set the CPUs that a description has for each vCPU of a new domain; warnings. Raises ToolstackError."""
        warnings: list[str] = []
        for vcpu in range(min(max(len(config.cpus), len(config.cpus_soft)), config.maxvcpus)):
            hard = config.cpus[vcpu] if vcpu < len(config.cpus) else None
            soft = config.cpus_soft[vcpu] if vcpu < len(config.cpus_soft) else None
            warnings += self._pin(domid, vcpu, hard, soft)
        return tuple(warnings)

    def _pin(
        self, domid: DomId, vcpu: int, hard: str | None, soft: str | None, *, force: bool = False
    ) -> list[str]:
        """Warnings, if the CPUs that the vCPU should run on are none of those it may."""
        nr_cpus = self._xen.physinfo().nr_cpus
        masks = [None if cpus is None else mask_of(cpus, nr_cpus) for cpus in (hard, soft)]
        try:
            _, prefers = self._sched.set_affinity(domid, vcpu, *masks, force=force)
        except XenError as error:
            if error.errno is not Errno.EINVAL or masks[0] is None:
                raise ToolstackError(f"vCPU {vcpu} of domain {domid} cannot be pinned: {error}") from None
            raise ToolstackError(
                f"vCPU {vcpu} of domain {domid} cannot be pinned: none of its CPUs ('{hard}') is in the domain's CPU"
                " pool; 'xenctl cpupool-list -c' shows which are"
            ) from None
        if soft is None or prefers:
            return []
        return [f"vCPU {vcpu} of domain {domid} may run on none of the CPUs that it should run on ({soft})"]
