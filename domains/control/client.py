"""xenctl's end of the control protocol: a DEALER. The operations are in `operations.py`.

A monitor beside the socket tells when the connection is lost: whoever waits for an answer then gets MachineEnded,
however the machine ended.
"""

from __future__ import annotations

import select
import time
from typing import Any, Final, TypeVar

import msgpack
import zmq

from domains.control.address import MachineAddress
from domains.control.operations import Arguments, answers_of, name_of
from domains.control.protocol import MAX_MESSAGE, ControlError, Exit, MachineEnded
from domains.control.records import Malformed, decode, encode

R = TypeVar("R")

RECONNECT: Final = 5
"""Milliseconds between two attempts to reach a Dom0 that does not listen yet."""
MAX_POLL: Final = 1e6
"""Seconds beyond which a time-out is none."""


class Reply:
    """One answer: `id` is that of its request, and `more` tells whether others follow."""

    def __init__(self, kind: type[Arguments[Any]], message: dict[str, Any]) -> None:
        self._kind = kind
        self._message = message
        self.id: int = message["id"]
        self.more = bool(message.get("more"))

    def result(self) -> Any:
        """What it brings, typed as the operation declares. Raises ControlError if it is a refusal."""
        message = self._message
        piece, last = answers_of(self._kind)
        try:
            if message.get("ok"):
                return decode(piece if self.more else last, message.get("result"), "the result")
            code, error = Exit(message["code"]), str(message["error"])
        except (Malformed, KeyError, ValueError) as problem:
            raise ControlError(
                Exit.FAILURE, f"Dom0 answers in another form than expected: {problem}"
            ) from None
        raise ControlError(code, error)


class ControlClient:
    """xenctl's end of a connection. Requests may be asked one by one with `call`, or side by side with `post`."""

    def __init__(self, address: MachineAddress, timeout: float = 30.0) -> None:
        """`timeout`: seconds that Dom0 may take to answer a call."""
        self._timeout = timeout
        self._next_id = 1
        self._asked: dict[int, type[Arguments[Any]]] = {}
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.maxmsgsize = MAX_MESSAGE
        self._socket.reconnect_ivl = RECONNECT
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._socket.connect(address.endpoint)
        self._epoll = select.epoll()
        for socket in (self._socket, self._monitor):
            self._epoll.register(int(socket.getsockopt(zmq.FD)), select.EPOLLIN)

    def close(self) -> None:
        """End the connection; what was asked and not answered yet is forgotten."""
        self._epoll.close()
        self._socket.disable_monitor()
        self._context.destroy(linger=0)

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def fd(self) -> int:
        """Readable when a reply may have arrived, or the machine has ended: call `receive(0)` until it gives None."""
        return self._epoll.fileno()

    def call(self, arguments: Arguments[R], *, timeout: float | None = None) -> R:
        """Ask and wait for the one answer, at most `timeout` seconds (infinite is allowed). Raises ControlError."""
        request = self.post(arguments)
        limit = self._timeout if timeout is None else timeout
        deadline = time.monotonic() + limit
        while True:
            reply = self.receive(max(deadline - time.monotonic(), 0))
            if reply is None:
                name = name_of(type(arguments))
                raise ControlError(Exit.TIMED_OUT, f"Dom0 did not answer '{name}' within {limit:g} s")
            if reply.id == request:
                result: R = reply.result()
                return result

    def post(self, arguments: Arguments[Any]) -> int:
        """Send a request without waiting; returns its id, which the replies bear."""
        request, self._next_id = self._next_id, self._next_id + 1
        self._asked[request] = type(arguments)
        message = {"op": name_of(type(arguments)), "id": request, **encode(arguments)}
        self._socket.send(msgpack.packb(message))
        return request

    def receive(self, timeout: float | None) -> Reply | None:
        """The next reply; None after `timeout` seconds (None: wait for ever). Raises MachineEnded."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            lost = self._connection_lost()  # asked first: what came before the loss is still to be read
            while (message := self._take()) is not None:
                if (reply := self._reply(message)) is not None:
                    return reply
            if lost:
                raise MachineEnded
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return None
            poller = zmq.Poller()
            for socket in (self._socket, self._monitor):
                poller.register(socket, zmq.POLLIN)
            poller.poll(None if left is None or left > MAX_POLL else int(left * 1000) + 1)

    def _take(self) -> bytes | None:
        """A message that is there."""
        try:
            return self._socket.recv(zmq.NOBLOCK)
        except zmq.Again:
            return None

    def _reply(self, data: bytes) -> Reply | None:
        """The reply in a message; None if nobody waits for it."""
        message = msgpack.unpackb(data)
        kind = self._asked.get(message["id"])
        if kind is None:
            return None
        if not message.get("more"):
            del self._asked[message["id"]]
        return Reply(kind, message)

    def _connection_lost(self) -> bool:
        """Whether the toolstack's end is gone. The event stays with the monitor, so every later call says so too."""
        return bool(int(self._monitor.getsockopt(zmq.EVENTS)) & zmq.POLLIN)
