"""domctl on where and how much a domain's vCPUs run: affinity, parameters of its scheduler (Xen common/sched/core.c)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hypervisor.domain.domain import Domain, Vcpu
from hypervisor.hypercalls.bitmaps import read_bitmap, write_bitmap
from hypervisor.hypercalls.call import Call, Result
from hypervisor.hypercalls.sched_params import domain_arm, domain_params, rtds_arm, rtds_from
from hypervisor.public.domctl import (
    XEN_VCPUAFFINITY_HARD,
    XEN_VCPUAFFINITY_SOFT,
    XEN_DOMCTL_getvcpuaffinity,
    XEN_DOMCTL_getvcpuinfo,
    XEN_DOMCTL_SCHEDOP_getinfo,
    XEN_DOMCTL_SCHEDOP_getvcpuinfo,
    XEN_DOMCTL_SCHEDOP_putinfo,
    XEN_DOMCTL_SCHEDOP_putvcpuinfo,
    XEN_DOMCTL_scheduler_op,
    XEN_DOMCTL_setvcpuaffinity,
    xen_domctl,
    xen_domctl_schedparam_vcpu,
    xen_domctl_schedparam_vcpu_u,
    xen_domctl_scheduler_op,
    xen_domctl_vcpuaffinity,
)
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.vcpu import RunState
from hypervisor.sched.params import RtdsParams
from hypervisor.sched.scheduler import Scheduler

VCPUS_A_CALL: Final = 64
"""vCPUs whose parameters are looked at in one call; the caller is told how many were."""


def do_getvcpuinfo(call: Call, op: xen_domctl, target: Domain) -> Result:
    """Whether a vCPU is online, blocked or running, its CPU time in ns and its CPU. EINVAL: no such vCPU."""
    vcpu = _vcpu(target, op.u.getvcpuinfo.vcpu)
    info, state = op.u.getvcpuinfo, vcpu.unit.runstate
    info.online = int(vcpu.up)
    info.blocked = int(state.state is RunState.RUNSTATE_blocked)
    info.running = int(state.state is RunState.RUNSTATE_running)
    info.cpu_time = state.times(call.hv.now())[RunState.RUNSTATE_running]
    info.cpu = vcpu.unit.last_cpu or 0
    op.u.getvcpuinfo = info
    call.write(call.args[0], op)
    return 0


def do_setvcpuaffinity(call: Call, op: xen_domctl, target: Domain) -> Result:
    """Where a vCPU may run (hard) and prefers to (soft); the CPUs of each that its pool has are written back. EINVAL: no such
    vCPU, or no CPU of the pool may run it; then nothing has changed.
    """
    asked, vcpu = _affinity(op, target)
    hv, nr_cpus = call.hv, call.hv.nr_cpus
    hard = soft = None
    if asked.flags & XEN_VCPUAFFINITY_HARD:
        hard = read_bitmap(call, asked.cpumap_hard, nr_cpus)
    if asked.flags & XEN_VCPUAFFINITY_SOFT:
        soft = read_bitmap(call, asked.cpumap_soft, nr_cpus)
    control = hv.run.pool_control
    online = control.pools.of_domain(target.domid).cpus
    allowed = online & (vcpu.unit.hard if hard is None else hard)
    if hard is not None and not allowed:
        raise XenError(Errno.EINVAL, f"CPUs {hard:#x} of a vCPU of d{target.domid}: its pool has {online:#x}")
    if hard is not None:
        write_bitmap(call, asked.cpumap_hard, allowed)
    if soft is not None:
        write_bitmap(call, asked.cpumap_soft, soft & allowed)
    control.set_affinity(vcpu.unit, hv.now(), hard=hard, soft=soft)
    return 0


def do_getvcpuaffinity(call: Call, op: xen_domctl, target: Domain) -> Result:
    """The CPUs that a vCPU may run on, and those it prefers, whether its pool has them or not. EINVAL: no such vCPU."""
    asked, vcpu = _affinity(op, target)
    every = (1 << call.hv.nr_cpus) - 1
    if asked.flags & XEN_VCPUAFFINITY_HARD:
        write_bitmap(call, asked.cpumap_hard, vcpu.unit.hard & every)
    if asked.flags & XEN_VCPUAFFINITY_SOFT:
        write_bitmap(call, asked.cpumap_soft, vcpu.unit.soft & every)
    return 0


def _affinity(op: xen_domctl, target: Domain) -> tuple[xen_domctl_vcpuaffinity, Vcpu]:
    """Xen's vcpuaffinity_params_invalid."""
    asked = op.u.vcpuaffinity
    vcpu = _vcpu(target, asked.vcpu)
    if (
        not asked.flags
        or (asked.flags & XEN_VCPUAFFINITY_HARD and not asked.cpumap_hard.bitmap)
        or (asked.flags & XEN_VCPUAFFINITY_SOFT and not asked.cpumap_soft.bitmap)
    ):
        raise XenError(Errno.EINVAL, f"affinity flags {asked.flags:#x} without the maps that they mean")
    return asked, vcpu


def do_scheduler_op(call: Call, op: xen_domctl, target: Domain) -> Result:
    """Read or set what the domain's scheduler has for the domain, or for its vCPUs. EINVAL: its scheduler is another one, or
    refuses it; EOPNOTSUPP: it has nothing to set.
    """
    asked = op.u.scheduler_op
    scheduler = call.hv.run.slices.scheduler_of(target.domid)
    if asked.sched_id != scheduler.sched_id:
        raise XenError(Errno.EINVAL, f"scheduler {asked.sched_id}: d{target.domid} is under {scheduler.name}")
    if asked.cmd not in SCHEDULER_OPS:
        raise XenError(Errno.EINVAL, f"scheduler_op {asked.cmd}")
    SCHEDULER_OPS[asked.cmd](call, asked, target, scheduler)
    op.u.scheduler_op = asked
    call.write(call.args[0], op)
    return 0


def _getinfo(_call: Call, asked: xen_domctl_scheduler_op, target: Domain, scheduler: Scheduler) -> None:
    asked.u = domain_arm(scheduler.params(target.domid), asked.u)


def _putinfo(call: Call, asked: xen_domctl_scheduler_op, target: Domain, scheduler: Scheduler) -> None:
    wanted = domain_params(asked.u, scheduler.params(target.domid), scheduler.sched_id)
    scheduler.adjust(target.domid, wanted, call.hv.now())


def _vcpuinfo(call: Call, asked: xen_domctl_scheduler_op, target: Domain, scheduler: Scheduler) -> None:
    """One vCPU after the other: what was done before one is refused stays done, as on Xen."""
    if not isinstance(scheduler.params(target.domid), RtdsParams):
        raise XenError(Errno.EINVAL, f"{scheduler.name} has no parameters of single vCPUs")
    kind, array = xen_domctl_schedparam_vcpu, asked.u.v
    count = min(array.nr_vcpus, VCPUS_A_CALL)
    for number in range(count):
        at = array.vcpus + number * kind.sizeof
        entry = call.read(at, kind)
        unit = _vcpu(target, entry.vcpuid).unit
        if asked.cmd == XEN_DOMCTL_SCHEDOP_putvcpuinfo:
            scheduler.adjust_vcpu(unit, rtds_from(entry.u.rtds), call.hv.now())
            continue
        params = scheduler.vcpu_params(unit)
        assert isinstance(params, RtdsParams)
        entry.u = xen_domctl_schedparam_vcpu_u(rtds=rtds_arm(params))
        call.write(at, entry)
    array.nr_vcpus = count
    asked.u.v = array


SCHEDULER_OPS: Final[dict[int, Callable[[Call, xen_domctl_scheduler_op, Domain, Scheduler], None]]] = {
    XEN_DOMCTL_SCHEDOP_putinfo: _putinfo,
    XEN_DOMCTL_SCHEDOP_getinfo: _getinfo,
    XEN_DOMCTL_SCHEDOP_putvcpuinfo: _vcpuinfo,
    XEN_DOMCTL_SCHEDOP_getvcpuinfo: _vcpuinfo,
}


def _vcpu(target: Domain, vcpu_id: int) -> Vcpu:
    if vcpu_id >= len(target.vcpus):
        raise XenError(Errno.EINVAL, f"d{target.domid} has no vCPU {vcpu_id}")
    return target.vcpus[vcpu_id]


SCHED_DOMCTLS: Final[dict[int, Callable[[Call, xen_domctl, Domain], Result]]] = {
    XEN_DOMCTL_getvcpuinfo: do_getvcpuinfo,
    XEN_DOMCTL_setvcpuaffinity: do_setvcpuaffinity,
    XEN_DOMCTL_getvcpuaffinity: do_getvcpuaffinity,
    XEN_DOMCTL_scheduler_op: do_scheduler_op,
}
