"""How much an interface may send: the credit behind a vif's `rate`.

So many bytes are added in each interval; what is not used is kept, up to a burst in which the largest packet fits,
for otherwise a small rate would stop that packet for ever (as in Linux's xen-netback). State code.
"""

from typing import Final

BURST: Final = 131072
NANOSECONDS: Final = 1000
"""In a microsecond."""


class Credit:
    """`size` bytes every `interval` microseconds, beginning with one interval's."""

    def __init__(self, size: int, interval: int, now: int) -> None:
        self._size = size
        self._interval = interval * NANOSECONDS
        self._left = size
        self._renewed = now

    def take(self, size: int, now: int) -> bool:
        """Whether `size` bytes may go at time `now` in ns; if so they are paid for."""
        intervals = (now - self._renewed) // self._interval
        self._renewed += intervals * self._interval
        self._left = min(self._left + intervals * self._size, max(self._size, BURST))
        if size > self._left:
            return False
        self._left -= size
        return True

    def wait(self, size: int, now: int) -> int:
        """Nanoseconds until `size` bytes may go, if nothing goes before."""
        missing = min(size, max(self._size, BURST)) - self._left
        return max(self._renewed + -(-missing // self._size) * self._interval - now, 0)
