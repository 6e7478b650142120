"""Where a machine's folder is, and whether a machine lives in it: what a command must know before anything else.

Nothing is imported here that takes a while, such as `typing` or `pathlib`: see quick.py.
"""

from __future__ import annotations

import fcntl
import os

LOCK = "lock"
"""The file in a machine's folder that its supervisor holds locked for as long as it lives."""
LONGEST_NAME = 32


def can_be_name(name: str) -> bool:
    """Whether a machine may have this name: letters, digits, and inside it points, dashes and underscores."""
    rest = name.replace(".", "").replace("-", "").replace("_", "")
    return len(name) <= LONGEST_NAME and name[:1].isalnum() and rest.isalnum() and name.isascii()


def place_of(name: str) -> str:
    """The path of a machine's folder, which may not exist."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime and os.access(runtime, os.W_OK | os.X_OK):
        return os.path.join(runtime, "xenoscope", name)
    return f"/tmp/xenoscope-{os.getuid()}/{name}"


def lives(place: str) -> bool:
    """Whether a machine lives in this folder, or is being started there."""
    path = os.path.join(place, LOCK)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return same_file(fd, path)
    else:
        return False
    finally:
        os.close(fd)


def same_file(fd: int, path: str) -> bool:
    """Whether `path` still names the open file."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except OSError:
        return False
