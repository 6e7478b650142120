"""What the policies that share out CPU time among domains have in common: accounts of domains, a queue in their order, caps.

    insert ──► queue ── pick ──► runs ── insert, remove: it pays ──► …
        └────► parked: its domain's budget is used up ── tick: there is more ──► queue

An account is the domain's, not each vCPU's as on Xen: of a domain one vCPU runs at a time, and a domain of four vCPUs has no
larger claim than one of one. A policy says what running costs (`_charge`), what order there is (`_rank`), and how long a
slice is.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from hypervisor.public.errno import Errno, XenError
from hypervisor.sched.budget import Budget
from hypervisor.sched.policy import Policy, RunQueue, in_ms
from hypervisor.sched.scheduler import SchedUnit


@dataclass(slots=True)
class Account:
    """A domain's. `budget`: of one with a cap below 100."""

    units: dict[SchedUnit, None] = field(default_factory=dict)
    budget: Budget | None = None


A = TypeVar("A", bound=Account)


class Shares(Policy, Generic[A]):
    """Owns the accounts of all domains, and which of their units wait."""

    def __init__(self) -> None:
        super().__init__()
        self.accounts: dict[int, A] = {}
        self.queue = RunQueue(self._rank)
        self.parked: dict[SchedUnit, None] = {}

    # --- what a policy says ----------------------------------------------------------------------

    @abstractmethod
    def _open(self) -> A:
        """A new domain's account."""

    @abstractmethod
    def _charge(self, unit: SchedUnit, account: A, ran: int, now: int) -> None:
        """The unit ran for `ran` ns until `now`."""

    @abstractmethod
    def _rank(self, unit: SchedUnit) -> Any:
        """The place of a unit that waits or runs: the least runs first."""

    # --- units -----------------------------------------------------------------------------------

    def add(self, unit: SchedUnit, now: int) -> None:
        """The first unit of a domain opens its account; a further one shares it."""
        account = self.accounts.get(unit.domid)
        if account is None:
            account = self.accounts[unit.domid] = self._open()
        account.units[unit] = None

    def forget(self, unit: SchedUnit, now: int) -> None:
        """The unit is gone, and with a domain's last one its account."""
        self.remove(unit, now)
        account = self.accounts.get(unit.domid)
        if account is not None:
            account.units.pop(unit, None)
            if not account.units:
                del self.accounts[unit.domid]

    def remove(self, unit: SchedUnit, now: int) -> None:
        """The unit sleeps: it neither waits nor runs."""
        self._settle_stopped(unit, now)
        self.queue.remove(unit)
        self.parked.pop(unit, None)

    def relay(self, unit: SchedUnit, heir: SchedUnit, now: int) -> bool:
        """The sibling has the same account, and takes the place."""
        if unit not in self.running or heir not in self.queue:
            return False
        self._settle_stopped(unit, now)
        if not self.queue.remove(heir):  # it was parked just now
            return False
        self.queue.add(unit)
        self._starts(heir, now)
        return True

    def waits_for(self, cpu: int) -> bool:
        """Whether a unit waits that may run on the CPU."""
        return self.queue.first(cpu) is not None

    def victim(self, unit: SchedUnit, now: int) -> tuple[SchedUnit, int] | None:
        """The last in order that runs where `unit` may, if it comes after that; when its rate limit is over."""
        rivals = self._rivals(unit)
        for rival in rivals:
            self._settle(rival, now)
        last = max(rivals, key=self._rank, default=None)
        if last is None or self._rank(last) <= self._rank(unit):
            return None
        return last, last.runstate.state_entry_time + self._ratelimit_ns()

    def _ratelimit_ns(self) -> int:
        return 0

    # --- caps ------------------------------------------------------------------------------------

    def holds_back(self, unit: SchedUnit, now: int) -> bool:
        """Whether its domain has reached its cap."""
        return unit in self.parked

    def describe(self, unit: SchedUnit, now: int) -> str:
        """What its domain has left of its cap's budget, if it has one."""
        budget = self.accounts[unit.domid].budget
        return (
            "" if budget is None else f", budget {in_ms(budget.left)}" + " (parked)" * (unit in self.parked)
        )

    def next_event(self) -> int | None:
        """When a domain whose units are parked gets more; 0, at once, if its cap was taken away or raised."""
        if not self.parked:
            return None
        budgets = [self.accounts[unit.domid].budget for unit in self.parked]
        return min(0 if one is None or not one.used_up else one.refill_at for one in budgets)

    def tick(self, now: int) -> list[SchedUnit]:
        """Those whose domain has a budget again wait for a CPU."""
        ready = []
        for unit in list(self.parked):
            budget = self.accounts[unit.domid].budget
            if budget is not None:
                budget.refill(now)
            if budget is None or not budget.used_up:
                del self.parked[unit]
                self.queue.add(unit)
                ready.append(unit)
        return ready

    def _enqueue(self, unit: SchedUnit, now: int) -> bool:
        """Whether the unit waits for a CPU; else it is parked."""
        budget = self.accounts[unit.domid].budget
        if budget is not None:
            budget.refill(now)
            if budget.used_up:
                self.parked[unit] = None
                return False
        self.queue.add(unit)
        return True

    def _set_cap(self, account: A, cap: int, now: int, period_ns: int) -> None:
        """A new cap, from now on. One that runs learns it by having its slice end."""
        account.budget = Budget.of_cap(cap, now, period_ns)
        for unit in account.units:
            if unit in self.running:
                unit.strict = account.budget is not None
                unit.slice_end = min(unit.slice_end, now)

    # --- paying ----------------------------------------------------------------------------------

    def _account_of(self, domid: int) -> A:
        """XenError(ESRCH)."""
        account = self.accounts.get(domid)
        if account is None:
            raise XenError(Errno.ESRCH, f"domain {domid} has no vCPUs under {self.name}")
        return account

    def _settle(self, unit: SchedUnit, now: int) -> None:
        """Have a running unit pay for the time it has run; it runs on."""
        self._pay(unit, self._ran(unit, now), now)

    def _settle_stopped(self, unit: SchedUnit, now: int) -> None:
        """Have a unit that stopped pay. No-op for one that did not run."""
        since = self.running.pop(unit, now)
        if now > since:
            self._pay(unit, now - since, now)

    def _settle_all(self, now: int) -> None:
        for unit in list(self.running):
            self._settle(unit, now)

    def _pay(self, unit: SchedUnit, ran: int, now: int) -> None:
        if not ran:
            return
        account = self.accounts[unit.domid]
        siblings: list[SchedUnit] = []
        if len(account.units) > 1:
            siblings = [other for other in account.units if self.queue.remove(other)]
        self._charge(unit, account, ran, now)
        if account.budget is not None:
            account.budget.charge(now - ran, now)
        for other in siblings:  # their place has changed, or they may not run any more
            if account.budget is not None and account.budget.used_up:
                self.parked[other] = None
            else:
                self.queue.add(other)
