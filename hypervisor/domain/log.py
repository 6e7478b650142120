"""The hypervisor's log: a bounded ring of text, as `xenctl dmesg` shows it.

Source: Xen drivers/char/console.c, conring.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from hypervisor.machine.counters import Counters

CONRING_SIZE: Final = 64 * 1024
MAX_LINE: Final = 1024


class Log:
    """Lines end in a newline; the oldest bytes go first. Nothing in it is more than text to a terminal: what guests and their
    processes say comes here, too.
    """

    def __init__(self, counters: Counters, size: int = CONRING_SIZE) -> None:
        self._counters = counters
        self._size = size
        self._lines: deque[bytes] = deque()
        self._held = 0
        self.written = 0

    def line(self, text: str) -> None:
        """Add one line; further lines of it are indented, and what is not printable becomes a question mark."""
        if not text.isprintable():
            text = "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)
        data = text.replace("\n", "\n    ").encode("utf-8", "replace")[: 16 * MAX_LINE] + b"\n"
        self._lines.append(data)
        self._held += len(data)
        self.written += len(data)
        while self._held > self._size:
            self._held -= len(self._lines.popleft())

    def once(self, domid: int, kind: str, text: str) -> None:
        """Log `text` of a domain only the first time that this domain does something of `kind`; count it each time."""
        if self._counters.add(kind, domid) == 1:
            self.line(f"d{domid}: {text}")

    def read(self) -> bytes:
        """All lines that are held."""
        return b"".join(self._lines)

    @property
    def start(self) -> int:
        """Index of the oldest byte held, counted from the first ever written."""
        return self.written - self._held

    def clear(self) -> None:
        """Forget all lines."""
        self._lines.clear()
        self._held = 0
