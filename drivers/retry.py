"""Trying again what Xen cannot do while a front's domain runs (GNTST_eagain), without anybody waiting for it.

A front's grant flags are exchanged only while its domain is at rest (docs/events.md). Xen asks the domain to stop, which
takes as long as its CPU is busy elsewhere, or for ever if its process is hostile. So the device is put aside, alone:

    PUT_OFF ──► SOON times after what else is ready ──► after FIRST, twice that, ... up to LONGEST ──► ...
                                    any progress: from the beginning

The back end's loop serves everybody else in between. A device is never given up for being late.
"""

from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from domains.kernel.kernel import Kernel

SOON: Final = 5
"""A domain whose CPU is free stops within so many rounds of the loop."""
FIRST: Final = 0.0005
LONGEST: Final = 0.05
"""Seconds. Xen holds a domain that came to rest for longer than this (hypervisor/domain/standstill.py)."""


class Turn(Enum):
    """What came of a device's turn."""

    DONE = auto()
    """There is nothing more to do until the front sends its event."""
    MORE = auto()
    """There is more to do."""
    PUT_OFF = auto()
    """There is more to do, and none of it could be done: the front's domain is not at rest."""


class Retry:
    """Calls `again` later, and later each time until there was progress."""

    def __init__(self, kernel: Kernel, again: Callable[[], object]) -> None:
        self._kernel = kernel
        self._again = again
        self._tries = 0
        self.pending = False
        """`again` will be called."""

    def arrange(self) -> None:
        """Have `again` called once, later."""
        if self.pending:
            return
        self.pending = True
        late = self._tries - SOON
        self._tries += 1
        if late < 0:
            self._kernel.call_soon(self._due)
        else:
            self._kernel.call_later(min(FIRST * 2 ** min(late, 20), LONGEST), self._due)

    def progress(self) -> None:
        """Something could be done: what comes next is tried at once again."""
        self._tries = 0

    def _due(self) -> None:
        self.pending = False
        self._again()
