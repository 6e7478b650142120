"""The consoles of all domains: maps each one's page, binds its event channel, and keeps its terminal.

A domain's console is connected when the domain is built, before its first instruction, so nothing it says is
lost.
"""

from __future__ import annotations

from typing import Final

from domains.dom0.console.ring import ConsoleRing
from domains.dom0.console.terminal import Terminal, Viewer
from domains.kernel.kernel import Kernel
from hypervisor.public.types import PAGE_SIZE, DomId, Mfn, Port, VAddr

RETRY: Final = 0.02
"""Seconds until a viewer that took nothing is asked again."""


class Line:
    """What connects Dom0 with one domain's console."""

    def __init__(self, kernel: Kernel, domid: DomId, mfn: Mfn, remote_port: Port) -> None:
        self._kernel = kernel
        self._va: VAddr = kernel.memory.map_frames(domid, [mfn])
        try:
            self._port = kernel.events.bind_interdomain(domid, remote_port)
        except BaseException:
            kernel.memory.unmap(self._va)
            raise
        ring = ConsoleRing(kernel.cpu.view(self._va, PAGE_SIZE, write=True))
        self.terminal = Terminal(ring, self._notify)
        kernel.events.bind(self._port, self.terminal.service)

    def _notify(self) -> None:
        self._kernel.events.notify(self._port)

    def close(self, reason: str) -> bool:
        """Ends the console with a reason and lets go of its page; whether every viewer has been told already."""
        done = self.terminal.close(reason)
        self._kernel.events.close(self._port)
        self._kernel.memory.unmap(self._va)
        return done


class Consoled:
    """One per Dom0."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._lines: dict[DomId, Line] = {}
        self._behind: list[Terminal] = []
        self._retrying = False

    def connect(self, domid: DomId, mfn: Mfn, port: Port) -> Terminal:
        """Serve the console of a domain: the ring in frame `mfn`, the domain's unbound `port`. XenError."""
        line = self._lines[domid] = Line(self._kernel, domid, mfn, port)
        return line.terminal

    def finish(self, domid: DomId, reason: str) -> None:
        """The domain has ended for `reason`, and is kept. Harmless if it has no console."""
        line = self._lines.get(domid)
        if line is not None and not line.terminal.finish(reason):
            self._ask_again(line.terminal)

    def disconnect(self, domid: DomId, reason: str) -> None:
        """The domain ends for `reason`; its viewers get the last bytes first. Harmless if it has no
        console.
        """
        line = self._lines.pop(domid, None)
        if line is not None and not line.close(reason):
            self._ask_again(line.terminal)

    def attach(self, terminal: Terminal, viewer: Viewer) -> None:
        """Let `viewer` follow, also a terminal whose domain is gone."""
        if not terminal.attach(viewer):
            self._ask_again(terminal)

    def _ask_again(self, terminal: Terminal) -> None:
        if terminal not in self._behind:
            self._behind.append(terminal)
        if not self._retrying:
            self._retrying = True
            self._kernel.call_later(RETRY, self._retry)

    def _retry(self) -> None:
        self._retrying = False
        behind, self._behind = self._behind, []
        for terminal in behind:
            if not terminal.pump():
                self._ask_again(terminal)
