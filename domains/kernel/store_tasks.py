"""Requests to xenstore as tasks: for handlers, which do not wait (tasks.py).

    def changed(path: str) -> Task[None]:
        value = yield from kernel.xenbus.tasks.read(path)

`Xenbus` offers the same by the same names to straight-line code.
"""

from __future__ import annotations

from typing import Protocol

from domains.kernel.tasks import Task
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.io.xs_wire import (
    XS_DIRECTORY,
    XS_DIRECTORY_PART,
    XS_GET_PERMS,
    XS_MKDIR,
    XS_READ,
    XS_RM,
    XS_SET_PERMS,
    XS_WRITE,
    XenstoreMessage,
)


class Exchange(Protocol):
    """A connection with the store: sends one request and takes its answer."""

    def __call__(self, kind: XenstoreMessage, parts: tuple[str | bytes, ...], tx_id: int) -> Task[bytes]:
        """The answer's payload. XenError: the store's error; E2BIG before anything is sent."""


def strings(payload: bytes) -> list[str]:
    """NUL-terminated strings."""
    return [part.decode("utf-8", "replace") for part in payload.split(b"\0")[:-1]]


class StoreTasks:
    """What can be asked inside a transaction and outside; `tx_id` 0 is outside. All of it raises XenError."""

    def __init__(self, exchange: Exchange, tx_id: int = 0) -> None:
        self._exchange = exchange
        self.tx_id = tx_id

    def request(self, kind: XenstoreMessage, *parts: str | bytes) -> Task[bytes]:
        """One message, its parts NUL-terminated (but bytes as they are), and its answer."""
        return self._exchange(kind, parts, self.tx_id)

    def read(self, path: str) -> Task[str]:
        """The node's value; XenError(ENOENT)."""
        return (yield from self.read_bytes(path)).decode("utf-8", "replace")

    def read_bytes(self, path: str) -> Task[bytes]:
        """The node's value as it lies in the store."""
        return self.request(XS_READ, path)

    def write(self, path: str, value: str | bytes) -> Task[None]:
        """Set the node's value; missing parents are made."""
        yield from self.request(XS_WRITE, path, value.encode() if isinstance(value, str) else value)

    def mkdir(self, path: str) -> Task[None]:
        """Make the node if it does not exist."""
        yield from self.request(XS_MKDIR, path)

    def rm(self, path: str) -> Task[None]:
        """Remove the node and what is below it; XenError(ENOENT) only if its parent does not exist."""
        yield from self.request(XS_RM, path)

    def exists(self, path: str) -> Task[bool]:
        """Whether the node is there for this domain to read."""
        try:
            yield from self.request(XS_READ, path)
        except XenError as error:
            if error.errno not in (Errno.ENOENT, Errno.EACCES):
                raise
            return False
        return True

    def directory(self, path: str) -> Task[list[str]]:
        """Names of the node's children; a list too long for one message is fetched in parts."""
        try:
            return strings((yield from self.request(XS_DIRECTORY, path)))
        except XenError as error:
            if error.errno != Errno.E2BIG:
                raise
        return (yield from self._directory_parts(path))

    def _directory_parts(self, path: str) -> Task[list[str]]:
        """Each part begins with the node's generation: if that changes in between, from the start again."""
        names, generation = b"", b""
        while True:
            part = yield from self.request(XS_DIRECTORY_PART, path, str(len(names)))
            seen, _, chunk = part.partition(b"\0")
            if names and seen != generation:
                names = b""
                continue
            generation = seen
            if chunk.endswith(b"\0\0") or chunk in (b"", b"\0"):
                return [name for name in strings(names + chunk) if name]
            names += chunk

    def get_permissions(self, path: str) -> Task[list[str]]:
        """Entries such as "n0", "r5": owner and default first."""
        return strings((yield from self.request(XS_GET_PERMS, path)))

    def set_permissions(self, path: str, permissions: list[str]) -> Task[None]:
        """Replace the node's permissions."""
        yield from self.request(XS_SET_PERMS, path, *permissions)
