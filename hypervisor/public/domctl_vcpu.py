"""Arms of xen_domctl that concern vCPUs: their state, affinity, scheduling, CPU policy, debugging.

Import them from `hypervisor.public.domctl`, the header they belong to. Source: Xen public/domctl.h.
"""

from enum import IntEnum, IntFlag
from typing import Final

from hypervisor.public.arch_x86.hvm.save import hvm_vmce_vcpu
from hypervisor.public.layout import Struct, Union, u8, u16, u32, u64
from hypervisor.public.types import XEN_GUEST_HANDLE
from hypervisor.public.xen import xenctl_bitmap


class xen_domctl_vcpucontext(Struct, size=16):
    """setvcpucontext, getvcpucontext."""

    vcpu: u32  # IN
    ctxt: XEN_GUEST_HANDLE  # IN or OUT: vcpu_guest_context


class xen_domctl_getvcpuinfo(Struct, size=24):
    """One vCPU's state; all OUT but vcpu."""

    vcpu: u32  # IN
    online: u8
    blocked: u8
    running: u8
    cpu_time: u64  # ns
    cpu: u32  # where it runs or ran


class VcpuAffinityFlags(IntFlag):
    """`flags` of xen_domctl_vcpuaffinity: which maps are meant."""

    XEN_VCPUAFFINITY_HARD = 1 << 0
    XEN_VCPUAFFINITY_SOFT = 1 << 1
    XEN_VCPUAFFINITY_FORCE = 1 << 2


(
    XEN_VCPUAFFINITY_HARD, XEN_VCPUAFFINITY_SOFT, XEN_VCPUAFFINITY_FORCE,
) = VcpuAffinityFlags.__members__.values()  # fmt: skip


class xen_domctl_vcpuaffinity(Struct, size=40):
    """Which CPUs a vCPU may (hard) and should (soft) run on."""

    vcpu: u32  # IN
    flags: u32  # IN: XEN_VCPUAFFINITY_*
    cpumap_hard: xenctl_bitmap  # IN and OUT
    cpumap_soft: xenctl_bitmap  # IN and OUT


class xen_domctl_max_vcpus(Struct, size=4):
    """Give a domain its vCPUs."""

    max: u32  # IN: as in createdomain


class Scheduler(IntEnum):
    """`sched_id`, here and in sysctl."""

    XEN_SCHEDULER_CREDIT = 5
    XEN_SCHEDULER_CREDIT2 = 6
    XEN_SCHEDULER_ARINC653 = 7
    XEN_SCHEDULER_RTDS = 8
    XEN_SCHEDULER_NULL = 9


(
    XEN_SCHEDULER_CREDIT, XEN_SCHEDULER_CREDIT2, XEN_SCHEDULER_ARINC653, XEN_SCHEDULER_RTDS,
    XEN_SCHEDULER_NULL,
) = Scheduler.__members__.values()  # fmt: skip


class SchedulerOp(IntEnum):
    """`cmd` of xen_domctl_scheduler_op."""

    XEN_DOMCTL_SCHEDOP_putinfo = 0
    XEN_DOMCTL_SCHEDOP_getinfo = 1
    XEN_DOMCTL_SCHEDOP_putvcpuinfo = 2
    XEN_DOMCTL_SCHEDOP_getvcpuinfo = 3


(
    XEN_DOMCTL_SCHEDOP_putinfo, XEN_DOMCTL_SCHEDOP_getinfo, XEN_DOMCTL_SCHEDOP_putvcpuinfo,
    XEN_DOMCTL_SCHEDOP_getvcpuinfo,
) = SchedulerOp.__members__.values()  # fmt: skip

XEN_DOMCTL_SCHEDRT_extra: Final = 1


class xen_domctl_sched_credit(Struct, size=4):
    """Parameters under credit."""

    weight: u16  # share, 256 is usual
    cap: u16  # percent of one CPU, 0: none


class xen_domctl_sched_credit2(Struct, size=4):
    """Parameters under credit2."""

    weight: u16  # share, 256 is usual
    cap: u16  # percent of one CPU, 0: none


class xen_domctl_sched_rtds(Struct, size=12):
    """Parameters under RTDS."""

    period: u32  # us
    budget: u32  # us
    flags: u32  # XEN_DOMCTL_SCHEDRT_extra


class xen_domctl_schedparam_vcpu_u(Union, size=12):
    """`u` of xen_domctl_schedparam_vcpu."""

    credit: xen_domctl_sched_credit
    credit2: xen_domctl_sched_credit2
    rtds: xen_domctl_sched_rtds


class xen_domctl_schedparam_vcpu(Struct, size=16):
    """One vCPU's parameters, in an array."""

    u: xen_domctl_schedparam_vcpu_u
    vcpuid: u32


class xen_domctl_scheduler_op_u_v(Struct, size=16):
    """`v` of xen_domctl_scheduler_op_u."""

    vcpus: XEN_GUEST_HANDLE
    nr_vcpus: u32  # IN: entries; OUT: done
    padding: u32


class xen_domctl_scheduler_op_u(Union, size=16):
    """`u` of xen_domctl_scheduler_op."""

    credit: xen_domctl_sched_credit
    credit2: xen_domctl_sched_credit2
    rtds: xen_domctl_sched_rtds
    v: xen_domctl_scheduler_op_u_v


class xen_domctl_scheduler_op(Struct, size=24):
    """Set or get a domain's scheduling parameters."""

    sched_id: u32  # IN: XEN_SCHEDULER_*
    cmd: u32  # IN: XEN_DOMCTL_SCHEDOP_*
    u: xen_domctl_scheduler_op_u


class xen_domctl_sendtrigger(Struct, size=8):
    """Inject an NMI and the like."""

    trigger: u32  # IN: XEN_DOMCTL_SENDTRIGGER_*
    vcpu: u32  # IN


class SendTrigger(IntEnum):
    """`trigger` of xen_domctl_sendtrigger."""

    XEN_DOMCTL_SENDTRIGGER_NMI = 0
    XEN_DOMCTL_SENDTRIGGER_RESET = 1
    XEN_DOMCTL_SENDTRIGGER_INIT = 2
    XEN_DOMCTL_SENDTRIGGER_POWER = 3
    XEN_DOMCTL_SENDTRIGGER_SLEEP = 4


(
    XEN_DOMCTL_SENDTRIGGER_NMI, XEN_DOMCTL_SENDTRIGGER_RESET, XEN_DOMCTL_SENDTRIGGER_INIT,
    XEN_DOMCTL_SENDTRIGGER_POWER, XEN_DOMCTL_SENDTRIGGER_SLEEP,
) = SendTrigger.__members__.values()  # fmt: skip


class xen_domctl_ext_vcpucontext(Struct, size=64):
    """What vcpu_guest_context has no room for; in C, `vmce` shares its place with `mcg_cap`."""

    vcpu: u32  # IN
    size: u32  # IN and OUT: of this structure
    syscall32_callback_eip: u64
    sysenter_callback_eip: u64
    syscall32_callback_cs: u16
    sysenter_callback_cs: u16
    syscall32_disables_events: u8
    sysenter_disables_events: u8
    vmce: hvm_vmce_vcpu


class xen_domctl_cpu_policy(Struct, size=40):
    """get_cpu_policy, set_cpu_policy: the CPUID leaves and MSRs a domain sees."""

    nr_leaves: u32  # IN: entries; OUT: entries written
    nr_msrs: u32  # likewise
    leaves: XEN_GUEST_HANDLE  # array of xen_cpuid_leaf
    msrs: XEN_GUEST_HANDLE  # array of xen_msr_entry
    err_leaf: u32  # OUT: what was refused
    err_subleaf: u32  # OUT
    err_msr: u32  # OUT


class DebugOp(IntEnum):
    """`op` of xen_domctl_debug_op."""

    XEN_DOMCTL_DEBUG_OP_SINGLE_STEP_OFF = 0
    XEN_DOMCTL_DEBUG_OP_SINGLE_STEP_ON = 1


XEN_DOMCTL_DEBUG_OP_SINGLE_STEP_OFF, XEN_DOMCTL_DEBUG_OP_SINGLE_STEP_ON = DebugOp.__members__.values()


class xen_domctl_debug_op(Struct, size=8):
    """Single-step a vCPU."""

    op: u32  # IN: XEN_DOMCTL_DEBUG_OP_*
    vcpu: u32  # IN


class xen_domctl_tsc_info(Struct, size=24):
    """gettscinfo, settscinfo."""

    tsc_mode: u32  # 0 default, 1 always emulate, 2 never
    gtsc_khz: u32
    incarnation: u32
    pad: u32
    elapsed_nsec: u64


class xen_domctl_gdbsx_memio(Struct, size=40):
    """Debugger's access to memory."""

    pgd3val: u64  # IN: 0
    gva: u64  # IN: guest's address
    uva: u64  # IN: caller's buffer
    len: u32  # IN
    gwr: u8  # IN: 1 writes to the guest
    remain: u32  # OUT: bytes not done


class xen_domctl_gdbsx_pauseunp_vcpu(Struct, size=4):
    """Debugger's pause of one vCPU."""

    vcpu: u32  # IN


class xen_domctl_gdbsx_domstatus(Struct, size=12):
    """Debugger's question why the domain stopped."""

    paused: u8  # OUT
    vcpu_id: u32  # OUT
    vcpu_ev: u32  # OUT: 0 none, 1 trap


class xen_domctl_vcpuextstate(Struct, size=32):
    """setvcpuextstate, getvcpuextstate: state saved by xsave."""

    vcpu: u32  # IN
    xfeature_mask: u64  # IN or OUT
    size: u64  # IN and OUT
    buffer: XEN_GUEST_HANDLE  # IN or OUT


class xen_domctl_vcpu_msr(Struct, size=16):
    """One MSR of a vCPU."""

    index: u32
    reserved: u32
    value: u64


class xen_domctl_vcpu_msrs(Struct, size=16):
    """get_vcpu_msrs, set_vcpu_msrs."""

    vcpu: u32  # IN
    msr_count: u32  # IN: entries; OUT: entries written
    msrs: XEN_GUEST_HANDLE  # array of xen_domctl_vcpu_msr
