"""The longest that a loop was busy with one thing: a watchdog that tells instead of biting.

Measured is the CPU time of the loop's thread. So a busy host does not falsify it, and time asleep does not count.
"""

from __future__ import annotations

import time
from typing import Final

NS_PER_US: Final = 1000
NOTHING: Final = "nothing yet"


class Busiest:
    """One loop's. `what` is the thing that took longest, `ns` how long it took."""

    def __init__(self) -> None:
        self.what = NOTHING
        self.ns = 0
        self._since = time.thread_time_ns()

    def lap(self, *what: object) -> None:
        """The loop is done with one thing, which `what` names in words: it took all of the thread's time since the last lap."""
        now = time.thread_time_ns()
        spent = now - self._since
        self._since = now
        if spent > self.ns:
            self.what, self.ns = " ".join(map(str, what)), spent

    @property
    def us(self) -> int:
        """How long it took, in µs."""
        return self.ns // NS_PER_US

    def reset(self) -> None:
        """Begin anew."""
        self.what, self.ns, self._since = NOTHING, 0, time.thread_time_ns()
