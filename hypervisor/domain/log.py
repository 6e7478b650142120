"""The hypervisor's log and its counters: a bounded ring of text, as `xenctl dmesg` shows it.

Source: Xen drivers/char/console.c, conring.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Final

CONRING_SIZE: Final = 64 * 1024
MAX_LINE: Final = 1024
MAX_KINDS: Final = 4096
OTHER_KINDS: Final = "of other kinds"


class Log:
    """Lines end in a newline; the oldest bytes go first. `counters` says how often what happened, of MAX_KINDS kinds at most:
    no guest can make it grow.
    """

    def __init__(self, size: int = CONRING_SIZE) -> None:
        self._size = size
        self._lines: deque[bytes] = deque()
        self._held = 0
        self.written = 0
        self.counters: Counter[str] = Counter()

    def line(self, text: str) -> None:
        data = text.replace("\n", "\n    ").encode("utf-8", "replace")[: 16 * MAX_LINE] + b"\n"
        self._lines.append(data)
        self._held += len(data)
        self.written += len(data)
        while self._held > self._size:
            self._held -= len(self._lines.popleft())

    def once(self, key: str, text: str) -> None:
        """Log `text` only the first time `key` is seen; count it each time."""
        if self.count(key) == 1:
            self.line(text)

    def count(self, key: str) -> int:
        """Count one more of `key`, and say the how manieth it was; 0 when there are too many kinds already."""
        if key not in self.counters and len(self.counters) >= MAX_KINDS:
            self.counters[OTHER_KINDS] += 1
            return 0
        self.counters[key] += 1
        return self.counters[key]

    def read(self) -> bytes:
        return b"".join(self._lines)

    @property
    def start(self) -> int:
        """Index of the oldest byte held, counted from the first ever written."""
        return self.written - self._held

    def clear(self) -> None:
        self._lines.clear()
        self._held = 0
