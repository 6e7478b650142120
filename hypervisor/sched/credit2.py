"""Credit2: the vCPU that has used least of its share runs. When such a vCPU wakes, it takes the CPU of one that has used more.

    credit        runs: burns, the slower the more weight          asleep: keeps what it has
    10 ms ┤╲            ╭── the first in the queue has none left: everybody gets 10 ms more, up to a little over 10 ms
        0 ┤ ╲___________│

Source: Xen common/sched/credit2.c. Owns the queue of those that can run, the one with most credit first. A vCPU
that mostly sleeps therefore does not wait for those that compute, however long their slices are, and cannot
save up for later. What is used
while nobody waits is no debt: Xen gives out new credit at the end of each slice then, here slices go on and it is made
up for when somebody comes. Other differences: one queue for all CPUs; no rate limit on preemption; a unit that yields
gives its lead away, where Xen looks past it once; no caps.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from hypervisor.public.vcpu import RunState
from hypervisor.sched.scheduler import DEFAULT_WEIGHT, SchedUnit

CREDIT_INIT_NS: Final = 10_000_000
MIN_SLICE_NS: Final = 500_000
CARRYOVER_MAX_NS: Final = MIN_SLICE_NS
"""What may be left of the credit of before when new credit is given out."""


@dataclass(slots=True)
class Account:
    """`charged`: how much of the unit's running time has been paid for; `resets`: how often it was given credit."""

    resets: int
    charged: int
    credit: int = CREDIT_INIT_NS


UnitKey = tuple[int, int]
"""Domain id and vCPU number."""


@dataclass(frozen=True)
class Credit2Record:
    """What `Credit2.snapshot` writes down; an account is (resets, charged, credit)."""

    resets: int
    accounts: dict[UnitKey, tuple[int, int, int]]
    queue: list[UnitKey]
    running: list[UnitKey]


def _key(unit: SchedUnit) -> UnitKey:
    return unit.domid, unit.vcpu_id


class Credit2:
    """One queue for all CPUs, the richest in credit first."""

    def __init__(self) -> None:
        self._queue: list[SchedUnit] = []
        self._running: dict[SchedUnit, None] = {}
        self._accounts: dict[SchedUnit, Account] = {}
        self._resets = 0

    def insert(self, unit: SchedUnit, now: int, *, woken: bool) -> None:
        """The unit can run and waits for a CPU from `now` (ns) on; `woken`: it slept until now."""
        self._running.pop(unit, None)
        credit = self._settle(unit, now)
        if not self._queue:
            self._forgive(now)
        if unit.yielding:
            unit.yielding = False
            if self._queue:
                self._accounts[unit].credit = min(credit, self._credit(self._queue[0]))
        insort(self._queue, unit, key=self._rank)

    def remove(self, unit: SchedUnit) -> None:
        """The unit sleeps: it neither waits nor runs."""
        self._running.pop(unit, None)
        if unit in self._queue:
            self._queue.remove(unit)

    def forget(self, unit: SchedUnit) -> None:
        """The unit is gone, and so is its credit."""
        self.remove(unit)
        self._accounts.pop(unit, None)

    def pick(self, now: int) -> tuple[SchedUnit, int] | None:
        """The richest unit that waits, and its slice in ns; None: nobody waits."""
        if not self._queue:
            return None
        unit = self._queue.pop(0)
        self._running[unit] = None
        self._give_out(self._credit(unit))
        credit = self._credit(unit)
        lead = credit - self._credit(self._queue[0]) if self._queue else credit
        slice_ns = lead * unit.weight // DEFAULT_WEIGHT
        return unit, min(max(slice_ns, MIN_SLICE_NS), CREDIT_INIT_NS)

    def waiting(self) -> bool:
        """Whether a unit waits for a CPU."""
        return bool(self._queue)

    def victim(self, unit: SchedUnit, now: int) -> SchedUnit | None:
        """A running unit that has less credit than `unit` and should make room for it."""
        running = [other for other in self._running if not other.preempting]
        poorest = min(running, key=lambda other: self._settle(other, now), default=None)
        return poorest if poorest is not None and self._credit(poorest) < self._credit(unit) else None

    # --- writing it down -------------------------------------------------------------------------

    def snapshot(self) -> Credit2Record:
        """All state as plain data; a unit is named by its domain and vCPU."""
        return Credit2Record(
            self._resets,
            {_key(unit): (a.resets, a.charged, a.credit) for unit, a in self._accounts.items()},
            [_key(unit) for unit in self._queue],
            [_key(unit) for unit in self._running],
        )

    def restore(self, record: Credit2Record, units: Mapping[UnitKey, SchedUnit]) -> None:
        """Become what `snapshot` wrote down, of these units."""
        self._resets = record.resets
        self._accounts = {units[key]: Account(*account) for key, account in record.accounts.items()}
        self._queue = [units[key] for key in record.queue]
        self._running = {units[key]: None for key in record.running}

    # --- credit ----------------------------------------------------------------------------------

    def _credit(self, unit: SchedUnit) -> int:
        """What the unit has, with what was given out since it was last looked at."""
        account = self._accounts[unit]
        if account.resets != self._resets:
            most = CREDIT_INIT_NS + CARRYOVER_MAX_NS
            account.credit = min(account.credit + (self._resets - account.resets) * CREDIT_INIT_NS, most)
            account.resets = self._resets
        return account.credit

    def _rank(self, unit: SchedUnit) -> int:
        return -self._credit(unit)

    def _settle(self, unit: SchedUnit, now: int) -> int:
        """Have the unit pay for the time it has run; its credit then."""
        ran = unit.runstate.times(now)[RunState.RUNSTATE_running]
        account = self._accounts.get(unit)
        if account is None:
            account = self._accounts[unit] = Account(self._resets, ran)
        credit = self._credit(unit) - (ran - account.charged) * DEFAULT_WEIGHT // unit.weight
        account.charged, account.credit = ran, credit
        return credit

    def _forgive(self, now: int) -> None:
        """Nobody has waited until now."""
        self._give_out(min((self._settle(other, now) for other in self._running), default=1))

    def _give_out(self, credit: int) -> None:
        """New credit for all, until who has `credit` has some; the queue keeps its order."""
        if credit <= 0:
            self._resets += 1 + -credit // CREDIT_INIT_NS
