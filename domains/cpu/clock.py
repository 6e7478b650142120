"""The time-stamp counter that guests read: nanoseconds of the host's monotonic clock, plus an offset that is the domain's.

RDTSC never reaches the host's own counter. vcpu_time_info, which turns the TSC into system time, is written once
(domains.cpu.event_words) and stays true.
"""

import time
from typing import Protocol

from hypervisor.public.types import U64
from hypervisor.wire.mailbox import Mailbox


class GuestClock(Protocol):
    """A domain's time-stamp counter, in ns."""

    def tsc(self) -> int:
        """The counter now, modulo 2^64."""

    @property
    def tsc_at_start(self) -> int:
        """The counter when system time was 0."""


class TscClock:
    """One domain's, the same for all its vCPUs. The offset is taken once: it does not change while the process lives."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._epoch = mailbox.epoch
        self._offset = mailbox.tsc_offset

    def tsc(self) -> int:
        """The counter now, in ns, modulo 2^64."""
        return time.monotonic_ns() + self._offset & U64

    @property
    def tsc_at_start(self) -> int:
        """The counter when system time was 0."""
        return self._epoch + self._offset & U64
