"""Parameters of schedulers: of a domain, of a vCPU, and of a whole scheduler, as plain checked records.

Times are in the units of Xen's interface. A record refuses at its making what Xen refuses, with XenError(EINVAL); what depends
on the scheduler's state besides (a cap above 100 percent for each vCPU under credit2) is refused by `adjust`. Sources: Xen
public/domctl.h and public/sysctl.h (scheduler_op), common/sched/credit.c, credit2.c, rt.c, arinc653.c; of BVT Xen 1.x's
common/sched_bvt.c and Duda and Cheriton, SOSP 1999.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hypervisor.public.errno import Errno, XenError
from hypervisor.public.sysctl import (
    XEN_SYSCTL_CSCHED_MGR_DLY_MAX_US,
    XEN_SYSCTL_CSCHED_TSLICE_MAX,
    XEN_SYSCTL_CSCHED_TSLICE_MIN,
    XEN_SYSCTL_SCHED_RATELIMIT_MAX,
    XEN_SYSCTL_SCHED_RATELIMIT_MIN,
)

DEFAULT_WEIGHT: Final = 256
MAX_U16: Final = 0xFFFF
MAX_U32: Final = 0xFFFFFFFF
RTDS_PERIOD_US: Final = 10_000
RTDS_BUDGET_US: Final = 4_000
RTDS_MIN_US: Final = 10
ARINC653_MAX_DOMAINS_PER_SCHEDULE: Final = 64
MAX_FRAME_NS: Final = 1 << 62
"""More than a century: a sum of frames stays a 64-bit number."""
MIN_SLICE_NS: Final = 100_000
MAX_SLICE_NS: Final = XEN_SYSCTL_CSCHED_TSLICE_MAX * 1_000_000


def _within(what: str, value: int, least: int, most: int) -> None:
    """XenError(EINVAL)."""
    if not least <= value <= most:
        raise XenError(Errno.EINVAL, f"{what} is {least} to {most}, not {value}")


def _check_ratelimit(ratelimit_us: int) -> None:
    """0 (none), or within Xen's bounds."""
    if ratelimit_us:
        _within("ratelimit_us", ratelimit_us, XEN_SYSCTL_SCHED_RATELIMIT_MIN, XEN_SYSCTL_SCHED_RATELIMIT_MAX)


@dataclass(frozen=True)
class CreditParams:
    """Of a domain under credit and credit2. `weight`: its share relative to the others', 1 to 65535. `cap`: the most CPU time it
    gets, in percent of one CPU; 0: no cap.

    Xen's hypercall has values that mean "as it is": weight 0 under both, cap 0xFFFF under credit. Whoever decodes the hypercall
    replaces them by what `params` says.
    """

    weight: int = DEFAULT_WEIGHT
    cap: int = 0

    def __post_init__(self) -> None:
        _within("weight", self.weight, 1, MAX_U16)
        _within("cap", self.cap, 0, MAX_U16)


@dataclass(frozen=True)
class RtdsParams:
    """Of a vCPU under RTDS: `budget_us` of CPU time in every `period_us`. `extratime`: it may also have time that is left
    over.
    """

    period_us: int = RTDS_PERIOD_US
    budget_us: int = RTDS_BUDGET_US
    extratime: bool = True

    def __post_init__(self) -> None:
        _within("period_us", self.period_us, RTDS_MIN_US, MAX_U32)
        _within("budget_us", self.budget_us, RTDS_MIN_US, self.period_us)


@dataclass(frozen=True)
class BvtParams:
    """Of a domain under BVT. `weight`: its share. `warpback`: whether it warps. `warp_value_us`: how far it is set ahead in
    virtual time while it is warped. `warp_limit_us`: the most it runs warped at a time, 0: no limit. `unwarp_us`: how long
    it then stays unwarped.
    """

    weight: int = DEFAULT_WEIGHT
    warpback: bool = False
    warp_value_us: int = 0
    warp_limit_us: int = 0
    unwarp_us: int = 0

    def __post_init__(self) -> None:
        _within("weight", self.weight, 1, MAX_U16)
        for name in ("warp_value_us", "warp_limit_us", "unwarp_us"):
            _within(name, getattr(self, name), 0, MAX_U32)


@dataclass(frozen=True)
class NoParams:
    """Of a domain under a scheduler that asks nothing: null, ARINC 653, round robin."""


DomainParams = CreditParams | RtdsParams | BvtParams | NoParams


@dataclass(frozen=True)
class CreditGlobals:
    """Of credit. `tslice_ms`: length of a slice and of an accounting period. `ratelimit_us`: a vCPU that got a CPU keeps it
    so long though others come, 0: not. `vcpu_migr_delay_us`: for so long after it ran a vCPU is not taken over by another CPU.
    """

    tslice_ms: int = 30
    ratelimit_us: int = 1000
    vcpu_migr_delay_us: int = 0

    def __post_init__(self) -> None:
        _within("tslice_ms", self.tslice_ms, XEN_SYSCTL_CSCHED_TSLICE_MIN, XEN_SYSCTL_CSCHED_TSLICE_MAX)
        _check_ratelimit(self.ratelimit_us)
        _within("ratelimit_us", self.ratelimit_us, 0, self.tslice_ms * 1000)
        _within("vcpu_migr_delay_us", self.vcpu_migr_delay_us, 0, XEN_SYSCTL_CSCHED_MGR_DLY_MAX_US)


@dataclass(frozen=True)
class Credit2Globals:
    """Of credit2. `ratelimit_us`: a vCPU that got a CPU keeps it so long though others come; 0: not, which is the default here.

    Xen's default is 1000. On a machine of few emulated CPUs a domain that waits for Dom0's answer would wait that millisecond.
    """

    ratelimit_us: int = 0

    def __post_init__(self) -> None:
        _check_ratelimit(self.ratelimit_us)


@dataclass(frozen=True)
class BvtGlobals:
    """Of BVT. `ctx_allow_us`: the context-switch allowance, real time by which a running domain may get ahead of the others."""

    ctx_allow_us: int = 5000

    def __post_init__(self) -> None:
        _within("ctx_allow_us", self.ctx_allow_us, MIN_SLICE_NS // 1000, MAX_SLICE_NS // 1000)


@dataclass(frozen=True)
class RoundRobinGlobals:
    """Of round robin: the length of a slice."""

    slice_us: int = 10_000

    def __post_init__(self) -> None:
        _within("slice_us", self.slice_us, MIN_SLICE_NS // 1000, MAX_SLICE_NS // 1000)


@dataclass(frozen=True)
class MinorFrame:
    """A part of an ARINC 653 schedule: for `runtime_ns` the CPU is that vCPU's of the domain with this handle (16 bytes, its
    UUID), whether it uses it or not.
    """

    handle: bytes
    vcpu_id: int
    runtime_ns: int

    def __post_init__(self) -> None:
        _within("runtime_ns", self.runtime_ns, 1, MAX_FRAME_NS)


@dataclass(frozen=True)
class Arinc653Schedule:
    """Of ARINC 653: the frames, in order, and after how many ns they begin again. What they leave of it belongs to nobody."""

    major_frame_ns: int
    frames: tuple[MinorFrame, ...]

    def __post_init__(self) -> None:
        _within("major_frame_ns", self.major_frame_ns, 1, MAX_FRAME_NS)
        _within("the number of frames", len(self.frames), 1, ARINC653_MAX_DOMAINS_PER_SCHEDULE)
        total = sum(frame.runtime_ns for frame in self.frames)
        _within("the sum of runtime_ns", total, 1, self.major_frame_ns)


@dataclass(frozen=True)
class NoGlobals:
    """Of a scheduler that has no parameters of its own: null, RTDS."""


GlobalParams = CreditGlobals | Credit2Globals | BvtGlobals | RoundRobinGlobals | Arinc653Schedule | NoGlobals
