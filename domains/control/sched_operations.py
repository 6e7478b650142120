"""What Dom0's toolstack can be asked about vCPUs, schedulers and CPU pools: the records of xl's vcpu-…, sched-… and cpupool-…
commands. A part of `operations.py`, which has the table of all.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from domains.control.arguments import Arguments, Count, DomIdNumber, Duration
from domains.control.cpus import CpuList
from domains.control.description import MAX_NUMBER, MAX_VCPUS, DomainText, Number, PoolText
from domains.control.records import Length, Range, Record

MAX_DOMAINS: Final = 1024
"""Domains named in one request."""

SchedulerName = Annotated[str, Length(32)]
"""As xl writes it: credit2, rtds …"""
VcpuId = Number
Signed = Annotated[int, Range(-MAX_NUMBER - 1, MAX_NUMBER)]
"""What a person wrote; the toolstack says which numbers it takes."""


# --- vCPUs -------------------------------------------------------------------------------------------


class VcpuState(Record):
    """One vCPU. `cpu`: where it runs, or ran last; `cpu_time` in seconds; `hard`, `soft`: the CPUs it may, and should, run on."""

    name: str | None
    domid: DomIdNumber
    vcpu: Count
    online: bool
    blocked: bool
    running: bool
    cpu: Count
    cpu_time: Duration
    hard: tuple[Count, ...]
    soft: tuple[Count, ...]


class VcpuListing(Record):
    """The vCPUs of domains, and how many CPUs the machine has."""

    nr_cpus: Count
    vcpus: tuple[VcpuState, ...]


class VcpuList(Arguments[VcpuListing]):
    """The vCPUs of these domains, or of all."""

    domains: Annotated[tuple[DomainText, ...], Length(MAX_DOMAINS)] = ()


class VcpuSet(Arguments[None]):
    """Ask a domain to have so many vCPUs online: it takes the others down, or brings more up. `ignore_host`: even more of them
    than the machine has CPUs.
    """

    domain: DomainText
    vcpus: Number
    ignore_host: bool = False


class VcpuPin(Arguments[tuple[str, ...]]):
    """Say which CPUs a vCPU (None: every one) may and should run on; None leaves that as it is. `force`: end a pinning
    that the guest has asked for. Answered by warnings, a line each.
    """

    domain: DomainText
    vcpu: VcpuId | None
    hard: CpuList | None
    soft: CpuList | None = None
    force: bool = False

    def __post_init__(self) -> None:
        if self.force and self.vcpu is None:
            raise ValueError("--force and 'all' as VCPU do not go together")
        if self.hard is None and self.soft is None and not self.force:
            raise ValueError("name CPUs for the hard affinity, or the soft one")


# --- schedulers --------------------------------------------------------------------------------------


class SchedParams(Record):
    """A domain's or a vCPU's parameters; None is what its scheduler does not have, or what is to stay. `weight` and `cap`
    (percent of one CPU) are of credit and credit2; `period`, `budget` (us) and `extratime` of RTDS; `weight`, `warp` and the
    others (us) of BVT.
    """

    weight: Signed | None = None
    cap: Signed | None = None
    period: Signed | None = None
    budget: Signed | None = None
    extratime: bool | None = None
    warp: bool | None = None
    warp_value: Signed | None = None
    warp_limit: Signed | None = None
    unwarp: Signed | None = None


class PoolParams(Record):
    """What a scheduler has for a whole pool; None as above."""

    tslice_ms: Signed | None = None
    ratelimit_us: Signed | None = None
    migration_delay_us: Signed | None = None
    ctx_allow_us: Signed | None = None
    slice_us: Signed | None = None


class SchedRow(Record):
    """A domain's parameters, or those of one of its vCPUs."""

    name: str | None
    domid: DomIdNumber
    vcpu: Count | None
    params: SchedParams


class SchedPool(Record):
    """A pool, what its scheduler has for all of it, and its domains."""

    pool: str
    params: PoolParams
    rows: tuple[SchedRow, ...] = ()


class SchedList(Arguments[tuple[SchedPool, ...]]):
    """Every pool under this scheduler, or one, with the parameters of its domains, or of all their vCPUs."""

    scheduler: SchedulerName
    pool: PoolText | None = None
    by_vcpu: bool = False


class SchedShow(Arguments[tuple[SchedRow, ...]]):
    """The parameters of a domain; with `by_vcpu` of these vCPUs of it, or of all."""

    scheduler: SchedulerName
    domain: DomainText
    by_vcpu: bool = False
    vcpus: Annotated[tuple[VcpuId, ...], Length(MAX_VCPUS)] = ()


class SchedSet(Arguments[None]):
    """Give a domain other parameters."""

    scheduler: SchedulerName
    domain: DomainText
    params: SchedParams


class VcpuParams(Record):
    """The parameters of one vCPU; None: of each."""

    vcpu: VcpuId | None
    params: SchedParams


class SchedSetVcpus(Arguments[None]):
    """Give vCPUs of a domain other parameters."""

    scheduler: SchedulerName
    domain: DomainText
    vcpus: Annotated[tuple[VcpuParams, ...], Length(MAX_VCPUS)]


class SchedShowPool(Arguments[SchedPool]):
    """What a pool's scheduler has for all of it; None: Pool-0."""

    scheduler: SchedulerName
    pool: PoolText | None = None


class SchedSetPool(Arguments[None]):
    """Give a pool's scheduler other parameters."""

    scheduler: SchedulerName
    params: PoolParams
    pool: PoolText | None = None


# --- CPU pools ---------------------------------------------------------------------------------------


class Cpupool(Record):
    """A CPU pool; `domains`: how many are in it."""

    id: Count
    name: str
    scheduler: str
    cpus: tuple[Count, ...]
    domains: Count


class CpupoolList(Arguments[tuple[Cpupool, ...]]):
    """All CPU pools, or one."""

    pool: PoolText | None = None


class CpupoolCreate(Arguments[Cpupool]):
    """Make a CPU pool of free CPUs, under a scheduler (None: the machine's own). `nodes`: all that are free of these NUMA
    nodes, in place of `cpus`. `dry_run`: say only what it would be.
    """

    name: PoolText
    scheduler: SchedulerName | None = None
    cpus: CpuList | None = None
    nodes: Annotated[tuple[Number, ...], Length(64)] | None = None
    dry_run: bool = False


class CpupoolDestroy(Arguments[None]):
    """End a CPU pool without domains; its CPUs are free."""

    pool: PoolText


class CpupoolRename(Arguments[None]):
    """Give a CPU pool another name."""

    pool: PoolText
    name: PoolText


class CpupoolCpuAdd(Arguments[None]):
    """Put free CPUs into a pool. Those that cannot be are named, and the others are in it all the same."""

    pool: PoolText
    cpus: CpuList


class CpupoolCpuRemove(Arguments[None]):
    """Take CPUs out of a pool. Those that cannot be are named, and the others are out of it all the same."""

    pool: PoolText
    cpus: CpuList


class CpupoolMigrate(Arguments[None]):
    """Move a domain into another CPU pool."""

    domain: DomainText
    pool: PoolText


SCHED_OPERATIONS: Final[dict[str, type[Arguments[Any]]]] = {
    "vcpu-list": VcpuList,
    "vcpu-set": VcpuSet,
    "vcpu-pin": VcpuPin,
    "sched-list": SchedList,
    "sched-show": SchedShow,
    "sched-set": SchedSet,
    "sched-set-vcpus": SchedSetVcpus,
    "sched-show-pool": SchedShowPool,
    "sched-set-pool": SchedSetPool,
    "cpupool-list": CpupoolList,
    "cpupool-create": CpupoolCreate,
    "cpupool-destroy": CpupoolDestroy,
    "cpupool-rename": CpupoolRename,
    "cpupool-cpu-add": CpupoolCpuAdd,
    "cpupool-cpu-remove": CpupoolCpuRemove,
    "cpupool-migrate": CpupoolMigrate,
}
"""These operations by their names."""
