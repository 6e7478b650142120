"""The machine's clock: the one source of time for the core.

    boot_ns (host's CLOCK_MONOTONIC) ──────────── system time, ns ────────────► now()
    the mailbox's epoch: the processes of the domains subtract it from the same clock

Everything in the core that asks for the time asks this object, so that a machine can run on another clock than the host's.
"""

from __future__ import annotations

import time
from typing import Final, Protocol

from hypervisor.public.xen import XEN_PVCLOCK_TSC_STABLE_BIT, vcpu_time_info

VIRTUAL_BOOT_WALL_NS: Final = 1_000_000_000 * 10**9
"""Wall-clock time at which every virtual clock starts: 2001-09-09 01:46:40 UTC."""


class Clock(Protocol):
    """System time and wall-clock time of one machine. Both are integers, in nanoseconds."""

    @property
    def boot_ns(self) -> int:
        """What the host's CLOCK_MONOTONIC showed at system time 0."""

    def now(self) -> int:
        """System time: ns since the machine started. It never goes back."""

    def wall(self) -> int:
        """Wall-clock time: ns since 1970-01-01 UTC."""


def time_info(tsc_at_start: int) -> vcpu_time_info:
    """What tells a guest the system time by its TSC, which counts nanoseconds and read `tsc_at_start` when system time was 0.

    It is written once and stays true. The TSC is the same on all vCPUs and never stops: user space may read it, too.
    """
    return vcpu_time_info(
        version=2,
        tsc_timestamp=tsc_at_start,
        tsc_to_system_mul=1 << 31,
        tsc_shift=1,
        flags=int(XEN_PVCLOCK_TSC_STABLE_BIT),
    )


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


class VirtualClock:
    """Time that passes only when somebody says so: by the work of guests, and in leaps where nobody works."""

    boot_ns = 0

    def __init__(self) -> None:
        self._now = 0

    def now(self) -> int:
        """See `Clock`."""
        return self._now

    def wall(self) -> int:
        """See `Clock`."""
        return VIRTUAL_BOOT_WALL_NS + self._now

    def pass_by(self, ns: int) -> None:
        """So many ns have passed, 0 or more."""
        self._now += ns

    def leap(self, deadline: int) -> None:
        """It is `deadline` now, unless that is past."""
        self._now = max(self._now, deadline)
