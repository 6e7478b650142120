"""How much may be under way (RFC 5681), and when a segment counts as lost (RFC 6582, NewReno).

slow start ── window ≥ threshold ──► avoidance
    ▲                                    │ third duplicate ACK
    └────────── time-out ──────── fast recovery, until all that was sent before is acknowledged
"""

from typing import Final

DUPLICATES: Final = 3


class Congestion:
    """Windows in bytes; sequence numbers unbounded."""

    def __init__(self, mss: int, most: int = 0) -> None:
        """`most`: bytes that are acknowledged at once where a segment stands for many."""
        self._mss = mss
        self._step = max(2 * mss, most)
        self.window = min(10 * mss, max(2 * mss, 14600))
        """RFC 6928's initial window."""
        self._threshold = 1 << 30
        self._duplicates = 0
        self._credit = 0
        self._recover: int | None = None  # in recovery until this is acknowledged
        self._floor = 0  # duplicates below are those of a time-out's repetitions

    def acknowledged(self, count: int, una: int) -> bool:
        """`count` new bytes, up to `una`; True if what is at `una` was lost as well and is to be sent again."""
        self._duplicates = 0
        if self._recover is not None:
            if una < self._recover:
                self.window = max(self.window - count + self._mss, self._mss)
                return True
            self._recover = None
            self.window = self._threshold
        elif self.window < self._threshold:
            self.window += min(count, self._step)
        else:
            self._credit += count
            if self._credit >= self.window:
                self._credit -= self.window
                self.window += self._mss
        return False

    def duplicate(self, una: int, flight: int, top: int) -> bool:
        """One more ACK of `una`, while `flight` bytes are under way up to `top`; True if it is to be sent again."""
        if self._recover is not None:
            self.window += self._mss
            return False
        self._duplicates += una >= self._floor
        if self._duplicates != DUPLICATES:
            return False
        self._reduce(flight)
        self.window = self._threshold + DUPLICATES * self._mss
        self._recover = top
        return True

    def timed_out(self, flight: int, top: int) -> None:
        """Nothing was acknowledged for too long: begin anew."""
        self._reduce(flight)
        self.window = self._mss
        self._floor = top
        self._recover = None
        self._duplicates = self._credit = 0

    def _reduce(self, flight: int) -> None:
        self._threshold = max(flight // 2, 2 * self._mss)
