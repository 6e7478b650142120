"""Parameters of schedulers, as xl's sched-… commands show and set them.

A scheduler's name in a request says which one is meant: what is asked of a domain under another one is refused. Setting reads the
parameters that there are first, and puts the wanted ones in their place (libxl_sched.c).
"""

from __future__ import annotations

from typing import Final

from domains.control.description import DomainConfig
from domains.control.sched_operations import (
    PoolParams,
    SchedList,
    SchedParams,
    SchedPool,
    SchedRow,
    SchedSet,
    SchedSetPool,
    SchedSetVcpus,
    SchedShow,
    SchedShowPool,
    VcpuParams,
)
from domains.dom0.toolstack.cpupools import Cpupools
from domains.dom0.toolstack.domains import Domains
from domains.dom0.toolstack.errors import ToolstackError
from domains.dom0.toolstack.sched_ctrl import PoolInfo, SchedCtrl
from domains.dom0.toolstack.sched_names import scheduler_name
from domains.dom0.toolstack.sched_params import POLICIES, Policy, merged, rtds_arm, rtds_params
from domains.dom0.toolstack.xenctrl import DomainInfo, XenCtrl
from domains.kernel.tasks import NEXT_TURN, Task
from hypervisor.public.domctl import (
    SchedulerOp,
    xen_domctl_schedparam_vcpu,
    xen_domctl_schedparam_vcpu_u,
    xen_domctl_scheduler_op_u,
)
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.sysctl import SysctlSchedulerOp, xen_sysctl_scheduler_op_u
from hypervisor.public.types import DomId

FIRST_POOL_ID: Final = "0"


class Schedulers:
    """One per toolstack."""

    def __init__(self, xen: XenCtrl, sched: SchedCtrl, domains: Domains, pools: Cpupools) -> None:
        self._xen = xen
        self._sched = sched
        self._domains = domains
        self._pools = pools

    # --- what there is ---------------------------------------------------------------------------

    def listing(self, wanted: SchedList) -> Task[tuple[SchedPool, ...]]:
        """The pools under that scheduler with their domains; the others' turn comes after each domain. Raises ToolstackError."""
        policy = policy_of(wanted.scheduler)
        if wanted.by_vcpu and not policy.by_vcpu:
            raise ToolstackError(f"{wanted.scheduler} has no parameters of single vCPUs")
        infos = yield from self._xen.all_domains()
        found = []
        for pool in self._pools_under(wanted.scheduler, wanted.pool):
            rows: list[SchedRow] = []
            for info in infos:
                if info.cpupool != pool.id:
                    continue
                try:
                    rows += self._rows(info, pool, policy, range(info.max_vcpus) if wanted.by_vcpu else None)
                except XenError as error:
                    if error.errno not in (Errno.ESRCH, Errno.EINVAL):
                        raise  # else it has ended, or was moved, meanwhile
                yield NEXT_TURN
            params = self._pool_params(pool, policy)
            found.append(SchedPool(self._pools.name_of(pool.id), params, tuple(rows)))
        return tuple(found)

    def _pools_under(self, scheduler: str, wanted: str | None) -> list[PoolInfo]:
        """Raises ToolstackError if there are none."""
        if wanted is not None:
            return [self._pool(scheduler, wanted)]
        pools = self._sched.cpupools()
        found = [info for info in pools if scheduler_name(info.sched_id) == scheduler]
        if not found:
            others = ", ".join(dict.fromkeys(scheduler_name(info.sched_id) for info in pools))
            raise ToolstackError(f"no CPU pool of this machine is under {scheduler}, but {others}")
        return found

    def _pool(self, scheduler: str, wanted: str | None) -> PoolInfo:
        """That pool, or Pool-0. Raises ToolstackError if another scheduler is its own."""
        info = self._pools.find(wanted or FIRST_POOL_ID)
        if (name := scheduler_name(info.sched_id)) != scheduler:
            raise ToolstackError(
                f"CPU pool '{self._pools.name_of(info.id)}' is under {name}, not {scheduler}"
            )
        return info

    def show(self, wanted: SchedShow) -> tuple[SchedRow, ...]:
        """A domain's parameters, or those of some of its vCPUs. Raises ToolstackError."""
        info, pool, policy = self._about(wanted.scheduler, wanted.domain)
        if not wanted.by_vcpu:
            return self._rows(info, pool, policy, None)
        if not policy.by_vcpu:
            raise ToolstackError(f"{wanted.scheduler} has no parameters of single vCPUs")
        for vcpu in wanted.vcpus:
            check_vcpu(info, vcpu)
        return self._rows(info, pool, policy, wanted.vcpus or range(info.max_vcpus))

    def show_pool(self, wanted: SchedShowPool) -> SchedPool:
        """What a pool's scheduler has for all of it. Raises ToolstackError."""
        policy = policy_of(wanted.scheduler)
        pool = self._pool(wanted.scheduler, wanted.pool)
        return SchedPool(self._pools.name_of(pool.id), self._pool_params(pool, policy))

    def _about(self, scheduler: str, domain: str) -> tuple[DomainInfo, PoolInfo, Policy]:
        """Raises ToolstackError if the domain is under another scheduler."""
        policy, info = policy_of(scheduler), self._domains.find(domain)
        pool = self._pools.find(str(info.cpupool))
        if (name := scheduler_name(pool.sched_id)) != scheduler:
            raise ToolstackError(
                f"domain '{domain}' is under {name}, not {scheduler}: use 'xenctl sched-{name}'"
            )
        return info, pool, policy

    def _rows(
        self, info: DomainInfo, pool: PoolInfo, policy: Policy, vcpus: range | tuple[int, ...] | None
    ) -> tuple[SchedRow, ...]:
        name = self._domains.name_of(info.domid)
        if vcpus is None:
            return (SchedRow(name, info.domid, None, self._params(info.domid, pool, policy)),)
        named = [xen_domctl_schedparam_vcpu(vcpuid=vcpu) for vcpu in vcpus]
        op = SchedulerOp.XEN_DOMCTL_SCHEDOP_getvcpuinfo
        found = self._sched.vcpus_op(info.domid, pool.sched_id, op, named)
        return tuple(SchedRow(name, info.domid, one.vcpuid, rtds_params(one.u.rtds)) for one in found)

    def _params(self, domid: DomId, pool: PoolInfo, policy: Policy) -> SchedParams:
        if policy.read is None:
            return SchedParams()
        op = SchedulerOp.XEN_DOMCTL_SCHEDOP_getinfo
        return policy.read(self._sched.domain_op(domid, pool.sched_id, op, xen_domctl_scheduler_op_u()))

    def _pool_params(self, pool: PoolInfo, policy: Policy) -> PoolParams:
        if policy.read_pool is None:
            return PoolParams()
        op = SysctlSchedulerOp.XEN_SYSCTL_SCHEDOP_getinfo
        answer = self._sched.pool_op(pool.id, pool.sched_id, op, xen_sysctl_scheduler_op_u())
        return policy.read_pool(answer)

    # --- setting ---------------------------------------------------------------------------------

    def set(self, wanted: SchedSet) -> None:
        """Give a domain other parameters. Raises ToolstackError."""
        info, pool, policy = self._about(wanted.scheduler, wanted.domain)
        self._set(info, pool, policy, wanted.params)

    def _set(self, info: DomainInfo, pool: PoolInfo, policy: Policy, wanted: SchedParams) -> None:
        if policy.write is None:
            raise ToolstackError(f"{scheduler_name(pool.sched_id)} has no parameters of domains")
        params = merged(self._params(info.domid, pool, policy), wanted)
        policy.check(params, info.max_vcpus)
        op = SchedulerOp.XEN_DOMCTL_SCHEDOP_putinfo
        try:
            self._sched.domain_op(info.domid, pool.sched_id, op, policy.write(params))
        except XenError as error:
            raise ToolstackError(f"Xen refuses these parameters of domain {info.domid}: {error}") from None

    def set_vcpus(self, wanted: SchedSetVcpus) -> None:
        """Give vCPUs of a domain other parameters. Raises ToolstackError; then those that were set before stay so."""
        info, pool, policy = self._about(wanted.scheduler, wanted.domain)
        if not policy.by_vcpu:
            raise ToolstackError(f"{wanted.scheduler} has no parameters of single vCPUs")
        single: list[VcpuParams] = []
        for one in wanted.vcpus:
            if one.vcpu is not None:
                check_vcpu(info, one.vcpu)
            every = range(info.max_vcpus) if one.vcpu is None else (one.vcpu,)
            single += [VcpuParams(vcpu, one.params) for vcpu in every]
        now = self._rows(info, pool, policy, tuple(one.vcpu or 0 for one in single))
        arms = []
        for row, one in zip(now, single, strict=True):
            params = merged(row.params, one.params)
            policy.check(params, info.max_vcpus)
            arm = xen_domctl_schedparam_vcpu_u(rtds=rtds_arm(params))
            arms.append(xen_domctl_schedparam_vcpu(vcpuid=one.vcpu or 0, u=arm))
        op = SchedulerOp.XEN_DOMCTL_SCHEDOP_putvcpuinfo
        try:
            self._sched.vcpus_op(info.domid, pool.sched_id, op, arms)
        except XenError as error:
            raise ToolstackError(f"Xen refuses these parameters of domain {info.domid}: {error}") from None

    def set_pool(self, wanted: SchedSetPool) -> None:
        """Give a pool's scheduler other parameters. Raises ToolstackError."""
        policy = policy_of(wanted.scheduler)
        pool = self._pool(wanted.scheduler, wanted.pool)
        if policy.write_pool is None:
            raise ToolstackError(f"{wanted.scheduler} has no parameters of a pool")
        params = merged(self._pool_params(pool, policy), wanted.params)
        policy.check_pool(params)
        op = SysctlSchedulerOp.XEN_SYSCTL_SCHEDOP_putinfo
        try:
            self._sched.pool_op(pool.id, pool.sched_id, op, policy.write_pool(params))
        except XenError as error:
            raise ToolstackError(f"Xen refuses these parameters of the CPU pool: {error}") from None

    def set_as_described(self, domid: DomId, config: DomainConfig) -> None:
        """Give a new domain the parameters of its description that its scheduler has. Raises ToolstackError."""
        info = self._xen.getdomaininfo(domid)
        if info is None:
            raise ToolstackError(f"domain {domid} is gone")
        pool = self._pools.find(str(info.cpupool))
        policy = POLICIES[scheduler_name(pool.sched_id)]
        now = self._params(domid, pool, policy)
        wanted = SchedParams(
            weight=None if now.weight is None else config.cpu_weight,
            cap=None if now.cap is None else config.cap,
            period=None if now.period is None else config.period,
            extratime=None if now.extratime is None else config.extratime,
        )
        if wanted != SchedParams():
            self._set(info, pool, policy, wanted)


def policy_of(scheduler: str) -> Policy:
    """Raises ToolstackError for a name that no scheduler has."""
    policy = POLICIES.get(scheduler)
    if policy is None:
        raise ToolstackError(f"there is no scheduler '{scheduler}'; there are {', '.join(POLICIES)}")
    return policy


def check_vcpu(info: DomainInfo, vcpu: int) -> None:
    """Raises ToolstackError for a vCPU that the domain does not have."""
    if vcpu >= info.max_vcpus:
        raise ToolstackError(f"domain {info.domid} has no vCPU {vcpu}; its highest is {info.max_vcpus - 1}")
