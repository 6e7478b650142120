"""Channel 2 of the interval timer, all that a guest without devices sees of it: Linux measures its TSC against it.

Ports 0x42 (count, low byte then high byte), 0x43 (mode) and 0x61 (bit 0: gate, bit 5: output). The count runs down from what was
written at 1.193182 MHz; other channels do not exist. Source: Xen arch/x86/emul-i8254.c (pv_pit_handler).
"""

from collections.abc import Callable
from time import monotonic_ns
from typing import Final, NamedTuple

COUNT, MODE, SPEAKER = 0x42, 0x43, 0x61
PORTS: Final = frozenset({COUNT, MODE, SPEAKER})
HZ: Final = 1_193_182
CHANNEL_2: Final = 2


class PitState(NamedTuple):
    """Channel 2 written down. `elapsed`: ns since the count began; None: nothing there."""

    reload: int
    elapsed: int
    low: int | None
    high_next: bool
    latched: int | None
    gate: int


class Pit:
    """One guest's channel 2. All accesses are of one byte."""

    def __init__(self, now: Callable[[], int] = monotonic_ns) -> None:
        """`now`: the clock it runs by, in ns."""
        self._now = now
        self._reload = 0x10000
        self._started = self._now()
        self._low: int | None = None
        self._high_next = False
        self._latched: int | None = None
        self._gate = 0

    def snapshot(self) -> PitState:
        """The channel as data."""
        elapsed = self._now() - self._started
        return PitState(self._reload, elapsed, self._low, self._high_next, self._latched, self._gate)

    def restore(self, state: PitState) -> None:
        """Go on from there, on this clock."""
        self._reload, elapsed, self._low, self._high_next, self._latched, self._gate = state
        self._started = self._now() - elapsed

    def count(self) -> int:
        """What is left of the count."""
        return (self._reload - (self._now() - self._started) * HZ // 1_000_000_000) & 0xFFFF

    def read(self, port: int) -> int:
        """One byte from a port of the timer's."""
        if port == COUNT:
            count = self.count() if self._latched is None else self._latched
            self._high_next = not self._high_next
            if self._high_next:
                return count & 0xFF
            self._latched = None
            return count >> 8
        if port == SPEAKER:
            expired = (self._now() - self._started) * HZ >= self._reload * 1_000_000_000
            return self._gate | (0x20 if expired else 0)
        return 0xFF

    def write(self, port: int, value: int) -> None:
        """One byte to a port of the timer's."""
        if port == SPEAKER:
            self._gate = value & 3
        elif port == MODE and value >> 6 == CHANNEL_2:
            self._low, self._high_next = None, False
            self._latched = self.count() if value >> 4 & 3 == 0 else None
        elif port == COUNT and self._low is None:
            self._low = value
        elif port == COUNT:
            self._reload = (value << 8 | (self._low or 0)) or 0x10000
            self._low, self._started = None, self._now()
