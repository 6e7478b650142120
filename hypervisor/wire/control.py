"""Both ends of the control protocol: xenctl's DEALER and the toolstack's ROUTER.

The endpoint is a unix socket in a folder that only the machine's owner may enter, so whoever can connect may
do everything; what arrives is checked for its form all the same. The words are in `control_protocol.py`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgpack
import zmq

from hypervisor.wire.control_protocol import (
    ENDPOINT,
    MAX_MESSAGE,
    MAX_UNIX_PATH,
    ControlError,
    Exit,
    Op,
    result_of,
)

RECONNECT: Final = 5
"""Milliseconds between two attempts to reach a Dom0 that does not listen yet."""


class Disconnected(Exception):
    """The client that a reply was meant for is gone."""


class Congested(Exception):
    """The client does not read fast enough; the same message can be sent again later."""


class ControlClient:
    """xenctl's end. One request at a time, except that `post` may go out while a stream runs."""

    def __init__(self, folder: Path, timeout: float = 30.0) -> None:
        """`folder`: the machine's. `timeout`: seconds that Dom0 may take to answer a plain call."""
        self._timeout = timeout
        self._next_id = 1
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.maxmsgsize = MAX_MESSAGE
        self._socket.reconnect_ivl = RECONNECT
        self._socket.connect(endpoint(folder))

    def close(self) -> None:
        self._context.destroy(linger=0)

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def fd(self) -> int:
        """Becomes readable when a reply may have arrived; edge-triggered: drain with `poll` after it."""
        return int(self._socket.getsockopt(zmq.FD))

    def call(self, op: Op, *, timeout: float | None = None, **arguments: Any) -> Any:
        """Ask and wait for the one answer; returns its result. Raises ControlError."""
        request = self.post(op, **arguments)
        limit = self._timeout if timeout is None else timeout
        deadline = time.monotonic() + limit
        while True:
            left = deadline - time.monotonic()
            reply = self.receive(max(left, 0))
            if reply is None:
                raise ControlError(Exit.TIMED_OUT, f"Dom0 did not answer '{op}' within {limit:g} s")
            if reply.get("id") == request:
                return result_of(reply)

    def answer_to(self, request: int) -> Any:
        """The result of a request posted before, waited for without a limit. Raises ControlError."""
        while True:
            reply = self.receive(None)
            if reply is not None and reply.get("id") == request:
                return result_of(reply)

    def post(self, op: Op, **arguments: Any) -> int:
        """Send a request without waiting; returns its id, which the replies bear."""
        request, self._next_id = self._next_id, self._next_id + 1
        self._socket.send(msgpack.packb({"op": str(op), "id": request, **arguments}))
        return request

    def receive(self, timeout: float | None) -> dict[str, Any] | None:
        """The next reply as it came; None after `timeout` seconds (None: wait for ever)."""
        if not self._socket.poll(None if timeout is None else int(timeout * 1000)):
            return None
        return msgpack.unpackb(self._socket.recv())  # type: ignore[no-any-return]


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


def endpoint(folder: Path) -> str:
    """The ZeroMQ address of a machine's control socket; ControlError if its path is too long for Linux."""
    path = str(folder / ENDPOINT)
    if len(os.fsencode(path)) > MAX_UNIX_PATH:
        raise ControlError(
            Exit.FAILURE,
            f"the machine's folder {folder} has too long a path; set XDG_RUNTIME_DIR to a short one",
        )
    return f"ipc://{path}"


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
