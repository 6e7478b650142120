"""The machine's clock: the one source of time for the core.

    boot_ns (host's CLOCK_MONOTONIC) ──────────── system time, ns ────────────► now()
    the mailbox's epoch: the processes of the domains subtract it from the same clock

Everything in the core that asks for the time asks this object, so that a machine can run on another clock than the host's.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """System time and wall-clock time of one machine. Both are integers, in nanoseconds."""

    @property
    def boot_ns(self) -> int:
        """What the host's CLOCK_MONOTONIC showed at system time 0."""

    def now(self) -> int:
        """System time: ns since the machine started. It never goes back."""

    def wall(self) -> int:
        """Wall-clock time: ns since 1970-01-01 UTC."""


class HostClock:
    """The host's own clocks; system time begins when this object is made."""

    def __init__(self) -> None:
        self._boot_ns = time.monotonic_ns()

    @property
    def boot_ns(self) -> int:
        """See `Clock`."""
        return self._boot_ns

    def now(self) -> int:
        """See `Clock`."""
        return time.monotonic_ns() - self._boot_ns

    def wall(self) -> int:
        """See `Clock`."""
        return time.time_ns()
