"""What a vCPU of a simulation does with the CPU time that it gets.

compute                 always runnable
work W, sleep S         works for W, sleeps for S, over and over: a server, a user at a keyboard
work W, every P         W of work is due at each multiple of P, to be done before the next: a video, a controller
dodge T, gap G          computes, but sleeps from G before each multiple of T until just after it: gone whenever a tick comes
yield_after W           computes, and yields after each W
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from hypervisor.sched.scheduler import SchedUnit
from hypervisor.sched.virtual_cpus import VirtualCpus

AFTER_TICK_NS: Final = 1000
"""When somebody who dodges a tick is back."""


@dataclass(frozen=True)
class Does:
    """One of the kinds above, in ns; `random`: works and sleeps are drawn from exponential distributions with these means."""

    work: int = 0
    sleep: int = 0
    every: int = 0
    dodge: int = 0
    gap: int = 0
    yield_after: int = 0
    random: bool = False


@dataclass
class Observed:
    """`waits`: of each wake-up, how long until it had a CPU, ns. `jobs`, `missed`: of work that is due, how much was done and how
    much of all was late or has not been done in time.
    """

    waits: array[int] = field(default_factory=lambda: array("q"))
    jobs: int = 0
    missed: int = 0


class Task:
    """One vCPU's. `switch_ns`: what a CPU loses when it goes over to another vCPU. The simulation calls `begin` once, and
    `resumed` and `stopped` when the unit gets and loses a CPU.
    """

    def __init__(
        self, cpus: VirtualCpus, unit: SchedUnit, does: Does, draw: random.Random, switch_ns: int = 0
    ) -> None:
        self.unit = unit
        self.observed = Observed()
        self._cpus, self._does, self._draw, self._switch_ns = cpus, does, draw, switch_ns
        self._left: int | None = None
        """Work until `_then`, ns; None: endless."""
        self._then: Callable[[], None] = self._sleeps
        self._works_since = 0
        self._woken: int | None = None
        self._due = 0
        """When the oldest work that is not done was due to begin."""
        self._ended = False

    def begin(self) -> None:
        """It comes up now."""
        does = self._does
        if does.every:
            self._due = -(-self._cpus.now // does.every) * does.every
            self._then = self._job_done
            self._cpus.at(self._due, self._job_is_due)
        elif does.sleep:
            self._wakes(self._drawn(does.work))
        elif does.dodge:
            self._cpus.at(self._cpus.now // does.dodge * does.dodge + does.dodge - does.gap, self._dodges)
            self._wakes(None)
        elif does.yield_after:
            self._then = self._yields
            self._wakes(does.yield_after)
        else:
            self._wakes(None)

    def end(self) -> None:
        """It goes down for good."""
        self._ended = True
        self._cpus.sleep(self.unit)

    def finish(self) -> None:
        """The simulation is over: work that is late by now counts as missed."""
        if self._does.every and self._left:
            self.observed.missed += max(0, self._cpus.now - self._due) // self._does.every

    # --- on and off a CPU ------------------------------------------------------------------------

    def resumed(self) -> None:
        """It has a CPU."""
        now = self._cpus.now
        if self._woken is not None:
            self.observed.waits.append(now - self._woken)
            self._woken = None
        self._works_since = now + (self._switch_ns if self._cpus.cold else 0)
        if self._left is not None:
            self._cpus.planned(self.unit, self._works_since - now + self._left, self._work_done)

    def stopped(self) -> None:
        """It has none any more."""
        if self._left is not None:
            self._left -= min(self._left, max(0, self._cpus.now - self._works_since))

    # --- what it does ----------------------------------------------------------------------------

    def _work_done(self) -> None:
        self._left = 0
        self._then()

    def _wakes(self, work: int | None) -> None:
        if self._ended:
            return
        self._left = work
        self._woken = self._cpus.now
        self._cpus.wake(self.unit)

    def _sleeps(self) -> None:
        self._cpus.sleep(self.unit)
        self._cpus.at(
            self._cpus.now + self._drawn(self._does.sleep), lambda: self._wakes(self._drawn(self._does.work))
        )

    def _yields(self) -> None:
        self._left = self._does.yield_after
        self._cpus.yield_(self.unit)

    def _dodges(self) -> None:
        if self._ended:
            return
        self._cpus.sleep(self.unit)
        tick = self._cpus.now + self._does.gap
        self._cpus.at(tick + AFTER_TICK_NS, lambda: self._wakes(None))
        self._cpus.at(tick + self._does.dodge - self._does.gap, self._dodges)

    def _job_is_due(self) -> None:
        self._wakes(self._drawn(self._does.work))

    def _job_done(self) -> None:
        now, period = self._cpus.now, self._does.every
        self.observed.jobs += 1
        self.observed.missed += now > self._due + period
        self._due += period
        if self._due > now:
            self._cpus.sleep(self.unit)
            self._cpus.at(self._due, self._job_is_due)
        else:  # the next is due already
            self._left = self._drawn(self._does.work)
            self._works_since = now
            self._cpus.planned(self.unit, self._left, self._work_done)

    def _drawn(self, mean: int) -> int:
        return max(1, round(self._draw.expovariate(1 / mean))) if self._does.random else mean
