"""A client of a machine's store that speaks over its socket, one request at a time."""

from __future__ import annotations

import socket
from types import TracebackType

from hypervisor.public.io.xs_wire import XS_ERROR, XS_WATCH_EVENT, XS_WRITE, xsd_sockmsg


class StoreSocket:
    """`ask` waits for the reply; events are dropped. What takes longer than `seconds` is a TimeoutError."""

    def __init__(self, path: str, seconds: float = 60.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(seconds)
        self._socket.connect(path)

    def __enter__(self) -> StoreSocket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._socket.close()

    def ask(self, kind: int, *fields: bytes, tx: int = 0) -> bytes:
        """The reply to the strings `fields`, each sent with its nul. AssertionError with the errno's name."""
        return self.ask_raw(kind, b"".join(field + b"\0" for field in fields), tx)

    def write(self, path: bytes, value: bytes, tx: int = 0) -> None:
        self.ask_raw(XS_WRITE, path + b"\0" + value, tx)

    def ask_raw(self, kind: int, payload: bytes, tx: int = 0) -> bytes:
        """The reply to any payload."""
        self._socket.sendall(xsd_sockmsg(type=kind, tx_id=tx, len=len(payload)).pack() + payload)
        while True:
            header = xsd_sockmsg.unpack(self._take(xsd_sockmsg.sizeof))
            reply = self._take(header.len)
            if header.type == XS_WATCH_EVENT:
                continue
            assert header.type != XS_ERROR, reply
            return reply

    def _take(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._socket.recv(size - len(data))
            assert more, "the store has hung up"
            data += more
        return data
