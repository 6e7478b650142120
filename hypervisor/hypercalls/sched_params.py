"""Parameters of schedulers in the arms of domctl's and sysctl's scheduler_op, and as the records of hypervisor/sched/params.py.

Each record knows by its type which arm it stands in: a scheduler's parameters are read before they are set, so that values which
mean "as it is" find what they mean. Sources: Xen common/sched/credit.c (csched_dom_cntl), credit2.c (csched2_dom_cntl), rt.c
(rt_dom_cntl), arinc653.c.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from hypervisor.hypercalls.call import Call
from hypervisor.public.domctl import (
    XEN_SCHEDULER_CREDIT,
    XEN_DOMCTL_SCHEDRT_extra,
    xen_domctl_sched_credit,
    xen_domctl_sched_rtds,
    xen_domctl_scheduler_op_u,
)
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.sysctl import (
    ARINC653_MAX_DOMAINS_PER_SCHEDULE,
    xen_sysctl_arinc653_schedule,
    xen_sysctl_arinc653_schedule_sched_entries,
    xen_sysctl_credit2_schedule,
    xen_sysctl_credit_schedule,
    xen_sysctl_scheduler_op_u,
)
from hypervisor.public.xenoscope_sched import (
    xenoscope_domctl_sched_bvt,
    xenoscope_sysctl_bvt_schedule,
    xenoscope_sysctl_rr_schedule,
)
from hypervisor.sched.params import (
    Arinc653Schedule,
    BvtGlobals,
    BvtParams,
    Credit2Globals,
    CreditGlobals,
    CreditParams,
    DomainParams,
    GlobalParams,
    MinorFrame,
    NoGlobals,
    NoParams,
    RoundRobinGlobals,
    RtdsParams,
)

CAP_AS_IT_IS: Final = 0xFFFF
"""Of credit; credit2 has no such value."""


# --- of a domain or a vCPU ---------------------------------------------------------------------------


def credit_from(u: xen_domctl_scheduler_op_u, now: CreditParams, sched_id: int) -> CreditParams:
    """XenError(EINVAL). A weight of 0 is as it is; so is under credit a cap of 0xFFFF."""
    arm = u.credit
    keeps_cap = sched_id == XEN_SCHEDULER_CREDIT and arm.cap == CAP_AS_IT_IS
    return CreditParams(arm.weight or now.weight, now.cap if keeps_cap else arm.cap)


def rtds_from(arm: xen_domctl_sched_rtds) -> RtdsParams:
    """XenError(EINVAL)."""
    return RtdsParams(arm.period, arm.budget, bool(arm.flags & XEN_DOMCTL_SCHEDRT_extra))


def rtds_arm(params: RtdsParams) -> xen_domctl_sched_rtds:
    """The same the other way."""
    flags = XEN_DOMCTL_SCHEDRT_extra if params.extratime else 0
    return xen_domctl_sched_rtds(period=params.period_us, budget=params.budget_us, flags=flags)


def bvt_from(u: xen_domctl_scheduler_op_u, now: BvtParams) -> BvtParams:
    """XenError(EINVAL). A weight of 0 is as it is."""
    arm = xenoscope_domctl_sched_bvt.unpack(u.pack())
    return BvtParams(arm.weight or now.weight, bool(arm.warpback), arm.warp_value, arm.warp_limit, arm.unwarp)


def domain_params(u: xen_domctl_scheduler_op_u, now: DomainParams, sched_id: int) -> DomainParams:
    """What a caller wants in place of `now`, which is the kind of record that the scheduler has. XenError(EINVAL)."""
    if isinstance(now, CreditParams):
        return credit_from(u, now, sched_id)
    if isinstance(now, RtdsParams):
        return rtds_from(u.rtds)
    return bvt_from(u, now) if isinstance(now, BvtParams) else NoParams()


def domain_arm(params: DomainParams, u: xen_domctl_scheduler_op_u) -> xen_domctl_scheduler_op_u:
    """The union with the parameters in it; `u`, where there are none."""
    kind = xen_domctl_scheduler_op_u
    if isinstance(params, CreditParams):
        return kind(credit=xen_domctl_sched_credit(weight=params.weight, cap=params.cap))
    if isinstance(params, RtdsParams):
        return kind(rtds=rtds_arm(params))
    if isinstance(params, BvtParams):
        arm = xenoscope_domctl_sched_bvt(
            weight=params.weight,
            warpback=int(params.warpback),
            warp_value=params.warp_value_us,
            warp_limit=params.warp_limit_us,
            unwarp=params.unwarp_us,
        )
        return kind.unpack(arm.pack())
    return u


# --- of a pool ---------------------------------------------------------------------------------------


def _read_credit(_call: Call, u: xen_sysctl_scheduler_op_u) -> GlobalParams:
    arm = u.sched_credit
    return CreditGlobals(arm.tslice_ms, arm.ratelimit_us, arm.vcpu_migr_delay_us)


def _read_credit2(_call: Call, u: xen_sysctl_scheduler_op_u) -> GlobalParams:
    return Credit2Globals(u.sched_credit2.ratelimit_us)


def _read_bvt(_call: Call, u: xen_sysctl_scheduler_op_u) -> GlobalParams:
    return BvtGlobals(xenoscope_sysctl_bvt_schedule.unpack(u.pack()).ctx_allow_us)


def _read_round_robin(_call: Call, u: xen_sysctl_scheduler_op_u) -> GlobalParams:
    return RoundRobinGlobals(xenoscope_sysctl_rr_schedule.unpack(u.pack()).slice_us)


def _read_arinc653(call: Call, u: xen_sysctl_scheduler_op_u) -> GlobalParams:
    """XenError(EFAULT, EINVAL)."""
    schedule = call.read(u.sched_arinc653, xen_sysctl_arinc653_schedule)
    count = schedule.num_sched_entries
    if count > ARINC653_MAX_DOMAINS_PER_SCHEDULE:
        raise XenError(Errno.EINVAL, f"a schedule of {count} entries")
    frames = (
        MinorFrame(bytes(entry.dom_handle), entry.vcpu_id, entry.runtime)
        for entry in schedule.sched_entries[:count]
    )
    return Arinc653Schedule(schedule.major_frame, tuple(frames))


READERS: Final[dict[type[Any], Callable[[Call, xen_sysctl_scheduler_op_u], GlobalParams]]] = {
    CreditGlobals: _read_credit,
    Credit2Globals: _read_credit2,
    BvtGlobals: _read_bvt,
    RoundRobinGlobals: _read_round_robin,
    Arinc653Schedule: _read_arinc653,
    NoGlobals: lambda _call, _u: NoGlobals(),
}
"""How parameters are read, by the type of those that the scheduler has."""


def pool_params(call: Call, u: xen_sysctl_scheduler_op_u, now: GlobalParams) -> GlobalParams:
    """What a caller wants in place of `now`. XenError(EINVAL, EFAULT)."""
    return READERS[type(now)](call, u)


def write_pool_params(
    call: Call, params: GlobalParams, u: xen_sysctl_scheduler_op_u
) -> xen_sysctl_scheduler_op_u:
    """The union with the parameters in it; a schedule goes to where the union points at. XenError(EFAULT)."""
    kind = xen_sysctl_scheduler_op_u
    if isinstance(params, CreditGlobals):
        arm = xen_sysctl_credit_schedule(
            tslice_ms=params.tslice_ms,
            ratelimit_us=params.ratelimit_us,
            vcpu_migr_delay_us=params.vcpu_migr_delay_us,
        )
        return kind(sched_credit=arm)
    if isinstance(params, Credit2Globals):
        return kind(sched_credit2=xen_sysctl_credit2_schedule(ratelimit_us=params.ratelimit_us))
    if isinstance(params, BvtGlobals):
        raw = xenoscope_sysctl_bvt_schedule(ctx_allow_us=params.ctx_allow_us).pack()
        return kind.unpack(raw.ljust(kind.sizeof, b"\0"))
    if isinstance(params, RoundRobinGlobals):
        raw = xenoscope_sysctl_rr_schedule(slice_us=params.slice_us).pack()
        return kind.unpack(raw.ljust(kind.sizeof, b"\0"))
    if isinstance(params, Arinc653Schedule):
        call.write(u.sched_arinc653, _schedule(params))
    return u


def _schedule(params: Arinc653Schedule) -> xen_sysctl_arinc653_schedule:
    entry = xen_sysctl_arinc653_schedule_sched_entries
    entries = [
        entry(dom_handle=frame.handle, vcpu_id=frame.vcpu_id, runtime=frame.runtime_ns)
        for frame in params.frames
    ]
    empty = [entry()] * (ARINC653_MAX_DOMAINS_PER_SCHEDULE - len(entries))
    return xen_sysctl_arinc653_schedule(
        major_frame=params.major_frame_ns,
        num_sched_entries=len(entries),
        sched_entries=(*entries, *empty),
    )
