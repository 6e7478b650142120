"""Clients that follow consoles: a stream each, as many as a client likes; what it types goes to the last one.

A stream is known by its client and the number of the request that began it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from domains.dom0.console.consoled import Consoled
from domains.dom0.console.terminal import Viewer
from domains.dom0.toolstack.errors import ToolstackError
from hypervisor.public.types import DomId
from hypervisor.wire.control import Congested, Disconnected, Request

if TYPE_CHECKING:
    from domains.kernel.kernel import Kernel

Stream = tuple[bytes, int]
"""A client, and the number of its request."""


class Viewers:
    """One per toolstack."""

    def __init__(self, kernel: Kernel, consoled: Consoled) -> None:
        self._kernel = kernel
        self._consoled = consoled
        self._following: dict[Stream, tuple[DomId, Viewer]] = {}

    def follow(self, request: Request, domid: DomId) -> None:
        """Answer with the domain's console from the oldest byte kept on; at its end {ended: reason}. Raises
        ToolstackError.
        """
        stream = (request.peer, request.id)

        def sink(data: bytes) -> bool:
            try:
                request.stream(data)
            except Congested:
                return False
            except Disconnected:
                self._kernel.call_soon(lambda: self._detach(stream))
            return True

        def ended(reason: str) -> None:
            self._following.pop(stream, None)
            request.answer({"ended": reason})

        viewer = Viewer(sink, ended)
        self._following[stream] = (domid, viewer)
        if not self._consoled.attach(domid, viewer):
            self._following.pop(stream, None)
            raise ToolstackError(f"domain {domid} has no console")

    def type(self, peer: bytes, data: bytes) -> None:
        """Input for the console that the client has followed last; dropped if it follows none."""
        streams = self._of(peer)
        if streams:
            self._consoled.type(self._following[streams[-1]][0], data)

    def detach(self, peer: bytes, number: int | None) -> None:
        """End the client's stream of that number, or all of them; harmless if there is none."""
        for stream in self._of(peer):
            if number in (None, stream[1]):
                self._detach(stream)

    def _of(self, peer: bytes) -> list[Stream]:
        return [stream for stream in self._following if stream[0] == peer]

    def _detach(self, stream: Stream) -> None:
        if stream in self._following:
            self._consoled.detach(*self._following.pop(stream))
