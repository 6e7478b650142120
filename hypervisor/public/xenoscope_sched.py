"""Schedulers that this project has beside Xen's: their ids, and their parameters in domctl's and sysctl's scheduler_op.

Xen had BVT up to version 3.0. The structures take the place of the arms `credit` of xen_domctl_scheduler_op_u and
`sched_credit` of xen_sysctl_scheduler_op_u: no header of Xen's has them.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from hypervisor.public.domctl import Scheduler
from hypervisor.public.layout import Struct, u16, u32


class OwnScheduler(IntEnum):
    """`sched_id`; far from those that Xen gives out."""

    XENOSCOPE_SCHEDULER_BVT = 0x100
    XENOSCOPE_SCHEDULER_RR = 0x101


XENOSCOPE_SCHEDULER_BVT, XENOSCOPE_SCHEDULER_RR = OwnScheduler.__members__.values()


class xenoscope_domctl_sched_bvt(Struct, size=16):
    """A domain's parameters under BVT."""

    weight: u16  # its share; 0: as it is
    warpback: u16  # 1: it warps
    warp_value: u32  # us, by which it is ahead in virtual time while it warps
    warp_limit: u32  # us, longest warp; 0: no limit
    unwarp: u32  # us, from the end of a warp to the next


class xenoscope_sysctl_bvt_schedule(Struct, size=4):
    """Parameters of BVT."""

    ctx_allow_us: u32  # IN and OUT: how far a running vCPU may get ahead


class xenoscope_sysctl_rr_schedule(Struct, size=4):
    """Parameters of round robin."""

    slice_us: u32  # IN and OUT: length of a slice


SCHEDULER_NAMES: Final[dict[str, int]] = {
    "credit": Scheduler.XEN_SCHEDULER_CREDIT,
    "credit2": Scheduler.XEN_SCHEDULER_CREDIT2,
    "arinc653": Scheduler.XEN_SCHEDULER_ARINC653,
    "rtds": Scheduler.XEN_SCHEDULER_RTDS,
    "null": Scheduler.XEN_SCHEDULER_NULL,
    "bvt": XENOSCOPE_SCHEDULER_BVT,
    "round-robin": XENOSCOPE_SCHEDULER_RR,
}
"""Every scheduler's id by the name that Xen's command line (`sched=`) and xl know it by."""
