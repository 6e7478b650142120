"""Where a fleet's head is on this host, and the files it has there.

    $XDG_RUNTIME_DIR/xenoscope/_fleets/<name>     or /tmp/xenoscope-<uid>/_fleets/<name>, mode 0700
        lock          held by the head for as long as it lives; its text is the path of the fleet's file
        head          its socket, for `xenctl fleet`
        log           what the head does, a line each with the clock
        <host>.log    the same of an agent that was started on this host

No machine has a name that begins with an underscore.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

from domains.control.fleet_link import Link
from domains.control.protocol import ControlError, Exit
from domains.xenctl.folder import make_folder, private_files
from domains.xenctl.place import LOCK, lives, place_of

FLEETS: Final = "_fleets"
SOCKET: Final = "head"
LOG: Final = "log"


def folder_of_fleet(name: str) -> Path:
    """The folder of a fleet's head, which may not exist."""
    return Path(place_of(FLEETS)) / name


def is_up(name: str) -> bool:
    """Whether a head of this fleet lives on this host."""
    return lives(str(folder_of_fleet(name)))


def file_of(name: str) -> str:
    """The path of the file that the fleet was brought up from; "" if it is not known."""
    try:
        return (folder_of_fleet(name) / LOCK).read_text()
    except (OSError, UnicodeDecodeError):
        return ""


def brought_up_from(file: Path) -> str | None:
    """The fleet that is up from this file; None: there is none."""
    try:
        names = sorted(os.listdir(place_of(FLEETS)))
    except OSError:
        return None
    return next((name for name in names if file_of(name) == str(file.absolute()) and is_up(name)), None)


def take_fleet(name: str, file: Path) -> int:
    """Become the head of this fleet: a descriptor that holds the lock. Raises ControlError if there is a head."""
    folder = folder_of_fleet(name)
    make_folder(folder.parent)
    make_folder(folder)
    with private_files():
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise ControlError(Exit.FAILURE, f"fleet '{name}' is being brought up already") from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(file.absolute()).encode(), 0)
    return lock


def connect(name: str) -> Link:
    """A connection with a fleet's head. Raises ControlError if there is none."""
    if not is_up(name):
        raise not_up(name)
    return Link(f"ipc://{folder_of_fleet(name) / SOCKET}")


def not_up(name: str) -> ControlError:
    """The error of a fleet that there is not."""
    return ControlError(Exit.FAILURE, f"fleet '{name}' is not up; bring it up with 'xenctl fleet up FILE'")
