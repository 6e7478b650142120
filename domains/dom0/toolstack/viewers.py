"""Clients that follow consoles: a stream each, as many as a client likes; what it types goes to the last one.

A stream is known by its client and the number of the request that began it.
"""

from __future__ import annotations

from collections.abc import Callable

from domains.control.operations import Ended
from domains.control.server import Congested, Disconnected, Request
from domains.dom0.console.consoled import Consoled
from domains.dom0.console.terminal import Terminal, Viewer
from domains.kernel.kernel import Kernel

Stream = tuple[bytes, int]
"""A client, and the number of its request."""


class Viewers:
    """One per toolstack."""

    def __init__(self, kernel: Kernel, consoled: Consoled) -> None:
        self._kernel = kernel
        self._consoled = consoled
        self._following: dict[Stream, tuple[Terminal, Viewer]] = {}

    def follow(
        self, request: Request, terminal: Terminal, ended: Callable[[str], None] | None = None
    ) -> None:
        """Answer with a console from the oldest byte kept on. At its end `ended(reason)` decides how the stream goes
        on, by another `follow` or by `end`, which is what happens without it.
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

        viewer = Viewer(sink, ended or (lambda reason: self.end(request, reason)))
        self._following[stream] = (terminal, viewer)
        self._consoled.attach(terminal, viewer)

    def follows(self, request: Request) -> bool:
        """Whether the stream that answers `request` goes on."""
        return (request.peer, request.id) in self._following

    def end(self, request: Request, reason: str, exit_code: int | None = None) -> None:
        """The stream's last answer."""
        self._following.pop((request.peer, request.id), None)
        request.answer(Ended(reason, exit_code))

    def type(self, peer: bytes, data: bytes) -> None:
        """Input for the console that the client has followed last; dropped if it follows none."""
        streams = self._of(peer)
        if streams:
            self._following[streams[-1]][0].type(data)

    def detach(self, peer: bytes, number: int | None) -> None:
        """End the client's stream of that number, or all of them; harmless if there is none."""
        for stream in self._of(peer):
            if number in (None, stream[1]):
                self._detach(stream)

    def _of(self, peer: bytes) -> list[Stream]:
        return [stream for stream in self._following if stream[0] == peer]

    def _detach(self, stream: Stream) -> None:
        if stream in self._following:
            terminal, viewer = self._following.pop(stream)
            terminal.detach(viewer)
