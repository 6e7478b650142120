"""xenctl's end of the control protocol: a DEALER. The words are in `protocol.py`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

import msgpack
import zmq

from domains.control.protocol import MAX_MESSAGE, ControlError, Exit, Op, endpoint, result_of

RECONNECT: Final = 5
"""Milliseconds between two attempts to reach a Dom0 that does not listen yet."""


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
