"""The guest's console: a text stream that `print` and `input` use, on the ring of xencons_interface."""

from __future__ import annotations


class Console:
    """A file-like object: sys.stdout, sys.stderr and sys.stdin of the guest."""

    def write(self, text: str) -> int:
        """Send characters; waits while the ring is full and somebody reads it."""
        raise NotImplementedError

    def flush(self) -> None:
        """Tell the other side."""
        raise NotImplementedError

    def readline(self, timeout: float | None = None) -> str:
        """The next line of input with its newline; "" if `timeout` seconds passed first."""
        raise NotImplementedError
