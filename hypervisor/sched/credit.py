"""Credit: every 30 ms the CPUs' time is given out among the domains by weight; who has some left comes before who has not.

    BOOST   woke, and has credit: preempts the others, until it has run for a tick (10 ms)
    UNDER   has credit
    OVER    has used its own: runs when nobody else would, the one that owes least first

In the other two the units take turns. Source: Xen common/sched/credit.c. A domain that is capped gets at most its cap's worth of
credit, and what it cannot have goes to the others; the cap itself is a budget a period (sched/budget.py).

Differences from Xen:
* Priority follows credit at every moment. Xen measures time exactly too, but sets priorities at the end of a period, and only of
  units that were found running by a tick since: one that sleeps whenever a tick comes is never found, owes nothing that counts,
  and is boosted each time it wakes. A boost ends here after 10 ms of running, and with the credit.
* A unit's slice ends with its credit, if others wait.
* One queue for all CPUs of the pool: a free CPU takes the first that may run there, so there is nothing to be balanced. The
  migration delay chooses among units of one priority: one that ran elsewhere a moment ago is left to that CPU if there is
  another.
* What a domain cannot keep because it has a slice's worth is given to the others the next time. Xen halves it, and the rest is
  lost: all that compute can sink to the least credit there is, where weights do not tell them apart.
* Credit is in nanoseconds, and the domain's (sched/shares.py); Xen's is 10 a millisecond.
* The periods are counted when somebody waits. What was used while nobody did is given back as if they had been counted.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from hypervisor.public.domctl_vcpu import XEN_SCHEDULER_CREDIT
from hypervisor.sched.params import CreditGlobals, CreditParams, DomainParams, GlobalParams
from hypervisor.sched.policy import MIN_SLICE_NS, in_ms
from hypervisor.sched.scheduler import SchedUnit, Turn
from hypervisor.sched.shares import Account, Shares

TSLICE_NS: Final = 30_000_000
TICKS_PER_TSLICE: Final = 3
MOST_DEBT: Final = 4
"""In slices; Xen's is one. On a busy host a unit may overrun its slice by more than one, and is to pay for that."""
BOOST, UNDER, OVER, YIELDED = range(4)


@dataclass(slots=True)
class CreditAccount(Account):
    """`credit`: ns of CPU time that the domain may use. `active`: it takes part when credit is given out."""

    credit: int = 0
    active: bool = False
    params: CreditParams = field(default_factory=CreditParams)


class Credit(Shares[CreditAccount]):
    """`tslice_ns`: the longest slice, and how often credit is given out."""

    name = "credit"
    sched_id = int(XEN_SCHEDULER_CREDIT)

    def __init__(self, tslice_ns: int = TSLICE_NS) -> None:
        super().__init__()
        self._tslice = tslice_ns
        ratelimit_us = min(CreditGlobals.ratelimit_us, tslice_ns // 1000)
        self._globals = CreditGlobals(max(1, tslice_ns // 1_000_000), ratelimit_us)
        self._next = tslice_ns
        """When credit is next given out."""
        self._forfeited = 0
        """Credit that domains could not keep, for when credit is next given out."""
        self._cpus = 0
        self._boosted: dict[SchedUnit, int] = {}
        """Units with a boost, and how long they may still run with it, ns."""
        self._yielded: dict[SchedUnit, None] = {}
        self._stopped_at: dict[SchedUnit, int] = {}

    def cpu_add(self, cpu: int, now: int) -> None:
        """There is more time to be given out."""
        self._cpus += 1

    def cpu_remove(self, cpu: int, now: int) -> None:
        """There is less."""
        self._cpus -= 1

    # --- units -----------------------------------------------------------------------------------

    def forget(self, unit: SchedUnit, now: int) -> None:
        """The unit is gone."""
        super().forget(unit, now)
        for kept in (self._boosted, self._yielded, self._stopped_at):
            kept.pop(unit, None)

    def insert(self, unit: SchedUnit, now: int, *, woken: bool) -> None:
        """The unit can run; woken with credit left, before those that only compute."""
        self._settle_stopped(unit, now)
        self._give_out(now)
        account = self.accounts[unit.domid]
        account.active = True
        self._stopped_at[unit] = now
        if woken and account.credit >= 0:
            self._boosted[unit] = self._tslice // TICKS_PER_TSLICE
        if unit.yielding:
            unit.yielding = False
            self._yielded[unit] = None
        self._enqueue(unit, now)

    def remove(self, unit: SchedUnit, now: int) -> None:
        """The unit sleeps; when it wakes it may be boosted anew."""
        super().remove(unit, now)
        self._boosted.pop(unit, None)
        self._yielded.pop(unit, None)

    def pick(self, cpu: int, now: int) -> Turn | None:
        """The first of the highest priority; for as long as it keeps that."""
        unit = self._first(cpu, now)
        if unit is None:
            return None
        self.queue.remove(unit)
        self._yielded.pop(unit, None)
        self._starts(unit, now)
        account = self.accounts[unit.domid]
        slice_ns = self._tslice
        if account.credit > 0:
            slice_ns = min(slice_ns, account.credit, self._boosted.get(unit, slice_ns))
        elif self._next > now:
            slice_ns = min(slice_ns // TICKS_PER_TSLICE, self._next - now)
        if account.budget is not None:
            slice_ns = min(slice_ns, account.budget.left)
        return Turn(unit, max(slice_ns, min(MIN_SLICE_NS, self._tslice)), strict=account.budget is not None)

    def _first(self, cpu: int, now: int) -> SchedUnit | None:
        first = self.queue.first(cpu)
        delay = self._globals.vcpu_migr_delay_us * 1000
        if first is None or not delay:
            return first
        equals = (unit for unit in self.queue if self._rank(unit) == self._rank(first) and unit.may_run(cpu))
        cold = (u for u in equals if u.last_cpu in (cpu, None) or now - self._stopped_at[u] >= delay)
        return next(cold, first)

    def describe(self, unit: SchedUnit, now: int) -> str:
        """Its priority and its domain's credit."""
        priority = ("BOOST", "UNDER", "OVER", "YIELDED")[self._rank(unit)[0]]
        return f"{priority}, credit {in_ms(self.accounts[unit.domid].credit)}{super().describe(unit, now)}"

    # --- its own time ----------------------------------------------------------------------------

    def next_event(self) -> int | None:
        """When credit is given out, if anybody waits for it, or a capped domain gets its budget."""
        refill = super().next_event()
        if not self.queue:
            return refill
        return self._next if refill is None else min(refill, self._next)

    def tick(self, now: int) -> list[SchedUnit]:
        """Give out what is due; those whose turn may have come by it."""
        over = [unit for unit in self.queue if self._rank(unit)[0] >= OVER]
        self._give_out(now)
        return [*super().tick(now), *(unit for unit in over if self._rank(unit)[0] < OVER)]

    def _give_out(self, now: int) -> None:
        """Credit for the periods that have ended, by weight; what a domain cannot use goes to the others."""
        if now < self._next:
            return
        self._settle_all(now)
        periods = (now - self._next) // self._tslice + 1
        self._next += periods * self._tslice
        active = [account for account in self.accounts.values() if account.active]
        total, weights = periods * self._tslice * self._cpus, sum(one.params.weight for one in active)
        left = total + min(max(self._forfeited, -total), total)
        self._forfeited = 0
        for account in sorted(active, key=lambda one: self._peak(one, periods) / one.params.weight):
            fair = -(-left * account.params.weight // weights)
            given = min(fair, self._peak(account, periods))
            left, weights = max(0, left - given), weights - account.params.weight
            self._credit(account, account.credit + given)
        self._yielded.clear()
        waiting = list(self.queue)
        for unit in waiting:
            self.queue.remove(unit)
        for unit in waiting:
            self.queue.add(unit)

    def _credit(self, account: CreditAccount, credit: int) -> None:
        """The domain has so much, within bounds; what is beyond them is for the others, or at their cost."""
        account.credit = max(credit, -MOST_DEBT * self._tslice)
        if credit > self._tslice:  # it does not use its share: it earns no more until it runs
            account.credit, account.active = self._tslice // 2, False
        self._forfeited += credit - account.credit

    def _peak(self, account: CreditAccount, periods: int) -> int:
        """The most that a domain can use: one CPU, or its cap."""
        cap = account.params.cap or 100
        return periods * self._tslice * min(cap, 100) // 100

    # --- parameters ------------------------------------------------------------------------------

    def params(self, domid: int) -> DomainParams:
        """Weight and cap. XenError(ESRCH) for a domain that this scheduler does not have."""
        return self._account_of(domid).params

    def adjust(self, domid: int, params: DomainParams, now: int) -> None:
        """Weight and cap; they hold from when credit is next given out, the cap at once. XenError(ESRCH) as `params`."""
        if not isinstance(params, CreditParams):
            raise self._foreign(params)
        account = self._account_of(domid)
        if params.cap != account.params.cap:
            self._settle_all(now)
            self._set_cap(account, params.cap, now, self._tslice)
        account.params = params

    def global_params(self) -> GlobalParams:
        """Slice, rate limit and migration delay."""
        return self._globals

    def adjust_global(self, params: GlobalParams, now: int) -> None:
        """Slice, rate limit and migration delay."""
        if not isinstance(params, CreditGlobals):
            raise self._foreign(params)
        self._settle_all(now)
        self._globals, self._tslice = params, params.tslice_ms * 1_000_000
        self._next = min(self._next, now + self._tslice)
        for account in self.accounts.values():
            if account.budget is not None:
                account.budget = replace(account.budget, period_ns=self._tslice)

    def _ratelimit_ns(self) -> int:
        return self._globals.ratelimit_us * 1000

    # --- credit ----------------------------------------------------------------------------------

    def _open(self) -> CreditAccount:
        return CreditAccount()

    def _charge(self, unit: SchedUnit, account: CreditAccount, ran: int, now: int) -> None:
        account.credit -= ran
        account.active = True
        boost = self._boosted.get(unit)
        if boost is not None:
            if boost > ran and account.credit >= 0:
                self._boosted[unit] = boost - ran
            else:
                del self._boosted[unit]

    def _rank(self, unit: SchedUnit) -> tuple[int, int]:
        if unit in self._yielded:
            return YIELDED, 0
        credit = self.accounts[unit.domid].credit
        if credit < 0:
            return OVER, -credit
        return BOOST if unit in self._boosted else UNDER, 0
