"""sysctl's operations on schedulers and CPUs: parameters, CPU pools, topology, idle time, hotplug (Xen common/sysctl.c,
common/sched/cpupool.c, arch/x86/sysctl.c).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from hypervisor.hypercalls.bitmaps import write_bitmap
from hypervisor.hypercalls.call import Call, Result
from hypervisor.hypercalls.sched_params import pool_params, write_pool_params
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.sysctl import (
    XEN_SYSCTL_CPU_HOTPLUG_OFFLINE,
    XEN_SYSCTL_CPU_HOTPLUG_ONLINE,
    XEN_SYSCTL_CPUPOOL_OP_ADDCPU,
    XEN_SYSCTL_CPUPOOL_OP_CREATE,
    XEN_SYSCTL_CPUPOOL_OP_DESTROY,
    XEN_SYSCTL_CPUPOOL_OP_FREEINFO,
    XEN_SYSCTL_CPUPOOL_OP_INFO,
    XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN,
    XEN_SYSCTL_CPUPOOL_OP_RMCPU,
    XEN_SYSCTL_CPUPOOL_PAR_ANY,
    XEN_SYSCTL_cpu_hotplug,
    XEN_SYSCTL_cpupool_op,
    XEN_SYSCTL_cputopoinfo,
    XEN_SYSCTL_getcpuinfo,
    XEN_SYSCTL_sched_id,
    XEN_SYSCTL_SCHEDOP_getinfo,
    XEN_SYSCTL_SCHEDOP_putinfo,
    XEN_SYSCTL_scheduler_op,
    xen_sysctl,
    xen_sysctl_cpupool_op,
    xen_sysctl_cputopo,
)
from hypervisor.public.types import DomId
from hypervisor.sched.policies import SCHED_NAMES, make_scheduler
from hypervisor.sched.pools import Pool


def do_sched_id(call: Call, op: xen_sysctl) -> Result:
    """Which scheduler CPU pool 0 has."""
    sched = op.u.sched_id
    sched.sched_id = call.hv.run.pool_control.pools.first.scheduler.sched_id
    op.u.sched_id = sched
    call.write(call.args[0], op)
    return 0


def do_cputopoinfo(call: Call, op: xen_sysctl) -> Result:
    """One socket, a core per emulated CPU. With a null array: only how many."""
    topology, nr_cpus = op.u.cputopoinfo, call.hv.nr_cpus
    if topology.cputopo:
        count = min(topology.num_cpus, nr_cpus)
        entries = b"".join(xen_sysctl_cputopo(core=cpu).pack() for cpu in range(count))
        if entries:
            call.copy_to_guest(topology.cputopo, entries)
        topology.num_cpus = count
    else:
        topology.num_cpus = nr_cpus
    op.u.cputopoinfo = topology
    call.write(call.args[0], op)
    return 0


def do_getcpuinfo(call: Call, op: xen_sysctl) -> Result:
    """How long each CPU has been idle, ns."""
    asked = op.u.getcpuinfo
    idle = call.hv.run.slices.busy.idle(call.hv.now())[: asked.max_cpus]
    if idle:
        call.copy_to_guest(asked.info, struct.pack(f"<{len(idle)}Q", *idle))
    asked.nr_cpus = len(idle)
    op.u.getcpuinfo = asked
    call.write(call.args[0], op)
    return 0


def do_cpu_hotplug(call: Call, op: xen_sysctl) -> Result:
    """Always refused: all CPUs are up, and an emulated one stays so. EEXIST: it is up already; EINVAL: there is no such CPU, or
    it is CPU 0; EOPNOTSUPP: it would go down, or it is about siblings, of which there are none.
    """
    cpu, action, nr_cpus = op.u.cpu_hotplug.cpu, op.u.cpu_hotplug.op, call.hv.nr_cpus
    if action == XEN_SYSCTL_CPU_HOTPLUG_ONLINE:
        raise XenError(Errno.EEXIST if cpu < nr_cpus else Errno.EINVAL, f"CPU {cpu} of {nr_cpus}")
    if action == XEN_SYSCTL_CPU_HOTPLUG_OFFLINE and not 0 < cpu < nr_cpus:
        raise XenError(Errno.EINVAL, f"CPU {cpu} of {nr_cpus}")
    raise XenError(Errno.EOPNOTSUPP, f"cpu_hotplug {action}")


def do_scheduler_op(call: Call, op: xen_sysctl) -> Result:
    """Read or set what a pool's scheduler has for all of it. ESRCH: no such pool; EINVAL: its scheduler is another one, or
    refuses it; EOPNOTSUPP: it has nothing to set.
    """
    asked = op.u.scheduler_op
    if asked.cmd not in (XEN_SYSCTL_SCHEDOP_putinfo, XEN_SYSCTL_SCHEDOP_getinfo):
        raise XenError(Errno.EINVAL, f"scheduler_op {asked.cmd}")
    pool = call.hv.run.pool_control.pools.by_id.get(asked.cpupool_id)
    if pool is None:
        raise XenError(Errno.ESRCH, f"there is no CPU pool {asked.cpupool_id}")
    scheduler = pool.scheduler
    if asked.sched_id != scheduler.sched_id:
        raise XenError(Errno.EINVAL, f"scheduler {asked.sched_id}: pool {pool.pool_id} has {scheduler.name}")
    if asked.cmd == XEN_SYSCTL_SCHEDOP_putinfo:
        wanted = pool_params(call, asked.u, scheduler.global_params())
        scheduler.adjust_global(wanted, call.hv.now())
    asked.u = write_pool_params(call, scheduler.global_params(), asked.u)
    op.u.scheduler_op = asked
    call.write(call.args[0], op)
    return 0


# --- CPU pools ---------------------------------------------------------------------------------------


def do_cpupool_op(call: Call, op: xen_sysctl) -> Result:
    """Make, end, show and change CPU pools (Xen's cpupool_do_sysctl). ENOSYS: there is no such operation."""
    asked = op.u.cpupool_op
    handler = CPUPOOL_OPS.get(asked.op)
    if handler is None:
        raise XenError(Errno.ENOSYS, f"cpupool_op {asked.op}")
    handler(call, asked)
    op.u.cpupool_op = asked
    call.write(call.args[0], op)
    return 0


def _create(call: Call, asked: xen_sysctl_cpupool_op) -> None:
    """ENOENT: there is no such scheduler; EEXIST: the id is another's; ENOSPC: there are too many."""
    name = SCHED_NAMES.get(asked.sched_id)
    if name is None:
        raise XenError(Errno.ENOENT, f"there is no scheduler {asked.sched_id}")
    asked.cpupool_id = call.hv.run.pool_control.create(make_scheduler(name), asked.cpupool_id).pool_id


def _destroy(call: Call, asked: xen_sysctl_cpupool_op) -> None:
    """ENOENT; EBUSY: it has CPUs or domains."""
    call.hv.run.pool_control.destroy(_pool(call, asked))


def _info(call: Call, asked: xen_sysctl_cpupool_op) -> None:
    """The first pool whose id is at least that. ENOENT: there is none."""
    pools = call.hv.run.pool_control.pools
    pool_id = min((number for number in pools.by_id if number >= asked.cpupool_id), default=None)
    if pool_id is None:
        raise XenError(Errno.ENOENT, f"there is no CPU pool from {asked.cpupool_id} on")
    pool = pools.by_id[pool_id]
    asked.cpupool_id, asked.sched_id = pool_id, pool.scheduler.sched_id
    asked.n_dom = len(pools.domains_of(pool, set(call.hv.domains)))
    write_bitmap(call, asked.cpumap, pool.cpus)


def _add_cpu(call: Call, asked: xen_sysctl_cpupool_op) -> None:
    """A free CPU, or any. ENOENT; EINVAL: there is no such CPU; ENODEV: it is not free, or none is."""
    call.hv.run.pool_control.add_cpu(asked.cpu, _pool(call, asked), call.hv.now())


def _remove_cpu(call: Call, asked: xen_sysctl_cpupool_op) -> None:
    """A CPU of the pool, or the last. ENOENT; EINVAL: no such CPU, or CPU 0; EADDRNOTAVAIL: another's; EBUSY: domains need it."""
    control, pool, cpu = call.hv.run.pool_control, _pool(call, asked), asked.cpu
    pools, is_any = control.pools, asked.cpu == XEN_SYSCTL_CPUPOOL_PAR_ANY
    if is_any and not pool.cpus:
        raise XenError(Errno.EINVAL, f"CPU pool {pool.pool_id} has no CPU")
    if not is_any and cpu < pools.nr_cpus and pools.of_cpu(cpu) is not pool:
        raise XenError(Errno.EADDRNOTAVAIL, f"CPU {cpu} is not in CPU pool {pool.pool_id}")
    control.remove_cpu(cpu, pool, call.hv.now())


def _move_domain(call: Call, asked: xen_sysctl_cpupool_op) -> None:
    """ESRCH: no such domain; EPERM: it is the caller; ENOENT: no such pool, or it has no CPU."""
    target = call.hv.domain(DomId(asked.domid))
    if target is call.domain:
        raise XenError(Errno.EPERM, "a domain cannot move itself to another CPU pool")
    call.hv.run.pool_control.move_domain(target.domid, _pool(call, asked), call.hv.now())


def _free_info(call: Call, asked: xen_sysctl_cpupool_op) -> None:
    """The CPUs that are in no pool."""
    write_bitmap(call, asked.cpumap, call.hv.run.pool_control.pools.free_cpus())


def _pool(call: Call, asked: xen_sysctl_cpupool_op) -> Pool:
    return call.hv.run.pool_control.pools.get(asked.cpupool_id)


CPUPOOL_OPS: Final[dict[int, Callable[[Call, xen_sysctl_cpupool_op], None]]] = {
    XEN_SYSCTL_CPUPOOL_OP_CREATE: _create,
    XEN_SYSCTL_CPUPOOL_OP_DESTROY: _destroy,
    XEN_SYSCTL_CPUPOOL_OP_INFO: _info,
    XEN_SYSCTL_CPUPOOL_OP_ADDCPU: _add_cpu,
    XEN_SYSCTL_CPUPOOL_OP_RMCPU: _remove_cpu,
    XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN: _move_domain,
    XEN_SYSCTL_CPUPOOL_OP_FREEINFO: _free_info,
}

SCHED_SYSCTLS: Final[dict[int, Callable[[Call, xen_sysctl], Result]]] = {
    XEN_SYSCTL_sched_id: do_sched_id,
    XEN_SYSCTL_cputopoinfo: do_cputopoinfo,
    XEN_SYSCTL_getcpuinfo: do_getcpuinfo,
    XEN_SYSCTL_cpu_hotplug: do_cpu_hotplug,
    XEN_SYSCTL_scheduler_op: do_scheduler_op,
    XEN_SYSCTL_cpupool_op: do_cpupool_op,
}
