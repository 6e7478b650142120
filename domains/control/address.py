"""Where a machine's toolstack is reached. There is one kind today, a unix socket in the machine's folder; a machine on
another host would be a second constructor, and no caller would change.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from domains.control.protocol import ControlError, Exit
from domains.control.records import Record

ENDPOINT: Final = "xenctl"
"""The socket's name in the machine's folder."""

MAX_UNIX_PATH: Final = 107
"""Bytes of a unix socket's path; Linux, unix(7)."""


class MachineAddress(Record):
    """The toolstack's address: the path of its unix socket. Made by one of the constructors below."""

    path: str

    @property
    def endpoint(self) -> str:
        """As ZeroMQ writes it."""
        return f"ipc://{self.path}"

    @classmethod
    def in_folder(cls, folder: Path) -> MachineAddress:
        """A machine of this host, by its folder. Raises ControlError if the path is too long for Linux."""
        path = str(folder / ENDPOINT)
        if len(os.fsencode(path)) > MAX_UNIX_PATH:
            raise ControlError(
                Exit.FAILURE,
                f"the machine's folder {folder} has too long a path; set XDG_RUNTIME_DIR to a short one",
            )
        return cls(path)
