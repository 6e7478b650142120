"""Borrowed virtual time: the domain that is furthest behind in virtual time runs; one that wakes may borrow from its future.

    A   actual virtual time: runs on while the domain runs, the slower the more weight it has
    E = A - W   effective virtual time, while the domain is warped; else A. The least E runs

    E_i  ┤      ╱ i runs until it is C / weight ahead of the next, C being the context-switch allowance
    E_j  ┤─────╱──────────

A domain that wakes has no claim to the time that it slept: its A becomes that of the one furthest behind, if it was less. It
runs at once if its E is the least: C holds between those that compute, not towards one that just became runnable. A warped
domain is W ahead of its turn until it has run for its warp limit; then it is not warped for the unwarp time.

Sources: Duda and Cheriton, Borrowed-virtual-time (BVT) scheduling, SOSP 1999; Barham et al. 2003, 3.3.1; Xen 1.x
common/sched_bvt.c. Differences from Xen's: time is charged in nanoseconds and not in units of 100 us whose sums were added
to nanoseconds, so that weights have the effect that the paper says; a domain warps when it wakes, not by a timer; one queue
for all CPUs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from hypervisor.public.xenoscope_sched import XENOSCOPE_SCHEDULER_BVT
from hypervisor.sched.params import (
    DEFAULT_WEIGHT,
    MAX_SLICE_NS,
    BvtGlobals,
    BvtParams,
    DomainParams,
    GlobalParams,
)
from hypervisor.sched.policy import MIN_SLICE_NS, in_ms
from hypervisor.sched.scheduler import SchedUnit, Turn
from hypervisor.sched.shares import Account, Shares

CTX_ALLOW_NS: Final = 5_000_000


@dataclass(slots=True)
class BvtAccount(Account):
    """`avt`: actual virtual time, ns of a domain of default weight. `warped_ns`: how long it has run since it warped; None:
    it is not warped. `unwarped_until`: when it may warp again, ns of system time.
    """

    avt: int = 0
    warped_ns: int | None = None
    unwarped_until: int = 0
    params: BvtParams = field(default_factory=BvtParams)

    @property
    def evt(self) -> int:
        """Effective virtual time."""
        return self.avt if self.warped_ns is None else self.avt - self.params.warp_value_us * 1000

    @property
    def warp_left(self) -> int | None:
        """How long it may still run warped, ns; None: it is not warped, or has no limit."""
        if self.warped_ns is None or not self.params.warp_limit_us:
            return None
        return self.params.warp_limit_us * 1000 - self.warped_ns


class Bvt(Shares[BvtAccount]):
    """`ctx_allow_ns`: C."""

    name = "bvt"
    sched_id = int(XENOSCOPE_SCHEDULER_BVT)

    def __init__(self, ctx_allow_ns: int = CTX_ALLOW_NS) -> None:
        super().__init__()
        self._allow = ctx_allow_ns
        self._woken: dict[SchedUnit, None] = {}
        """Those that wait since they woke: among equals they come first."""
        self._svt = 0
        """Scheduler virtual time, of when there was last somebody to take it from."""

    def insert(self, unit: SchedUnit, now: int, *, woken: bool) -> None:
        """The unit can run: it waits where its virtual time puts it."""
        self._settle_stopped(unit, now)
        account = self.accounts[unit.domid]
        self._woken.pop(unit, None)
        if woken:
            self._woken[unit] = None
            account.avt = max(account.avt, self._scheduler_time(now))
            if account.params.warpback and account.warped_ns is None and now >= account.unwarped_until:
                account.warped_ns = 0
        if unit.yielding:
            unit.yielding = False
            first = next(iter(self.queue), unit)
            account.avt += max(0, self._evt(first) - account.evt)
        self._enqueue(unit, now)

    def pick(self, cpu: int, now: int) -> Turn | None:
        """The unit furthest behind of those that may run there, until it is C ahead of the next."""
        unit = self.queue.first(cpu)
        if unit is None:
            return None
        self.queue.remove(unit)
        self._woken.pop(unit, None)
        self._starts(unit, now)
        account = self.accounts[unit.domid]
        rival = next(
            (other for other in self.queue if other.domid != unit.domid and other.may_run(cpu)), None
        )
        lead = 0 if rival is None else self._evt(rival) - account.evt
        slice_ns = lead * account.params.weight // DEFAULT_WEIGHT + self._allow
        if account.warp_left is not None:
            slice_ns = min(slice_ns, account.warp_left)
        return Turn(unit, min(max(slice_ns, MIN_SLICE_NS), MAX_SLICE_NS))

    def victim(self, unit: SchedUnit, now: int) -> tuple[SchedUnit, int] | None:
        """The one furthest ahead that runs where `unit` may, unless it is further behind than `unit`."""
        rivals = self._rivals(unit)
        for rival in rivals:
            self._settle(rival, now)
        last = max(rivals, key=self._rank, default=None)
        return (last, now) if last is not None and self._evt(last) >= self._evt(unit) else None

    def remove(self, unit: SchedUnit, now: int) -> None:
        """The unit sleeps."""
        super().remove(unit, now)
        self._woken.pop(unit, None)

    def describe(self, unit: SchedUnit, now: int) -> str:
        """Its domain's virtual time."""
        account = self.accounts[unit.domid]
        warped = "" if account.warped_ns is None else f", warped for {in_ms(account.warped_ns)}"
        return f"AVT {in_ms(account.avt)}, EVT {in_ms(account.evt)}{warped}"

    # --- parameters ------------------------------------------------------------------------------

    def params(self, domid: int) -> DomainParams:
        """Weight and warp. XenError(ESRCH) for a domain that this scheduler does not have."""
        return self._account_of(domid).params

    def adjust(self, domid: int, params: DomainParams, now: int) -> None:
        """Weight and warp; a domain that is warped is not any more. XenError(ESRCH) as `params`."""
        if not isinstance(params, BvtParams):
            raise self._foreign(params)
        account = self._account_of(domid)
        self._settle_all(now)
        waiting = [unit for unit in account.units if self.queue.remove(unit)]
        account.params, account.warped_ns, account.unwarped_until = params, None, 0
        for unit in waiting:
            self.queue.add(unit)

    def global_params(self) -> GlobalParams:
        """The context-switch allowance."""
        return BvtGlobals(self._allow // 1000)

    def adjust_global(self, params: GlobalParams, now: int) -> None:
        """Of the slices that begin from now on."""
        if not isinstance(params, BvtGlobals):
            raise self._foreign(params)
        self._allow = params.ctx_allow_us * 1000

    # --- virtual time ----------------------------------------------------------------------------

    def _open(self) -> BvtAccount:
        return BvtAccount(avt=self._svt)

    def _charge(self, unit: SchedUnit, account: BvtAccount, ran: int, now: int) -> None:
        account.avt += ran * DEFAULT_WEIGHT // account.params.weight
        if account.warped_ns is not None:
            account.warped_ns += ran
            left = account.warp_left
            if left is not None and left <= 0:
                account.warped_ns = None
                account.unwarped_until = now + account.params.unwarp_us * 1000

    def _rank(self, unit: SchedUnit) -> tuple[int, bool]:
        return self._evt(unit), unit not in self._woken

    def _evt(self, unit: SchedUnit) -> int:
        return self.accounts[unit.domid].evt

    def _scheduler_time(self, now: int) -> int:
        """The least actual virtual time of all that wait or run, but at most C behind those that wait.

        A domain whose weight is worth more than a CPU runs all the time and falls behind all the same. Somebody who began where
        that one is would keep all others off the other CPUs.
        """
        self._settle_all(now)
        waiting, running = self._least(self.queue), self._least(self.running)
        if waiting is not None and running is not None:
            running = max(running, waiting - self._allow)
        first = min((one for one in (waiting, running) if one is not None), default=0)
        self._svt = max(self._svt, first)
        return self._svt

    def _least(self, units: Iterable[SchedUnit]) -> int | None:
        return min((self.accounts[unit.domid].avt for unit in units), default=None)
