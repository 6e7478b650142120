"""How long to wait for an acknowledgement (RFC 6298): from the round trips seen, doubled after each time-out."""

from typing import Final

from drivers.net.ip.clock import SECOND

INITIAL: Final = SECOND
SHORTEST: Final = SECOND // 5
"""Nanoseconds; as Linux has it, less than RFC 6298's second."""
LONGEST: Final = 60 * SECOND


class RoundTrip:
    """All times in nanoseconds."""

    def __init__(self) -> None:
        self._smoothed: int | None = None
        self._deviation = 0
        self._doubled = 0
        self.base = INITIAL

    @property
    def timeout(self) -> int:
        """How long to wait for an acknowledgement now, in ns."""
        return min(self.base << self._doubled, LONGEST)

    def sample(self, elapsed: int) -> None:
        """A round trip of a segment that was sent once (Karn's algorithm)."""
        if self._smoothed is None:
            self._smoothed, self._deviation = elapsed, elapsed // 2
        else:
            self._deviation += (abs(self._smoothed - elapsed) - self._deviation) // 4
            self._smoothed += (elapsed - self._smoothed) // 8
        self.base = max(SHORTEST, self._smoothed + 4 * self._deviation)
        self._doubled = 0

    def back_off(self) -> None:
        """Nothing came in time: wait twice as long."""
        self._doubled = min(self._doubled + 1, 16)

    def progress(self) -> None:
        """Something new was acknowledged: the path works again."""
        self._doubled = 0
