"""The toolstack's end of the control protocol: a ROUTER.

The endpoint is a unix socket in a folder that only the machine's owner may enter, so whoever can connect may
do everything; what arrives is checked for its form all the same. The words are in `protocol.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import zmq

from domains.control.protocol import MAX_MESSAGE, Exit, endpoint


class Disconnected(Exception):
    """The client that a reply was meant for is gone."""


class Congested(Exception):
    """The client does not read fast enough; the same message can be sent again later."""


class Request:
    """One request at the toolstack's end: its operation, its arguments, and the way to answer it."""

    def __init__(self, server: ControlServer, peer: bytes, message: dict[str, Any]) -> None:
        self._server = server
        self.peer = peer
        self.id: int = message.pop("id")
        self.op: str = message.pop("op")
        self.arguments = message
        self.answered = False

    def answer(self, result: Any = None) -> None:
        """The last reply; a client that went away is nobody's error."""
        self._finish({"id": self.id, "ok": True, "result": result})

    def refuse(self, code: Exit, error: str) -> None:
        """The last reply, of a request that failed."""
        self._finish({"id": self.id, "ok": False, "code": int(code), "error": one_line(error)})

    def stream(self, result: Any) -> None:
        """One reply with more to follow. Raises Disconnected, Congested."""
        self._server.send(self.peer, {"id": self.id, "ok": True, "result": result, "more": True})

    def _finish(self, reply: dict[str, Any]) -> None:
        if self.answered:
            return
        self.answered = True
        try:
            self._server.send(self.peer, reply)
        except (Disconnected, Congested):
            return


class ControlServer:
    """The toolstack's end, driven by Dom0's loop: never waits."""

    def __init__(self, folder: Path, sent: Callable[[], None]) -> None:
        """Binds the endpoint in the machine's folder (mode 0700).

        `sent` is called after each message sent: its descriptor may have been reset, so `receive` is due
        again.
        """
        self._sent = sent
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 500
        self._socket.maxmsgsize = MAX_MESSAGE
        self._socket.router_mandatory = True
        self._socket.sndhwm = 64
        self._socket.bind(endpoint(folder))

    def close(self) -> None:
        self._context.destroy(linger=500)

    @property
    def fd(self) -> int:
        """Edge-triggered readable: call `receive` until it yields nothing, also after every send."""
        return int(self._socket.getsockopt(zmq.FD))

    def receive(self) -> Iterator[Request]:
        """The requests that are there; what has not the form of a request is dropped."""
        while int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            peer, *frames = self._socket.recv_multipart(zmq.NOBLOCK)
            message = unpacked(frames)
            if message is not None:
                yield Request(self, peer, message)

    def send(self, peer: bytes, reply: dict[str, Any]) -> None:
        """Raises Disconnected, Congested. A result that is too long for a message is told as an error."""
        message = msgpack.packb(reply)
        if len(message) > MAX_MESSAGE:
            refusal = {
                "code": int(Exit.FAILURE),
                "error": f"the result has {len(message)} bytes; ask for less",
            }
            message = msgpack.packb({"id": reply["id"], "ok": False, **refusal})
        try:
            self._socket.send_multipart([peer, message], zmq.NOBLOCK)
            self._sent()
        except zmq.Again:
            raise Congested from None
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                raise Disconnected from None
            raise


def unpacked(frames: list[bytes]) -> dict[str, Any] | None:
    """A request's map, or None for what no client of ours sends."""
    try:
        (frame,) = frames
        message = msgpack.unpackb(frame)
    except (ValueError, msgpack.UnpackException, RecursionError):
        return None
    if not isinstance(message, dict) or not all(isinstance(key, str) for key in message):
        return None
    if not isinstance(message.get("op"), str) or not isinstance(message.get("id"), int):
        return None
    return message


def one_line(text: str) -> str:
    return " ".join(text.split())
