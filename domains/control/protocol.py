"""The words of the control protocol between xenctl and Dom0's toolstack: operations, exit codes, errors.

    request   {"op": Op, "id": n, …arguments}
    reply     {"id": n, "ok": true, "result": …}                      the last one
              {"id": n, "ok": true, "result": …, "more": true}        of a stream; others follow
              {"id": n, "ok": false, "code": Exit, "error": one line}

Maps in msgpack. The sockets are in `client.py` and `server.py`, apart from this so that a command which fails
needs no ZeroMQ.
"""

from __future__ import annotations

import os
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any, Final

ENDPOINT: Final = "xenctl"
"""The socket's name in the machine's folder."""

MAX_MESSAGE: Final = 4 << 20
"""Bytes of the largest request or reply."""

MAX_UNIX_PATH: Final = 107
"""Bytes of a unix socket's path; Linux, unix(7)."""


class Op(StrEnum):
    """What the toolstack can be asked; `toolstack/service.py` tells arguments and results of each."""

    info = "info"
    stop = "stop"
    create = "create"
    destroy = "destroy"
    list_ = "list"
    pause = "pause"
    unpause = "unpause"
    shutdown = "shutdown"
    reboot = "reboot"
    wait = "wait"
    domid = "domid"
    domname = "domname"
    dmesg = "dmesg"
    debug_keys = "debug-keys"
    console = "console"
    console_input = "console-input"
    console_detach = "console-detach"
    network_capture = "network-capture"
    xenstore_ls = "xenstore-ls"


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


def result_of(reply: dict[str, Any]) -> Any:
    """What a reply brings. Raises ControlError if it is a refusal."""
    if reply.get("ok"):
        return reply.get("result")
    raise ControlError(Exit(reply["code"]), reply["error"])


def endpoint(folder: Path) -> str:
    """The ZeroMQ address of a machine's control socket; ControlError if its path is too long for Linux."""
    path = str(folder / ENDPOINT)
    if len(os.fsencode(path)) > MAX_UNIX_PATH:
        raise ControlError(
            Exit.FAILURE,
            f"the machine's folder {folder} has too long a path; set XDG_RUNTIME_DIR to a short one",
        )
    return f"ipc://{path}"
