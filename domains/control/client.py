"""xenctl's end of the control protocol. The operations are in `operations.py`.

To Dom0's ROUTER it is a DEALER, but it speaks ZMTP itself over a plain socket (hypervisor/wire/zmtp.py): a command asks one
question mostly, and to load libzmq and to start its threads took longer than everything else about it. When the connection is
lost, whoever waits for an answer gets MachineEnded, however the machine ended.
"""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from typing import Any, Final, TypeVar

import msgpack

from domains.control.address import MachineAddress
from domains.control.arguments import Arguments
from domains.control.operations import answers_of, name_of
from domains.control.protocol import MAX_MESSAGE, ControlError, Exit, MachineEnded
from domains.control.records import Malformed, decode, encode
from hypervisor.wire.messages import ProtocolError
from hypervisor.wire.zmtp import Incoming, frame, handshake

R = TypeVar("R")

CHUNK: Final = 1 << 16
"""Bytes read at a time."""
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
            raise misunderstood(problem) from None
        raise ControlError(code, error)


def misunderstood(problem: Exception) -> ControlError:
    """The error of an answer that is not of this protocol."""
    return ControlError(Exit.FAILURE, f"Dom0 answers in another form than expected: {problem}")


class ControlClient:
    """xenctl's end of a connection. Requests may be asked one by one with `call`, or side by side with `post`."""

    def __init__(self, address: MachineAddress, timeout: float = 30.0) -> None:
        """Connects. `timeout`: seconds that Dom0 may take to answer. Raises ControlError, and OSError where nobody listens."""
        self._timeout = timeout
        self._next_id = 1
        self._asked: dict[int, type[Arguments[Any]]] = {}
        self._incoming = Incoming(MAX_MESSAGE)
        self._messages: deque[bytes] = deque()
        self._lost = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        try:
            self._socket.connect(address.path)
            self._shake_hands()
        except BaseException:
            self._socket.close()
            raise

    def _shake_hands(self) -> None:
        self._send(handshake(b"DEALER"))
        while not self._incoming.ready and not self._lost:
            if not self._poll.poll(self._timeout * 1000):
                raise ControlError(Exit.TIMED_OUT, f"Dom0 did not answer within {self._timeout:g} s")
            self._read()

    def close(self) -> None:
        """End the connection; what was asked and not answered yet is forgotten."""
        self._socket.close()

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def fd(self) -> int:
        """Readable when a reply may have arrived, or the machine has ended: call `receive(0)` until it gives None."""
        return self._socket.fileno()

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
        """Send a request without waiting; returns its id, which the replies bear. ControlError: a number beyond 64 bits."""
        request, self._next_id = self._next_id, self._next_id + 1
        try:
            message = msgpack.packb({"op": name_of(type(arguments)), "id": request, **encode(arguments)})
        except OverflowError:
            raise ControlError(Exit.USAGE, "a number is too large: it must have 64 bits at most") from None
        self._asked[request] = type(arguments)
        self._send(frame(message))
        return request

    def receive(self, timeout: float | None) -> Reply | None:
        """The next reply; None after `timeout` seconds (None: wait for ever). Raises MachineEnded."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            while self._messages:
                if (reply := self._reply(self._messages.popleft())) is not None:
                    return reply
            if self._lost:
                raise MachineEnded
            if self._read():
                continue
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return None
            self._poll.poll(None if left is None or left > MAX_POLL else int(left * 1000) + 1)

    def _send(self, data: bytes) -> None:
        """What cannot be sent because the machine has ended is told by `receive`, after what came before."""
        self._socket.settimeout(self._timeout)
        try:
            self._socket.sendall(data)
        except TimeoutError:
            self._lost = True  # a part of a message is on its way
            raise ControlError(Exit.TIMED_OUT, f"Dom0 did not read within {self._timeout:g} s") from None
        except OSError:
            return
        finally:
            self._socket.setblocking(False)

    def _read(self) -> bool:
        """Take in a chunk of what is there; whether anything was, the connection's end too. Raises ControlError for what no Dom0
        says.
        """
        try:
            chunk = self._socket.recv(CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            chunk = b""
        self._lost = not chunk
        try:
            self._messages += self._incoming.feed(chunk)
        except ProtocolError as problem:
            self._lost = True
            raise misunderstood(problem) from None
        return True

    def _reply(self, data: bytes) -> Reply | None:
        """The reply in a message; None if nobody waits for it."""
        message = msgpack.unpackb(data)
        kind = self._asked.get(message["id"])
        if kind is None:
            return None
        if not message.get("more"):
            del self._asked[message["id"]]
        return Reply(kind, message)
