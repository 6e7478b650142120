"""A CPU whose guest kernel is Python code."""

from __future__ import annotations


class PythonCpu:
    """load / store / view at virtual addresses, through TLB, rings and page faults."""

    def load(self, va: int, size: int) -> bytes:
        """Read `size` bytes at `va`."""
        raise NotImplementedError

    def store(self, va: int, data: bytes | bytearray | memoryview) -> None:
        """Write `data` at `va`."""
        raise NotImplementedError

    def view(self, va: int, size: int, write: bool = False) -> memoryview:
        """A checked view within one page."""
        raise NotImplementedError

    def views(self, va: int, size: int, write: bool = False) -> list[memoryview]:
        """Checked views that together cover the range, one a page."""
        raise NotImplementedError
