"""Scheduling as a guest asks for it. Source: Xen public/sched.h."""

from enum import IntEnum
from typing import Final

from hypervisor.public.layout import Struct, i32, u32, u64
from hypervisor.public.types import XEN_GUEST_HANDLE, domid_t


class SchedOp(IntEnum):
    """First argument of sched_op."""

    SCHEDOP_yield = 0
    SCHEDOP_block = 1
    SCHEDOP_shutdown = 2
    SCHEDOP_poll = 3
    SCHEDOP_remote_shutdown = 4
    SCHEDOP_shutdown_code = 5
    SCHEDOP_watchdog = 6
    SCHEDOP_pin_override = 7


(
    SCHEDOP_yield, SCHEDOP_block, SCHEDOP_shutdown, SCHEDOP_poll, SCHEDOP_remote_shutdown,
    SCHEDOP_shutdown_code, SCHEDOP_watchdog, SCHEDOP_pin_override,
) = SchedOp.__members__.values()  # fmt: skip


class ShutdownReason(IntEnum):
    """Why a domain stopped."""

    SHUTDOWN_poweroff = 0
    SHUTDOWN_reboot = 1
    SHUTDOWN_suspend = 2
    SHUTDOWN_crash = 3
    SHUTDOWN_watchdog = 4
    SHUTDOWN_soft_reset = 5


(
    SHUTDOWN_poweroff, SHUTDOWN_reboot, SHUTDOWN_suspend, SHUTDOWN_crash, SHUTDOWN_watchdog,
    SHUTDOWN_soft_reset,
) = ShutdownReason.__members__.values()  # fmt: skip

SHUTDOWN_MAX: Final = 5


class sched_shutdown(Struct, size=4):
    """End this domain."""

    reason: u32  # IN: SHUTDOWN_*


class sched_poll(Struct, size=24):
    """Wait for one of some ports without taking an upcall."""

    ports: XEN_GUEST_HANDLE  # IN: array of evtchn_port_t
    nr_ports: u32  # IN
    timeout: u64  # IN: system time in ns; 0: none


class sched_remote_shutdown(Struct, size=8):
    """Mark another domain as shut down."""

    domain_id: domid_t  # IN
    reason: u32  # IN: SHUTDOWN_*


class sched_watchdog(Struct, size=8):
    """Start, restart or end a timer whose expiry ends the domain."""

    id: u32  # IN: 0 for a new one
    timeout: u32  # IN: seconds; 0 ends it


class sched_pin_override(Struct, size=4):
    """Pin the calling vCPU to a CPU for a while; hardware domain only."""

    pcpu: i32  # IN: negative ends it
