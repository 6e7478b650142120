"""Xen's control interface for vCPUs, schedulers and CPU pools, as calls with plain arguments: a part of libxenctrl for xl.

Every method is one hypercall. Errors are XenError with Xen's number. Sets of CPUs are masks.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from domains.control.cpus import MAX_CPUS
from domains.dom0.toolstack.xenctrl import XenCtrl
from domains.kernel.kernel import Kernel
from hypervisor.public.domctl import (
    XEN_VCPUAFFINITY_FORCE,
    XEN_VCPUAFFINITY_HARD,
    XEN_VCPUAFFINITY_SOFT,
    Domctl,
    SchedulerOp,
    xen_domctl_getvcpuinfo,
    xen_domctl_schedparam_vcpu,
    xen_domctl_scheduler_op,
    xen_domctl_scheduler_op_u,
    xen_domctl_scheduler_op_u_v,
    xen_domctl_u,
    xen_domctl_vcpuaffinity,
)
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.sysctl import (
    XEN_SYSCTL_CPUPOOL_PAR_ANY,
    CpuPoolOp,
    Sysctl,
    SysctlSchedulerOp,
    xen_sysctl_cpupool_op,
    xen_sysctl_sched_id,
    xen_sysctl_scheduler_op,
    xen_sysctl_scheduler_op_u,
    xen_sysctl_u,
)
from hypervisor.public.types import DomId
from hypervisor.public.xen import xenctl_bitmap

MAP_BYTES: Final = MAX_CPUS // 8


@dataclass(frozen=True, slots=True)
class PoolInfo:
    """A CPU pool as Xen knows it: its id, its scheduler's id, its CPUs, and how many domains are in it."""

    id: int
    sched_id: int
    cpus: int
    n_dom: int


class SchedCtrl:
    """One per toolstack, beside its XenCtrl."""

    def __init__(self, kernel: Kernel, xen: XenCtrl) -> None:
        self._area = kernel.hypercalls.arguments
        self._load = kernel.cpu.load
        self._xen = xen

    # --- vCPUs -----------------------------------------------------------------------------------

    def vcpu_info(self, domid: DomId, vcpu: int) -> xen_domctl_getvcpuinfo:
        """Whether a vCPU is online, blocked or running, its CPU time and its CPU. XenError(ENOENT): there is none."""
        asked = xen_domctl_u(getvcpuinfo=xen_domctl_getvcpuinfo(vcpu=vcpu))
        info: xen_domctl_getvcpuinfo = self._xen.domctl(
            Domctl.XEN_DOMCTL_getvcpuinfo, domid, asked
        ).u.getvcpuinfo
        return info

    def affinity(self, domid: DomId, vcpu: int) -> tuple[int, int]:
        """The CPUs that a vCPU may, and should, run on."""
        flags = XEN_VCPUAFFINITY_HARD | XEN_VCPUAFFINITY_SOFT
        return self._affinity(Domctl.XEN_DOMCTL_getvcpuaffinity, domid, vcpu, 0, 0, flags)

    def set_affinity(
        self, domid: DomId, vcpu: int, hard: int | None, soft: int | None, *, force: bool = False
    ) -> tuple[int, int]:
        """Set either, or both; the CPUs of each that the scheduler will use. XenError(EINVAL): none of them is in the pool."""
        flags = (
            (0 if hard is None else XEN_VCPUAFFINITY_HARD)
            | (0 if soft is None else XEN_VCPUAFFINITY_SOFT)
            | (XEN_VCPUAFFINITY_FORCE if force else 0)
        )
        return self._affinity(Domctl.XEN_DOMCTL_setvcpuaffinity, domid, vcpu, hard or 0, soft or 0, flags)

    def _affinity(
        self, cmd: Domctl, domid: DomId, vcpu: int, hard: int, soft: int, flags: int
    ) -> tuple[int, int]:
        with self._area as area:
            at = area.push(struct.pack("<2Q", hard, soft))
            maps = [xenctl_bitmap(bitmap=at + place, nr_bits=MAX_CPUS) for place in (0, MAP_BYTES)]
            asked = xen_domctl_vcpuaffinity(vcpu=vcpu, flags=flags, cpumap_hard=maps[0], cpumap_soft=maps[1])
            self._xen.domctl(cmd, domid, xen_domctl_u(vcpuaffinity=asked))
            found: tuple[int, int] = struct.unpack("<2Q", self._load(at, 2 * MAP_BYTES))
        return found

    # --- schedulers ------------------------------------------------------------------------------

    def sched_id(self) -> int:
        """The scheduler of Pool-0, XEN_SCHEDULER_…"""
        answer = self._xen.sysctl(Sysctl.XEN_SYSCTL_sched_id, xen_sysctl_u(sched_id=xen_sysctl_sched_id()))
        found: int = answer.u.sched_id.sched_id
        return found

    def domain_op(
        self, domid: DomId, sched_id: int, cmd: SchedulerOp, params: xen_domctl_scheduler_op_u
    ) -> xen_domctl_scheduler_op_u:
        """Read or set a domain's parameters. XenError(EINVAL): its scheduler is another, or refuses them."""
        asked = xen_domctl_scheduler_op(sched_id=sched_id, cmd=cmd, u=params)
        answer = self._xen.domctl(Domctl.XEN_DOMCTL_scheduler_op, domid, xen_domctl_u(scheduler_op=asked))
        found: xen_domctl_scheduler_op_u = answer.u.scheduler_op.u
        return found

    def vcpus_op(
        self, domid: DomId, sched_id: int, cmd: SchedulerOp, vcpus: Sequence[xen_domctl_schedparam_vcpu]
    ) -> list[xen_domctl_schedparam_vcpu]:
        """Read or set the parameters of vCPUs, which `vcpus` name; those of each. XenError as above."""
        kind = xen_domctl_schedparam_vcpu
        with self._area as area:
            at = area.push(b"".join(one.pack() for one in vcpus))
            self.domain_op(
                domid,
                sched_id,
                cmd,
                xen_domctl_scheduler_op_u(v=xen_domctl_scheduler_op_u_v(vcpus=at, nr_vcpus=len(vcpus))),
            )
            raw = self._load(at, len(vcpus) * kind.sizeof)
        return [kind.unpack(raw, number * kind.sizeof) for number in range(len(vcpus))]

    def pool_op(
        self, pool: int, sched_id: int, cmd: SysctlSchedulerOp, params: xen_sysctl_scheduler_op_u
    ) -> xen_sysctl_scheduler_op_u:
        """Read or set what a pool's scheduler has for all of it. XenError(EINVAL, ESRCH, EOPNOTSUPP)."""
        asked = xen_sysctl_scheduler_op(cpupool_id=pool, sched_id=sched_id, cmd=cmd, u=params)
        answer = self._xen.sysctl(Sysctl.XEN_SYSCTL_scheduler_op, xen_sysctl_u(scheduler_op=asked))
        found: xen_sysctl_scheduler_op_u = answer.u.scheduler_op.u
        return found

    # --- CPU pools -------------------------------------------------------------------------------

    def cpupool_create(self, sched_id: int) -> int:
        """A pool without CPUs; its id. XenError(ENOENT: there is no such scheduler; ENOSPC)."""
        return self._pool(
            CpuPoolOp.XEN_SYSCTL_CPUPOOL_OP_CREATE, XEN_SYSCTL_CPUPOOL_PAR_ANY, sched_id=sched_id
        ).id

    def cpupool_destroy(self, pool: int) -> None:
        """XenError(ENOENT; EBUSY: it has CPUs, or domains)."""
        self._pool(CpuPoolOp.XEN_SYSCTL_CPUPOOL_OP_DESTROY, pool)

    def cpupools(self) -> list[PoolInfo]:
        """All pools, in the order of their ids."""
        found: list[PoolInfo] = []
        while (info := self._next_pool(found[-1].id + 1 if found else 0)) is not None:
            found.append(info)
        return found

    def _next_pool(self, first: int) -> PoolInfo | None:
        try:
            return self._pool(CpuPoolOp.XEN_SYSCTL_CPUPOOL_OP_INFO, first)
        except XenError as error:
            if error.errno is not Errno.ENOENT:
                raise
            return None

    def cpupool_add_cpu(self, pool: int, cpu: int) -> None:
        """XenError(ENODEV: it is not free; EINVAL: there is no such CPU)."""
        self._pool(CpuPoolOp.XEN_SYSCTL_CPUPOOL_OP_ADDCPU, pool, cpu=cpu)

    def cpupool_remove_cpu(self, pool: int, cpu: int) -> None:
        """XenError(EADDRNOTAVAIL: it is not in the pool; EBUSY: domains need it; EINVAL: CPU 0 stays in Pool-0)."""
        self._pool(CpuPoolOp.XEN_SYSCTL_CPUPOOL_OP_RMCPU, pool, cpu=cpu)

    def cpupool_move_domain(self, pool: int, domid: DomId) -> None:
        """XenError(ENOENT: no such pool, or it has no CPU; EINVAL: Dom0)."""
        self._pool(CpuPoolOp.XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN, pool, domid=domid)

    def free_cpus(self) -> int:
        """The CPUs that are in no pool."""
        return self._pool(CpuPoolOp.XEN_SYSCTL_CPUPOOL_OP_FREEINFO, 0).cpus

    def _pool(self, op: CpuPoolOp, pool: int, *, sched_id: int = 0, domid: int = 0, cpu: int = 0) -> PoolInfo:
        with self._area as area:
            at = area.push(bytes(MAP_BYTES))
            asked = xen_sysctl_cpupool_op(
                op=op,
                cpupool_id=pool,
                sched_id=sched_id,
                domid=domid,
                cpu=cpu,
                cpumap=xenctl_bitmap(bitmap=at, nr_bits=MAX_CPUS),
            )
            answer = self._xen.sysctl(
                Sysctl.XEN_SYSCTL_cpupool_op, xen_sysctl_u(cpupool_op=asked)
            ).u.cpupool_op
            cpus = int.from_bytes(self._load(at, MAP_BYTES), "little")
        return PoolInfo(answer.cpupool_id, answer.sched_id, cpus, answer.n_dom)
