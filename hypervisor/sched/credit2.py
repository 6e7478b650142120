"""Credit2: the domain that has used least of its share runs. When its vCPU wakes, it takes the CPU of one that has used more.

    credit        runs: burns, the slower the more weight          asleep: keeps what it has
    10 ms ┤╲            ╭── the first in the queue has none left: everybody gets 10 ms more, up to a little over 10 ms
        0 ┤ ╲___________│

Source: Xen common/sched/credit2.c. The one with most credit is first in the queue. A vCPU that mostly sleeps therefore does not
wait for those that compute, however long their slices are, and cannot save up for later. What is used while nobody waits is
no debt: Xen gives out new credit at the end of each slice then, here slices go on and it is made up for when somebody comes.

Other differences: one queue for all CPUs of the pool; credit is the domain's (sched/shares.py); no rate limit unless one is
set; a unit that yields gives its lead away, where Xen looks past it once; a domain's budget is not handed out to its vCPUs
in parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from hypervisor.public.domctl_vcpu import XEN_SCHEDULER_CREDIT2
from hypervisor.public.errno import Errno, XenError
from hypervisor.sched.budget import PERIOD_NS, Budget
from hypervisor.sched.params import DEFAULT_WEIGHT, Credit2Globals, CreditParams, DomainParams, GlobalParams
from hypervisor.sched.policy import MIN_SLICE_NS, in_ms
from hypervisor.sched.scheduler import SchedUnit, Turn, UnitKey
from hypervisor.sched.shares import Account, Shares

CREDIT_INIT_NS: Final = 10_000_000
LEAST_SLICE_NS: Final = 1_000_000
"""How long a unit runs at least, if others have as much credit: Xen's default rate limit."""
CARRYOVER_MAX_NS: Final = MIN_SLICE_NS
"""What may be left of the credit of before when new credit is given out."""


@dataclass(slots=True)
class Credit2Account(Account):
    """`resets`: how often the domain was given credit."""

    resets: int = 0
    credit: int = CREDIT_INIT_NS
    params: CreditParams = field(default_factory=CreditParams)

    def record(self) -> tuple[int, int, int, int, int, int]:
        """As plain data."""
        left, refill_at = (self.budget.left, self.budget.refill_at) if self.budget else (0, 0)
        return self.resets, self.credit, self.params.weight, self.params.cap, left, refill_at


@dataclass(frozen=True)
class Credit2Record:
    """What `Credit2.snapshot` writes down. `accounts`: by domain (resets, credit, weight, cap, left of the budget, its refill);
    `running`: with the time up to which each was charged.
    """

    resets: int
    accounts: dict[int, tuple[int, int, int, int, int, int]]
    queue: list[UnitKey]
    parked: list[UnitKey]
    running: dict[UnitKey, int]


class Credit2(Shares[Credit2Account]):
    """One queue for all CPUs, the richest in credit first. `slice_ns`: how long every slice is that nobody who wakes cuts short;
    None: LEAST_SLICE_NS to CREDIT_INIT_NS, as the credit of those that wait allows.
    """

    name = "credit2"
    sched_id = int(XEN_SCHEDULER_CREDIT2)

    def __init__(self, slice_ns: int | None = None) -> None:
        super().__init__()
        self._credit_ns = slice_ns or CREDIT_INIT_NS
        """The credit that is given out, and the longest slice."""
        self._least_ns = slice_ns or LEAST_SLICE_NS
        self._globals = Credit2Globals()
        self._resets = 0

    def insert(self, unit: SchedUnit, now: int, *, woken: bool) -> None:
        """The unit can run and waits for a CPU, unless its domain's budget is used up."""
        self._settle_stopped(unit, now)
        if not self.queue:
            self._forgive(now)
        if unit.yielding:
            unit.yielding = False
            first = next(iter(self.queue), unit)
            self.accounts[unit.domid].credit = min(self._credit(unit), self._credit(first))
        self._enqueue(unit, now)

    def pick(self, cpu: int, now: int) -> Turn | None:
        """The richest unit that waits and may run there; its slice lasts until it is not the richest any more."""
        unit = self.queue.first(cpu)
        if unit is None:
            return None
        self.queue.remove(unit)
        self._starts(unit, now)
        self._give_out(self._credit(unit))
        account, lead = self.accounts[unit.domid], self._credit(unit)
        for rival in self.queue:
            if rival.domid != unit.domid and rival.may_run(cpu):
                lead -= self._credit(rival)
                break
        least_ns = max(self._least_ns, self._ratelimit_ns())
        slice_ns = max(min(lead * account.params.weight // DEFAULT_WEIGHT, self._credit_ns), least_ns)
        if account.budget is None:
            return Turn(unit, slice_ns)
        return Turn(unit, min(slice_ns, max(account.budget.left, MIN_SLICE_NS)), strict=True)

    def describe(self, unit: SchedUnit, now: int) -> str:
        """Its domain's credit."""
        return f"credit {in_ms(self._credit(unit))}{super().describe(unit, now)}"

    # --- parameters ------------------------------------------------------------------------------

    def params(self, domid: int) -> DomainParams:
        """Weight and cap. XenError(ESRCH) for a domain that this scheduler does not have."""
        return self._account_of(domid).params

    def adjust(self, domid: int, params: DomainParams, now: int) -> None:
        """Weight and cap; XenError(EINVAL) also for a cap above 100 for each vCPU, and ESRCH as `params`."""
        if not isinstance(params, CreditParams):
            raise self._foreign(params)
        account = self._account_of(domid)
        if params.cap > 100 * len(account.units):
            raise XenError(Errno.EINVAL, f"a cap of {params.cap} percent for {len(account.units)} vCPUs")
        self._settle_all(now)
        if params.cap != account.params.cap:
            self._set_cap(account, params.cap, now, PERIOD_NS)
        account.params = params

    def global_params(self) -> GlobalParams:
        """The rate limit."""
        return self._globals

    def adjust_global(self, params: GlobalParams, now: int) -> None:
        """The rate limit."""
        if not isinstance(params, Credit2Globals):
            raise self._foreign(params)
        self._globals = params

    def _ratelimit_ns(self) -> int:
        return self._globals.ratelimit_us * 1000

    # --- writing it down -------------------------------------------------------------------------

    def snapshot(self) -> Credit2Record:
        """All state as plain data; a unit is named by its domain and vCPU."""
        for account in self.accounts.values():
            self._bring_up_to_date(account)
        return Credit2Record(
            self._resets,
            {domid: account.record() for domid, account in self.accounts.items()},
            [unit.key for unit in self.queue],
            [unit.key for unit in self.parked],
            {unit.key: since for unit, since in self.running.items()},
        )

    def restore(self, record: Credit2Record, units: Mapping[UnitKey, SchedUnit]) -> None:
        """Become what `snapshot` wrote down, of these units, which are all there are."""
        self._resets = record.resets
        for unit in units.values():
            if unit.domid in record.accounts:
                self.add(unit, 0)
        for domid, (resets, credit, weight, cap, left, refill_at) in record.accounts.items():
            account = self.accounts[domid]
            account.resets, account.credit, account.params = resets, credit, CreditParams(weight, cap)
            account.budget = Budget(cap, left, refill_at) if refill_at else None
        for key in record.queue:
            self.queue.add(units[key])
        self.parked = {units[key]: None for key in record.parked}
        self.running = {units[key]: since for key, since in record.running.items()}

    # --- credit ----------------------------------------------------------------------------------

    def _open(self) -> Credit2Account:
        return Credit2Account(resets=self._resets, credit=self._credit_ns)

    def _charge(self, unit: SchedUnit, account: Credit2Account, ran: int, now: int) -> None:
        account.credit = self._credit(unit) - ran * DEFAULT_WEIGHT // account.params.weight

    def _rank(self, unit: SchedUnit) -> int:
        return -self._credit(unit)

    def _credit(self, unit: SchedUnit) -> int:
        """What the unit's domain has, with what was given out since it was last looked at."""
        account = self.accounts[unit.domid]
        if account.resets != self._resets:
            self._bring_up_to_date(account)
        return account.credit

    def _bring_up_to_date(self, account: Credit2Account) -> None:
        given = (self._resets - account.resets) * self._credit_ns
        if given:
            account.credit = min(account.credit + given, self._credit_ns + CARRYOVER_MAX_NS)
            account.resets = self._resets

    def _forgive(self, now: int) -> None:
        """Nobody has waited until now."""
        if self.running:
            self._settle_all(now)
            self._give_out(min(self._credit(other) for other in self.running))

    def _give_out(self, credit: int) -> None:
        """New credit for all, until who has `credit` has some; the queue keeps its order."""
        if credit <= 0:
            self._resets += 1 + -credit // self._credit_ns
