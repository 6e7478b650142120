"""Operations on one vCPU: bringing it up, run states, timers, registered areas. Source: Xen public/vcpu.h."""

from enum import IntEnum
from typing import Annotated, Final

from hypervisor.public.layout import Struct, Union, i32, u32, u64
from hypervisor.public.types import XEN_GUEST_HANDLE


class VcpuOp(IntEnum):
    """First argument of vcpu_op; the second is the vCPU, the third points to the operation's argument."""

    VCPUOP_initialise = 0
    VCPUOP_up = 1
    VCPUOP_down = 2
    VCPUOP_is_up = 3
    VCPUOP_get_runstate_info = 4
    VCPUOP_register_runstate_memory_area = 5
    VCPUOP_set_periodic_timer = 6
    VCPUOP_stop_periodic_timer = 7
    VCPUOP_set_singleshot_timer = 8
    VCPUOP_stop_singleshot_timer = 9
    VCPUOP_register_vcpu_info = 10
    VCPUOP_send_nmi = 11
    VCPUOP_get_physid = 12
    VCPUOP_register_vcpu_time_memory_area = 13


(
    VCPUOP_initialise, VCPUOP_up, VCPUOP_down, VCPUOP_is_up, VCPUOP_get_runstate_info,
    VCPUOP_register_runstate_memory_area, VCPUOP_set_periodic_timer, VCPUOP_stop_periodic_timer,
    VCPUOP_set_singleshot_timer, VCPUOP_stop_singleshot_timer, VCPUOP_register_vcpu_info,
    VCPUOP_send_nmi, VCPUOP_get_physid, VCPUOP_register_vcpu_time_memory_area,
) = VcpuOp.__members__.values()  # fmt: skip


class RunState(IntEnum):
    """What a vCPU is doing, as accounted in vcpu_runstate_info."""

    RUNSTATE_running = 0
    RUNSTATE_runnable = 1
    RUNSTATE_blocked = 2
    RUNSTATE_offline = 3


RUNSTATE_running, RUNSTATE_runnable, RUNSTATE_blocked, RUNSTATE_offline = RunState.__members__.values()

XEN_RUNSTATE_UPDATE: Final = 1 << 63  # in state_entry_time while Xen writes, if the guest asked for it
VCPU_SSHOTTMR_future: Final = 1  # fail with ETIME if the time is past


class vcpu_runstate_info(Struct, size=48):
    """Time that a vCPU spent in each state."""

    state: i32  # RUNSTATE_*
    state_entry_time: u64  # system time in ns
    time: Annotated[tuple[u64, ...], 4]  # ns per state


class vcpu_register_runstate_memory_area_addr(Union, size=8):
    """`addr` of vcpu_register_runstate_memory_area."""

    h: XEN_GUEST_HANDLE
    v: XEN_GUEST_HANDLE
    p: u64


class vcpu_register_runstate_memory_area(Struct, size=8):
    """Where Xen shall keep a copy of the above."""

    addr: vcpu_register_runstate_memory_area_addr  # IN


class vcpu_set_periodic_timer(Struct, size=8):
    """A VIRQ_TIMER every so often, at least a millisecond apart."""

    period_ns: u64  # IN


class vcpu_set_singleshot_timer(Struct, size=16):
    """One VIRQ_TIMER at a time to come."""

    timeout_abs_ns: u64  # IN: system time
    flags: u32  # IN: VCPU_SSHOTTMR_*


class vcpu_register_vcpu_info(Struct, size=16):
    """Move a vCPU's vcpu_info from shared info into a page of the guest's, once."""

    mfn: u64  # IN
    offset: u32  # IN: bytes in that frame
    rsvd: u32


class vcpu_get_physid(Struct, size=8):
    """Which CPU a pinned vCPU runs on."""

    phys_id: u64  # OUT: APIC id, ACPI id in the upper half


class vcpu_register_time_memory_area_addr(Union, size=8):
    """`addr` of vcpu_register_time_memory_area."""

    h: XEN_GUEST_HANDLE
    v: XEN_GUEST_HANDLE
    p: u64


class vcpu_register_time_memory_area(Struct, size=8):
    """Where Xen shall keep a copy of vcpu_time_info, for user space."""

    addr: vcpu_register_time_memory_area_addr  # IN
