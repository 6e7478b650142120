"""The xenstore client of a Python kernel, over the ring in its xenstore page.

Paths are str, relative ones start at the domain's own directory; values are str in and out (`read_bytes`,
`write` takes bytes as well). Errors are XenError with the store's errno. Requests are matched to replies by
req_id, so that a handler may use the store while other code waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Transaction:
    """The same calls as Xenbus, seen and done all at once at the end."""

    def read(self, path: str) -> str:
        raise NotImplementedError

    def write(self, path: str, value: str | bytes) -> None:
        raise NotImplementedError


class Xenbus:
    """The domain's connection to xenstore."""

    def read(self, path: str) -> str:
        """The node's value; XenError(ENOENT)."""
        raise NotImplementedError

    def read_bytes(self, path: str) -> bytes:
        """The node's value as it lies in the store."""
        raise NotImplementedError

    def write(self, path: str, value: str | bytes) -> None:
        """Set the node's value; missing parents are made."""
        raise NotImplementedError

    def mkdir(self, path: str) -> None:
        """Make the node if it does not exist."""
        raise NotImplementedError

    def rm(self, path: str) -> None:
        """Remove the node and what is below it; XenError(ENOENT) only if its parent does not exist."""
        raise NotImplementedError

    def directory(self, path: str) -> list[str]:
        """Names of the node's children."""
        raise NotImplementedError

    def exists(self, path: str) -> bool:
        """Whether the node can be read."""
        raise NotImplementedError

    def get_permissions(self, path: str) -> list[str]:
        """Entries such as "n0", "r5": owner and default first."""
        raise NotImplementedError

    def set_permissions(self, path: str, permissions: list[str]) -> None:
        """Replace the node's permissions."""
        raise NotImplementedError

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """All or nothing: ends when the block ends, is dropped when it raises; XenError(EAGAIN) on a
        conflict.
        """
        yield Transaction()

    def watch(self, path: str, callback: Callable[[str], None]) -> str:
        """Call `callback(changed path)` from the loop at once and for each change at or below `path`;
        returns the token.
        """
        raise NotImplementedError

    def unwatch(self, token: str) -> None:
        """End the watch."""
        raise NotImplementedError
