"""Storm control: how many frames a port may have copied to several others, as switches limit broadcasts.

One frame for everybody costs the bridge, and everybody's CPU, as many times as there are ports. So each port has tokens: one
for each such frame, RATE more in a second, BURST at most. What announces or asks (ARP, DHCP) never notices. State code.
"""

from typing import Final

RATE: Final = 1000
BURST: Final = 256
SECOND: Final = 10**9


class StormControl:
    """Of one port. Times are nanoseconds of any clock that never goes back."""

    def __init__(self, now: int) -> None:
        self._tokens = BURST
        self._renewed = now
        self.dropped = 0

    def allows(self, now: int, cost: int = 1) -> bool:
        """Whether one more frame may go to everybody; if so it is paid for, with so many tokens."""
        fresh = (now - self._renewed) * RATE // SECOND
        if fresh:
            self._tokens = min(self._tokens + fresh, BURST)
            self._renewed += fresh * SECOND // RATE
        if self._tokens < cost:
            self.dropped += 1
            return False
        self._tokens -= cost
        return True
