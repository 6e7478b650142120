"""A machine's folder: where it is, and whether a machine lives in it.

    $XDG_RUNTIME_DIR/xenoscope/<name>     or /tmp/xenoscope-<uid>/<name>, mode 0700
        lock        held by the supervisor for as long as it lives; its text is the supervisor's pid
        xenctl      the toolstack's endpoint
        xenstored   the store's socket
        privcmd     hypercalls of xl and its like; `xl` is the folder of their files
        log         what the machine's processes print when something goes wrong

The lock, not the folder, says that a machine runs: a folder may be left over, a lock cannot be.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from domains.control.protocol import ControlError, Exit
from domains.xenctl.place import LOCK as LOCK
from domains.xenctl.place import can_be_name, lives, place_of, same_file

LOG: Final = "log"
LONGEST_FOLDER: Final = 107 - len("/xenstored")
"""Bytes of a folder's path such that its sockets' paths fit sockaddr_un."""


def folder_of(name: str) -> Path:
    """The folder of a machine, which may not exist. Raises ControlError for a name that cannot be one."""
    if not can_be_name(name):
        raise ControlError(
            Exit.USAGE, f"'{name}' cannot be a machine's name: use up to 32 letters and digits"
        )
    return Path(place_of(name))


def make_folder(folder: Path) -> None:
    """Make a machine's folder, and the one above it, for its owner alone. Raises ControlError."""
    if len(os.fsencode(folder)) > LONGEST_FOLDER:
        reason = f"{folder} is too long a path for sockets; set XDG_RUNTIME_DIR to a shorter one"
        raise ControlError(Exit.FAILURE, reason)
    for path in (folder.parent, folder):
        try:
            with private_files():
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = path.lstat()
        except OSError as error:
            raise ControlError(Exit.FAILURE, f"cannot make {path}: {error.strerror}") from None
        if status.st_uid != os.getuid():
            what = "belongs to somebody else; set XDG_RUNTIME_DIR to a folder of yours"
            raise ControlError(Exit.FAILURE, f"{path} {what}")
        if not stat.S_ISDIR(status.st_mode) or stat.S_IMODE(status.st_mode) & 0o077:
            raise ControlError(Exit.FAILURE, f"{path} is not a private folder of yours; remove it")


@contextmanager
def private_files() -> Iterator[None]:
    """What is made in this block is its owner's to use, and nobody else's, whatever the umask says."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def take_lock(folder: Path) -> int | None:
    """Become the one that may start a machine in `folder`: a descriptor that holds the lock, or None if one
    runs.
    """
    while True:
        try:
            with private_files():
                fd = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:  # a machine that ended took the folder with it
            make_folder(folder)
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        if same_file(fd, str(folder / LOCK)):
            return fd
        os.close(fd)


def is_running(folder: Path) -> bool:
    """Whether a machine lives in `folder`, or is being started there."""
    return lives(str(folder))


def supervisor_pid(folder: Path) -> int | None:
    """The supervisor's process id, if a machine runs."""
    try:
        text = (folder / LOCK).read_text()
    except OSError:
        return None
    return int(text) if text.strip().isdecimal() and is_running(folder) else None
