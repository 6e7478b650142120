"""Parameters of schedulers between what people say and what Xen's hypercalls take, and libxl's checks of them.

Sources: libxl's sched_…_domain_set, sched_…_vcpu_set and libxl_sched_…_params_set (tools/libs/light/libxl_sched.c).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from domains.control.description import MAX_WEIGHT
from domains.control.records import Record
from domains.control.sched_operations import PoolParams, SchedParams
from domains.dom0.toolstack.errors import ToolstackError
from hypervisor.public.domctl import (
    XEN_DOMCTL_SCHEDRT_extra,
    xen_domctl_sched_credit,
    xen_domctl_sched_rtds,
    xen_domctl_scheduler_op_u,
)
from hypervisor.public.sysctl import (
    XEN_SYSCTL_CSCHED_MGR_DLY_MAX_US,
    XEN_SYSCTL_CSCHED_TSLICE_MAX,
    XEN_SYSCTL_CSCHED_TSLICE_MIN,
    XEN_SYSCTL_SCHED_RATELIMIT_MAX,
    XEN_SYSCTL_SCHED_RATELIMIT_MIN,
    xen_sysctl_credit2_schedule,
    xen_sysctl_credit_schedule,
    xen_sysctl_scheduler_op_u,
)
from hypervisor.public.xenoscope_sched import (
    xenoscope_domctl_sched_bvt,
    xenoscope_sysctl_bvt_schedule,
    xenoscope_sysctl_rr_schedule,
)

MAX_TIME: Final = (1 << 31) - 1
"""us; what a person can ask for, as a C int."""
MIN_SLICE_US: Final = 100
MAX_SLICE_US: Final = 1_000_000


@dataclass(frozen=True)
class Policy:
    """How one scheduler's parameters are read from the unions of the hypercalls and written into them, whole. A scheduler
    without parameters has no functions. `check` and `check_pool` raise ToolstackError for what libxl refuses; `check` is told how
    many vCPUs the domain has.
    """

    read: Callable[[xen_domctl_scheduler_op_u], SchedParams] | None = None
    write: Callable[[SchedParams], xen_domctl_scheduler_op_u] | None = None
    check: Callable[[SchedParams, int], None] = lambda _params, _vcpus: None
    by_vcpu: bool = False
    read_pool: Callable[[xen_sysctl_scheduler_op_u], PoolParams] | None = None
    write_pool: Callable[[PoolParams], xen_sysctl_scheduler_op_u] | None = None
    check_pool: Callable[[PoolParams], None] = lambda _params: None


def merged(now: Record, wanted: Record) -> Any:
    """What is `now`, with what is wanted in its place. Raises ToolstackError for a parameter that there is not."""
    changes = {name: value for name in wanted.fields if (value := getattr(wanted, name)) is not None}
    for name in changes:
        if getattr(now, name) is None:
            raise ToolstackError(f"this scheduler has no '{name}'")
    return now.replaced(**changes)


def within(what: str, value: int | None, low: int, high: int) -> None:
    """Raises ToolstackError for a number that does not lie between these, both included."""
    if value is not None and not low <= value <= high:
        raise ToolstackError(f"{what} must lie between {low} and {high}, not at {value}")


# --- credit and credit2 ------------------------------------------------------------------------------


def read_credit(u: xen_domctl_scheduler_op_u) -> SchedParams:
    """The arms of credit and credit2 are the same."""
    return SchedParams(weight=u.credit.weight, cap=u.credit.cap)


def write_credit(params: SchedParams) -> xen_domctl_scheduler_op_u:
    """The same the other way."""
    arm = xen_domctl_sched_credit(weight=params.weight or 0, cap=params.cap or 0)
    return xen_domctl_scheduler_op_u(credit=arm)


def check_credit(params: SchedParams, vcpus: int) -> None:
    """A cap is at most what all the domain's vCPUs can use."""
    within("the weight", params.weight, 1, MAX_WEIGHT)
    within(f"the cap of a domain of {vcpus} vCPUs", params.cap, 0, 100 * vcpus)


def read_credit_pool(u: xen_sysctl_scheduler_op_u) -> PoolParams:
    """Of credit."""
    arm = u.sched_credit
    return PoolParams(arm.tslice_ms, arm.ratelimit_us, arm.vcpu_migr_delay_us)


def write_credit_pool(params: PoolParams) -> xen_sysctl_scheduler_op_u:
    """The same the other way."""
    arm = xen_sysctl_credit_schedule(
        tslice_ms=params.tslice_ms or 0,
        ratelimit_us=params.ratelimit_us or 0,
        vcpu_migr_delay_us=params.migration_delay_us or 0,
    )
    return xen_sysctl_scheduler_op_u(sched_credit=arm)


def check_ratelimit(params: PoolParams) -> None:
    """0 is no limit."""
    if params.ratelimit_us:
        within(
            "the rate limit in us",
            params.ratelimit_us,
            XEN_SYSCTL_SCHED_RATELIMIT_MIN,
            XEN_SYSCTL_SCHED_RATELIMIT_MAX,
        )


def check_credit_pool(params: PoolParams) -> None:
    """The rate limit is at most a slice."""
    within("the slice in ms", params.tslice_ms, XEN_SYSCTL_CSCHED_TSLICE_MIN, XEN_SYSCTL_CSCHED_TSLICE_MAX)
    check_ratelimit(params)
    if (params.ratelimit_us or 0) > 1000 * (params.tslice_ms or 0):
        raise ToolstackError(
            f"the rate limit ({params.ratelimit_us} us) is longer than a slice ({params.tslice_ms} ms)"
        )
    within("the migration delay in us", params.migration_delay_us, 0, XEN_SYSCTL_CSCHED_MGR_DLY_MAX_US)


def read_credit2_pool(u: xen_sysctl_scheduler_op_u) -> PoolParams:
    """Of credit2."""
    return PoolParams(ratelimit_us=u.sched_credit2.ratelimit_us)


def write_credit2_pool(params: PoolParams) -> xen_sysctl_scheduler_op_u:
    """The same the other way."""
    arm = xen_sysctl_credit2_schedule(ratelimit_us=params.ratelimit_us or 0)
    return xen_sysctl_scheduler_op_u(sched_credit2=arm)


# --- RTDS --------------------------------------------------------------------------------------------


def rtds_params(arm: xen_domctl_sched_rtds) -> SchedParams:
    """Of a vCPU, or of new vCPUs."""
    extratime = bool(arm.flags & XEN_DOMCTL_SCHEDRT_extra)
    return SchedParams(period=arm.period, budget=arm.budget, extratime=extratime)


def rtds_arm(params: SchedParams) -> xen_domctl_sched_rtds:
    """The same the other way."""
    flags = XEN_DOMCTL_SCHEDRT_extra if params.extratime else 0
    return xen_domctl_sched_rtds(period=params.period or 0, budget=params.budget or 0, flags=flags)


def check_rtds(params: SchedParams, _vcpus: int) -> None:
    """A budget is at most its period."""
    within("the period in us", params.period, 1, MAX_TIME)
    within("the budget in us", params.budget, 1, MAX_TIME)
    if (params.budget or 0) > (params.period or 0):
        raise ToolstackError(
            f"the budget ({params.budget} us) is longer than the period ({params.period} us)"
        )


# --- BVT and round robin -----------------------------------------------------------------------------


def read_bvt(u: xen_domctl_scheduler_op_u) -> SchedParams:
    """Of a domain."""
    arm = xenoscope_domctl_sched_bvt.unpack(u.pack())
    return SchedParams(
        weight=arm.weight,
        warp=bool(arm.warpback),
        warp_value=arm.warp_value,
        warp_limit=arm.warp_limit,
        unwarp=arm.unwarp,
    )


def write_bvt(params: SchedParams) -> xen_domctl_scheduler_op_u:
    """The same the other way."""
    arm = xenoscope_domctl_sched_bvt(
        weight=params.weight or 0,
        warpback=int(params.warp or 0),
        warp_value=params.warp_value or 0,
        warp_limit=params.warp_limit or 0,
        unwarp=params.unwarp or 0,
    )
    return xen_domctl_scheduler_op_u.unpack(arm.pack())


def check_bvt(params: SchedParams, _vcpus: int) -> None:
    """Times are not negative."""
    within("the weight", params.weight, 1, MAX_WEIGHT)
    for what in ("warp_value", "warp_limit", "unwarp"):
        within(f"{what} in us", getattr(params, what), 0, MAX_TIME)


def read_bvt_pool(u: xen_sysctl_scheduler_op_u) -> PoolParams:
    """Of BVT."""
    return PoolParams(ctx_allow_us=xenoscope_sysctl_bvt_schedule.unpack(u.pack()).ctx_allow_us)


def write_bvt_pool(params: PoolParams) -> xen_sysctl_scheduler_op_u:
    """The same the other way."""
    arm = xenoscope_sysctl_bvt_schedule(ctx_allow_us=params.ctx_allow_us or 0)
    return xen_sysctl_scheduler_op_u.unpack(arm.pack().ljust(xen_sysctl_scheduler_op_u.sizeof, b"\0"))


def check_bvt_pool(params: PoolParams) -> None:
    """It is the length of a slice where all compute."""
    within("the context-switch allowance in us", params.ctx_allow_us, MIN_SLICE_US, MAX_SLICE_US)


def read_rr_pool(u: xen_sysctl_scheduler_op_u) -> PoolParams:
    """Of round robin."""
    return PoolParams(slice_us=xenoscope_sysctl_rr_schedule.unpack(u.pack()).slice_us)


POLICIES: Final[dict[str, Policy]] = {
    "credit": Policy(
        read_credit,
        write_credit,
        check_credit,
        read_pool=read_credit_pool,
        write_pool=write_credit_pool,
        check_pool=check_credit_pool,
    ),
    "credit2": Policy(
        read_credit,
        write_credit,
        check_credit,
        read_pool=read_credit2_pool,
        write_pool=write_credit2_pool,
        check_pool=check_ratelimit,
    ),
    "rtds": Policy(
        lambda u: rtds_params(u.rtds),
        lambda params: xen_domctl_scheduler_op_u(rtds=rtds_arm(params)),
        check_rtds,
        by_vcpu=True,
    ),
    "bvt": Policy(
        read_bvt,
        write_bvt,
        check_bvt,
        read_pool=read_bvt_pool,
        write_pool=write_bvt_pool,
        check_pool=check_bvt_pool,
    ),
    "round-robin": Policy(read_pool=read_rr_pool),
    "arinc653": Policy(),
    "null": Policy(),
}
"""Each scheduler's way with its parameters, by its name."""
