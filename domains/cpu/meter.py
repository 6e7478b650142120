"""What a vCPU does, counted, on a machine that repeats itself: its work is its time (docs/determinism.md): the
counterpart of domains/cpu/clock.py.

    answer ──take──► resume, budget, unit ──guest works──► now = resume + work · unit ──hand_in──► request

The gate calls `take` and `hand_in`. Whoever plays the CPU counts, and gives the slice back when `is_spent`.
"""

from __future__ import annotations

from hypervisor.public.types import U64
from hypervisor.wire.mailbox import Mailbox


class Meter:
    """One process's, of the vCPU that runs: its clock. `budget` is in units of the CPU's own; time is in ns."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._sheet = mailbox.timesheet
        self._mailbox = mailbox
        self.resume = 0
        self.budget = 0
        self.unit = 0
        self._work = 0

    @property
    def tsc_at_start(self) -> int:
        """The time-stamp counter when system time was 0."""
        return self._mailbox.tsc_offset & U64

    @property
    def work(self) -> int:
        """Units of work since the vCPU went on."""
        return self._work

    @property
    def is_spent(self) -> bool:
        """Whether the budget is used up."""
        return self._work >= self.budget

    def count(self) -> None:
        """One unit more."""
        self._work += 1

    def take(self, vcpu: int) -> None:
        """The vCPU goes on."""
        self.resume, self.budget, self.unit = self._sheet.allowance(vcpu)
        self._work = 0

    def hand_in(self, vcpu: int) -> None:
        """The vCPU is about to ask for something."""
        self._sheet.hand_in(vcpu, self.work)

    def tsc(self) -> int:
        """The time-stamp counter now, in ns, modulo 2^64."""
        return self.resume + self.work * self.unit + self.tsc_at_start & U64
