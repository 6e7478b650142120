"""The words of the control protocol between xenctl and Dom0's toolstack: messages, exit codes, errors.

    request   {"op": name, "id": n, …arguments}
    reply     {"id": n, "ok": true, "result": …}                      the last one
              {"id": n, "ok": true, "result": …, "more": true}        of a stream; others follow
              {"id": n, "ok": false, "code": Exit, "error": one line}

Maps in msgpack. `operations.py` declares the operations, `records.py` checks what arrives; the sockets are in
`client.py` and `server.py`, apart from this so that a command which fails needs no ZeroMQ.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

MAX_MESSAGE: Final = 4 << 20
"""Bytes of the largest request or reply."""


class Exit(IntEnum):
    """Exit codes of xenctl; they do not change."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    NO_SUCH_DOMAIN = 3
    TIMED_OUT = 4
    CRASHED = 5


class ControlError(Exception):
    """An operation that was refused or failed; `str()` is one line that says what to do."""

    def __init__(self, code: Exit, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return self.message


class MachineEnded(ControlError):
    """The toolstack's end of the connection is gone: the machine has ended, or has died."""

    def __init__(self) -> None:
        super().__init__(Exit.FAILURE, "the machine has ended")
