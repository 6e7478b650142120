"""A cap below 100: how much CPU time a domain may have in a period, in percent of one CPU.

    left  ┤▔╲        ▔╲        at each period's end: so much more, but never more than a period's worth; a debt is paid back
       0  ┤  ╲_______│ ╲____
              parked

Source: Xen common/sched/credit2.c (csched2_dom: tot_budget, budget, next_repl). Time is charged in the period that it was
used in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PERIOD_NS: Final = 10_000_000
"""Xen's CSCHED2_BDGT_REPL_PERIOD."""


@dataclass(slots=True)
class Budget:
    """Of a domain whose cap is `cap` percent. `left`: what it may still use, ns, below 0 when it used more; `refill_at`:
    when it gets more, ns.
    """

    cap: int
    left: int
    refill_at: int
    period_ns: int = PERIOD_NS

    @classmethod
    def of_cap(cls, cap: int, now: int, period_ns: int = PERIOD_NS) -> Budget | None:
        """A whole period's, from `now` on. None for no cap (0), or one of 100 and more: a domain has one CPU at a time at
        most.
        """
        if not 0 < cap < 100:
            return None
        return cls(cap, cap * period_ns // 100, now + period_ns, period_ns)

    @property
    def total(self) -> int:
        """What it may use in a period, ns."""
        return self.cap * self.period_ns // 100

    @property
    def used_up(self) -> bool:
        """Whether the domain has to wait for the next period."""
        return self.left <= 0

    def refill(self, now: int) -> None:
        """Give it what has come due."""
        if now >= self.refill_at:
            periods = (now - self.refill_at) // self.period_ns + 1
            self.left = min(self.left + periods * self.total, self.total)
            self.refill_at += periods * self.period_ns

    def charge(self, since: int, now: int) -> None:
        """It ran from `since` to `now`."""
        while self.refill_at <= now:
            used = max(0, self.refill_at - since)
            self.left -= used
            since += used
            self.left = min(self.left + self.total, self.total)
            self.refill_at += self.period_ns
        self.left -= now - since
