"""Clients that follow the hypervisor's log: told by VIRQ_CON_RING, as xenconsoled is, and never by the clock.

What domains say by console_io stands in the log and on no console, so this is how it gets to whoever runs one.
"""

from __future__ import annotations

from typing import Final

from domains.control.server import Congested, Disconnected, Request
from domains.dom0.toolstack.xenctrl import XenCtrl
from domains.kernel.kernel import Kernel
from hypervisor.public.xen import VIRQ_CON_RING

RETRY: Final = 0.02
"""Seconds until a client that did not take what there was is offered it again."""


class LogStreams:
    """One per toolstack."""

    def __init__(self, kernel: Kernel, xen: XenCtrl) -> None:
        self._kernel = kernel
        self._xen = xen
        self._bound = False
        self._followers: dict[Request, int] = {}
        """Each with the index in the log up to which it has everything."""

    def follow(self, request: Request) -> None:
        """Answer with what is written to the log from now on."""
        if not self._bound:
            self._bound = True
            self._kernel.events.bind_virq(VIRQ_CON_RING, self.flush)
        self._followers[request] = self._xen.readconsole_from(0)[1]

    def flush(self) -> None:
        """Send every follower what is new to it."""
        for request, index in list(self._followers.items()):
            text, behind = self._xen.readconsole_from(index)
            try:
                if text:
                    request.stream(text)
                self._followers[request] = behind
            except Disconnected:
                del self._followers[request]
            except Congested:
                self._kernel.call_later(RETRY, self.flush)
