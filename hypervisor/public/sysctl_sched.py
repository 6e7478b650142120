"""Arms of xen_sysctl that concern schedulers and CPUs: parameters, CPU pools, topology, hotplug.

Import them from `hypervisor.public.sysctl`, the header they belong to. Source: Xen public/sysctl.h.
"""

from enum import IntEnum
from typing import Annotated, Final

from hypervisor.public.layout import Struct, Union, u8, u32, u64
from hypervisor.public.types import XEN_GUEST_HANDLE, xen_domain_handle_t
from hypervisor.public.xen import xenctl_bitmap


class xen_sysctl_sched_id(Struct, size=4):
    """Which scheduler runs."""

    sched_id: u32  # OUT: XEN_SCHEDULER_*


class xen_sysctl_cpuinfo(Struct, size=8):
    """One CPU."""

    idletime: u64  # ns


class xen_sysctl_getcpuinfo(Struct, size=24):
    """Idle time of each CPU."""

    max_cpus: u32  # IN
    info: XEN_GUEST_HANDLE  # OUT: array of xen_sysctl_cpuinfo
    nr_cpus: u32  # OUT


XEN_INVALID_CORE_ID: Final = 0xFFFFFFFF
XEN_INVALID_SOCKET_ID: Final = 0xFFFFFFFF
XEN_INVALID_NODE_ID: Final = 0xFFFFFFFF


class xen_sysctl_cputopo(Struct, size=12):
    """One CPU's place."""

    core: u32  # XEN_INVALID_* where there is none
    socket: u32
    node: u32


class xen_sysctl_cputopoinfo(Struct, size=16):
    """Place of each CPU."""

    num_cpus: u32  # IN: entries; OUT: CPUs (with a NULL array: how many)
    cputopo: XEN_GUEST_HANDLE  # OUT: array of xen_sysctl_cputopo


class CpuHotplug(IntEnum):
    """`op` of xen_sysctl_cpu_hotplug."""

    XEN_SYSCTL_CPU_HOTPLUG_ONLINE = 0
    XEN_SYSCTL_CPU_HOTPLUG_OFFLINE = 1
    XEN_SYSCTL_CPU_HOTPLUG_SMT_ENABLE = 2
    XEN_SYSCTL_CPU_HOTPLUG_SMT_DISABLE = 3


(
    XEN_SYSCTL_CPU_HOTPLUG_ONLINE, XEN_SYSCTL_CPU_HOTPLUG_OFFLINE, XEN_SYSCTL_CPU_HOTPLUG_SMT_ENABLE,
    XEN_SYSCTL_CPU_HOTPLUG_SMT_DISABLE,
) = CpuHotplug.__members__.values()  # fmt: skip


class xen_sysctl_cpu_hotplug(Struct, size=8):
    """Take a CPU down, or bring it up."""

    cpu: u32  # IN
    op: u32  # IN: XEN_SYSCTL_CPU_HOTPLUG_*


class CpuPoolOp(IntEnum):
    """`op` of xen_sysctl_cpupool_op."""

    XEN_SYSCTL_CPUPOOL_OP_CREATE = 1
    XEN_SYSCTL_CPUPOOL_OP_DESTROY = 2
    XEN_SYSCTL_CPUPOOL_OP_INFO = 3
    XEN_SYSCTL_CPUPOOL_OP_ADDCPU = 4
    XEN_SYSCTL_CPUPOOL_OP_RMCPU = 5
    XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN = 6
    XEN_SYSCTL_CPUPOOL_OP_FREEINFO = 7


(
    XEN_SYSCTL_CPUPOOL_OP_CREATE, XEN_SYSCTL_CPUPOOL_OP_DESTROY, XEN_SYSCTL_CPUPOOL_OP_INFO,
    XEN_SYSCTL_CPUPOOL_OP_ADDCPU, XEN_SYSCTL_CPUPOOL_OP_RMCPU, XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN,
    XEN_SYSCTL_CPUPOOL_OP_FREEINFO,
) = CpuPoolOp.__members__.values()  # fmt: skip

XEN_SYSCTL_CPUPOOL_PAR_ANY: Final = 0xFFFFFFFF


class xen_sysctl_cpupool_op(Struct, size=40):
    """Pools of CPUs, each with a scheduler."""

    op: u32  # IN: XEN_SYSCTL_CPUPOOL_OP_*
    cpupool_id: u32  # IN and OUT
    sched_id: u32  # IN and OUT
    domid: u32  # IN
    cpu: u32  # IN
    n_dom: u32  # OUT
    cpumap: xenctl_bitmap  # OUT


XEN_SYSCTL_SCHED_RATELIMIT_MAX: Final = 500_000  # microseconds
XEN_SYSCTL_SCHED_RATELIMIT_MIN: Final = 100  # microseconds
XEN_SYSCTL_CSCHED_TSLICE_MAX: Final = 1000  # milliseconds
XEN_SYSCTL_CSCHED_TSLICE_MIN: Final = 1  # milliseconds
XEN_SYSCTL_CSCHED_MGR_DLY_MAX_US: Final = 100_000


class SysctlSchedulerOp(IntEnum):
    """`cmd` of xen_sysctl_scheduler_op."""

    XEN_SYSCTL_SCHEDOP_putinfo = 0
    XEN_SYSCTL_SCHEDOP_getinfo = 1


XEN_SYSCTL_SCHEDOP_putinfo, XEN_SYSCTL_SCHEDOP_getinfo = SysctlSchedulerOp.__members__.values()


class xen_sysctl_credit_schedule(Struct, size=12):
    """Parameters of credit."""

    tslice_ms: u32  # IN and OUT
    ratelimit_us: u32  # IN and OUT: least time a vCPU runs, 0: off
    vcpu_migr_delay_us: u32  # IN and OUT


class xen_sysctl_credit2_schedule(Struct, size=4):
    """Parameters of credit2."""

    ratelimit_us: u32  # IN and OUT


ARINC653_MAX_DOMAINS_PER_SCHEDULE: Final = 64


class xen_sysctl_arinc653_schedule_sched_entries(Struct, size=32):
    """An entry of `sched_entries` of xen_sysctl_arinc653_schedule."""

    dom_handle: xen_domain_handle_t
    vcpu_id: u32
    runtime: u64  # ns of each major frame


class xen_sysctl_arinc653_schedule(Struct, size=2064):
    """A schedule: the entries in order, over and over."""

    major_frame: u64  # ns
    num_sched_entries: u8
    sched_entries: Annotated[tuple[xen_sysctl_arinc653_schedule_sched_entries, ...], 64]


class xen_sysctl_scheduler_op_u(Union, size=16):
    """`u` of xen_sysctl_scheduler_op."""

    sched_credit: xen_sysctl_credit_schedule
    sched_credit2: xen_sysctl_credit2_schedule
    sched_arinc653: XEN_GUEST_HANDLE  # xen_sysctl_arinc653_schedule


class xen_sysctl_scheduler_op(Struct, size=32):
    """Set or get a scheduler's parameters."""

    cpupool_id: u32  # IN
    sched_id: u32  # IN: XEN_SCHEDULER_*
    cmd: u32  # IN: XEN_SYSCTL_SCHEDOP_*
    u: xen_sysctl_scheduler_op_u
