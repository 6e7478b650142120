"""When the store gets its turn: after each of Dom0's handlers, and when the store itself asks for one.

The store says after each turn when the next one is due: at once, for a client with more requests than one turn
serves; later, for an event that nobody takes; or only when bytes have moved. Whatever it says, all other handlers
of Dom0 run in between.
"""

from collections.abc import Callable
from typing import Protocol

from domains.dom0.xenstore.server import Xenstored
from domains.kernel.loop import Timer

MARGIN_NS = 1_000_000
"""A turn that is due this much later than one that is planned is not planned anew."""


class Clocked(Protocol):
    """What a Python kernel's loop offers."""

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Run `callback` after what is ready now."""

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Run `callback` once, `seconds` from now."""

    def now(self) -> int:
        """Nanoseconds."""


class StoreTurns:
    """The turns of one store in one loop. `turn` is to be called after every handler."""

    def __init__(self, kernel: Clocked, xenstored: Xenstored) -> None:
        self._kernel = kernel
        self._xenstored = xenstored
        self._soon = False
        self._timer: Timer | None = None

    def turn(self) -> None:
        """Let the store serve what had to wait, and see to it that its next turn comes in time."""
        delay = self._xenstored.run()
        if delay is None:
            return
        if delay == 0:
            if not self._soon:
                self._soon = True
                self._kernel.call_soon(self._soon_over)
            return
        due = self._kernel.now() + int(delay * 1e9)
        if self._timer is not None and self._timer.deadline <= due + MARGIN_NS:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._kernel.call_later(delay, self._timer_over)

    def _soon_over(self) -> None:
        """Nothing but a reason for the loop to go round once more: `turn` follows every handler."""
        self._soon = False

    def _timer_over(self) -> None:
        self._timer = None
