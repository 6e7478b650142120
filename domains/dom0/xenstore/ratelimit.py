"""Writes that may disturb other people's transactions are limited in rate (rule S3, XSA-206).

A domain that never stops writing makes every transaction that looks at the same nodes fail for ever. So each
write of an unprivileged domain costs one credit while any transaction is open (a commit: while another one
is), and a domain in debt is not served until it has credit again. Numbers of Xen's C xenstored:

    RATE 200 credits per second, shared by all domains BURST 10 a domain may save; what it does not need goes
    into a common reserve of up to RESERVE 1000, from which domains in debt are paid first: only who writes
    without end is slowed down.
"""

from typing import Final

RATE: Final = 200.0
BURST: Final = 10.0
RESERVE: Final = 1000.0
_ROUNDING: Final = 1e-6


class Reserve:
    """What all domains share."""

    def __init__(self) -> None:
        self.credit = RESERVE
        self.domains = 0


class Credit:
    """The account of one domain. Times are seconds of any clock that does not go back."""

    def __init__(self, reserve: Reserve, now: float) -> None:
        self._reserve = reserve
        self._credit = BURST
        self._updated = now
        reserve.domains += 1

    def close(self) -> None:
        """The domain is gone; its share goes to the others."""
        self._reserve.domains -= 1

    def spend(self, now: float) -> None:
        """Pay for one write."""
        self._update(now)
        self._credit -= 1

    def wait(self, now: float) -> float:
        """Seconds until the domain may be served again; 0 if it may now."""
        self._update(now)
        return -self._credit * self._reserve.domains / RATE if self._credit < -_ROUNDING else 0.0

    def _update(self, now: float) -> None:
        self._credit += (now - self._updated) * RATE / max(1, self._reserve.domains)
        self._updated = now
        if self._credit < 0:
            paid = min(-self._credit, self._reserve.credit)
            self._credit += paid
            self._reserve.credit -= paid
        elif self._credit > BURST:
            self._reserve.credit = min(RESERVE, self._reserve.credit + self._credit - BURST)
            self._credit = BURST
