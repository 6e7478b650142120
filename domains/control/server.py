"""The toolstack's end of the control protocol: a ROUTER.

The endpoint is a unix socket in a folder that only the machine's owner may enter, so whoever can connect may
do everything; what arrives is checked all the same: a request reaches the toolstack as the typed record that
`operations.py` declares, or it is refused here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import msgpack
import zmq

from domains.control.address import MachineAddress
from domains.control.arguments import Arguments
from domains.control.operations import OPERATIONS
from domains.control.protocol import MAX_MESSAGE, Exit
from domains.control.records import Malformed, decode, encode

PATIENCE_MS: Final = 10_000
MAX_ID: Final = (1 << 63) - 1
"""The largest number of a request."""


class Disconnected(Exception):
    """The client that a reply was meant for is gone."""


class Congested(Exception):
    """The client does not read fast enough; the same message can be sent again later."""


class Request:
    """One request at the toolstack's end: its arguments, and the way to answer it. `peer` and `id` name it."""

    def __init__(self, server: ControlServer, peer: bytes, number: int) -> None:
        self._server = server
        self.peer = peer
        self.id = number
        self.arguments: Arguments[Any] = Arguments()
        self.answered = False

    def answer(self, result: Any = None) -> None:
        """The last reply; a client that went away is nobody's error."""
        self._finish({"id": self.id, "ok": True, "result": encode(result)})

    def refuse(self, code: Exit, error: str) -> None:
        """The last reply, of a request that failed."""
        self._finish({"id": self.id, "ok": False, "code": int(code), "error": one_line(error)})

    def stream(self, result: Any) -> None:
        """One reply with more to follow. Raises Disconnected, Congested."""
        self._server.send(self.peer, {"id": self.id, "ok": True, "result": encode(result), "more": True})

    def _finish(self, reply: dict[str, Any]) -> None:
        if self.answered:
            return
        self.answered = True
        try:
            self._server.send(self.peer, reply)
        except (Disconnected, Congested):
            return


class ControlServer:
    """The toolstack's end, driven by Dom0's loop: never waits, unless it is `patient` (docs/determinism.md)."""

    def __init__(self, address: MachineAddress, sent: Callable[[], None], *, patient: bool = False) -> None:
        """Binds the address; a folder in it must be its owner's alone (mode 0700).

        `sent` is called after each message sent, or tried to send: the descriptor may have been reset, so `receive` is due
        again. `patient`: a client that does not read is waited for, and after PATIENCE_MS has gone; nobody gets Congested.
        """
        self._flags = 0 if patient else int(zmq.NOBLOCK)
        self._gone: set[bytes] = set()
        self._sent = sent
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 500
        self._socket.maxmsgsize = MAX_MESSAGE
        self._socket.router_mandatory = True
        self._socket.sndhwm = 64
        self._socket.sndtimeo = PATIENCE_MS
        self._socket.bind(address.endpoint)

    def close(self) -> None:
        """Unbind; replies on their way still go out."""
        self._context.destroy(linger=500)

    @property
    def fd(self) -> int:
        """Edge-triggered readable: call `receive` until it yields nothing, also after every send."""
        return int(self._socket.getsockopt(zmq.FD))

    def has_come(self) -> bool:
        """Whether a request is there."""
        return bool(int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)

    def receive(self) -> Iterator[Request]:
        """The requests that are there; one that is not as its operation declares it is refused, and what has no
        number to refuse it by is dropped.
        """
        while self.has_come():
            peer, *frames = self._socket.recv_multipart(zmq.NOBLOCK)
            message = unpacked(frames)
            if message is None:
                continue
            request = Request(self, peer, message.pop("id"))
            try:
                request.arguments = arguments_of(message)
            except Malformed as problem:
                request.refuse(Exit.USAGE, str(problem))
            else:
                yield request

    def send(self, peer: bytes, reply: dict[str, Any]) -> None:
        """Raises Disconnected, Congested. A result that is too long for a message is told as an error."""
        message = msgpack.packb(reply)
        if len(message) > MAX_MESSAGE:
            refusal = {
                "code": int(Exit.FAILURE),
                "error": f"the result has {len(message)} bytes; ask for less",
            }
            message = msgpack.packb({"id": reply["id"], "ok": False, **refusal})
        if peer in self._gone:
            raise Disconnected
        try:
            self._socket.send_multipart([peer, message], self._flags)
        except zmq.Again:
            if self._flags:
                raise Congested from None
            self._gone.add(peer)
            raise Disconnected from None
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                raise Disconnected from None
            raise
        finally:
            self._sent()


def unpacked(frames: list[bytes]) -> dict[Any, Any] | None:
    """A map with the number of a request, or None for what no client of ours sends."""
    try:
        (frame,) = frames
        message = msgpack.unpackb(frame)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError):
        return None
    if not isinstance(message, dict):
        return None
    number = message.get("id")
    return message if type(number) is int and 0 <= number <= MAX_ID else None


def arguments_of(message: dict[Any, Any]) -> Arguments[Any]:
    """The typed arguments of a request's map. Raises Malformed."""
    name = message.pop("op", None)
    kind = OPERATIONS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise Malformed(
            f"unknown operation '{name[:40]}'" if isinstance(name, str) else "a request needs 'op'"
        )
    arguments: Arguments[Any] = decode(kind, message, f"'{name}'")
    return arguments


def one_line(text: str) -> str:
    """A text without line breaks, that msgpack can carry."""
    return " ".join(text.encode("utf-8", "replace").decode().split())
