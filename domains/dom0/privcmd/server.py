"""The socket `privcmd` in the machine's folder, and its clients, none of whom holds Dom0.

A client has one request under way: the next one is read when the reply to the last is gone. So it holds at most one request and
one reply, both bounded, whatever it sends and whether it reads or not.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from domains.dom0.console.terminal import Terminal, Viewer
from domains.dom0.listener import Left, Listener, Loop, SocketClient
from domains.dom0.privcmd.calls import LONGEST, Answer, Calls, refusal, refused_or
from domains.dom0.privcmd.calls import answer as done
from domains.dom0.privcmd.messages import Header, Kind
from domains.kernel.tasks import Task
from hypervisor.public.errno import Errno

CLIENTS_MAX: Final = 32
"""With more than these the next one is cut off: each may hold a request of `LONGEST` bytes."""
CHUNK: Final = 256 * 1024
"""Bytes read or written in one turn."""


class KernelLoop(Loop, Protocol):
    """What a kernel's loop offers beside."""

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Run `callback` after what is ready now."""

    def spawn(self, task: Task[Any], done: Callable[[Any], None] = ...) -> None:
        """Drive a task; `done` gets its result."""


class PrivcmdServer(Listener):
    """The clients at the socket `path`."""

    def __init__(self, calls: Calls, loop: KernelLoop, path: str) -> None:
        super().__init__(loop, path, CLIENTS_MAX, lambda peer, left: _Client(calls, loop, peer, left))


class _Client(SocketClient):
    """It asks, one request after the other, until it asks for a console: from then on it follows that and types into it."""

    def __init__(self, calls: Calls, loop: KernelLoop, peer: socket.socket, left: Left) -> None:
        super().__init__(loop, peer, left)
        self._calls = calls
        self._loop = loop
        self._last = False
        """It has sent what no request is: after the answer it is cut off."""
        self._console: tuple[Terminal, Viewer] | None = None
        self._request = bytearray()
        self._maps = calls.new_maps()
        self._reply = memoryview(calls.greeting())
        self._fds: Sequence[int] = ()
        """What goes with the reply's first byte."""
        self._watched.writes(True)

    def _gone(self) -> None:
        if self._console is not None:
            self._console[0].detach(self._console[1])
        self._loop.spawn(self._maps.close())

    def _readable(self) -> None:
        data = self._receive(min(self._missing(), CHUNK) if self._console is None else CHUNK)
        if not data:
            return
        if self._console is not None:
            self._console[0].type(data)
            return
        self._request += data
        if self._missing() == 0:
            self._perform()

    def _missing(self) -> int:
        """Bytes until the request is whole; 0 for one that is too long."""
        if len(self._request) < Header.sizeof:
            return Header.sizeof - len(self._request)
        size = Header.unpack(self._request).size
        return Header.sizeof + size - len(self._request) if size <= LONGEST else 0

    def _perform(self) -> None:
        request, self._request = self._request, bytearray()
        header, body = Header.unpack(request), memoryview(request)[Header.sizeof :]
        self._watched.reads(False)
        if header.size > LONGEST:
            self._last = True
            self._answer(refusal(Errno.E2BIG))
        elif header.kind == Kind.CONSOLE:
            self._answer(refused_or(lambda: self._follow(body)))
        else:
            self._loop.spawn(self._calls.perform(header.kind, body, self._maps), self._answer)

    def _answer(self, answer: Answer) -> None:
        if self._closed:  # it has gone meanwhile, and may have mapped something yet
            self._loop.spawn(self._maps.close())
            return
        self._reply, self._fds = memoryview(answer.data), answer.fds
        self._writable()

    def _follow(self, body: memoryview) -> Answer:
        """Become a viewer of a console, which has its first bytes when the reply has gone."""
        terminal = self._calls.console(body)
        viewer = Viewer(self._shown, lambda _reason: self._end())
        self._console = terminal, viewer
        self._loop.call_soon(lambda: self._attach(terminal, viewer))
        return done(0)

    def _attach(self, terminal: Terminal, viewer: Viewer) -> None:
        if not self._closed:
            self._calls.toolstack.attach(terminal, viewer)

    def _shown(self, data: bytes) -> bool:
        """Send what a console says; False while the last bytes are still under way."""
        if self._reply and not self._closed:
            return False
        self._reply = memoryview(data)
        if not self._closed:
            self._writable()
        return True

    def _end(self) -> None:
        """The console says no more."""
        self._last = True
        if not self._closed and not self._reply:
            self.close()

    def _writable(self) -> None:
        try:
            if self._fds:
                sent = socket.send_fds(self._peer, [self._reply[:CHUNK]], self._fds, socket.MSG_NOSIGNAL)
                self._fds = ()
            else:
                sent = self._peer.send(self._reply[:CHUNK], socket.MSG_NOSIGNAL)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        self._reply = self._reply[sent:]
        if self._last and not self._reply:
            self.close()
            return
        self._watched.writes(bool(self._reply))
        self._watched.reads(not self._reply or self._console is not None)
