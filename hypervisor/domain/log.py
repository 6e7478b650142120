"""The hypervisor's log: a bounded ring of text, as `xenctl dmesg` shows it (Xen's conring, xen/drivers/char/console.c)."""

from __future__ import annotations

from collections import Counter, deque
from typing import Final

CONRING_SIZE: Final = 64 * 1024
MAX_LINE: Final = 1024
_KINDS: Final = 4096


class Log:
    """Lines end in a newline; the oldest bytes go first. `counters` counts every refusal by its reason's first words."""

    def __init__(self, size: int = CONRING_SIZE) -> None:
        self._size = size
        self._lines: deque[bytes] = deque()
        self._held = 0
        self._once: set[str] = set()
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
        self.counters[key] += 1
        if key not in self._once and len(self._once) < _KINDS:
            self._once.add(key)
            self.line(text)

    def read(self) -> bytes:
        return b"".join(self._lines)

    @property
    def start(self) -> int:
        """Index of the oldest byte held, counted from the first ever written."""
        return self.written - self._held

    def clear(self) -> None:
        self._lines.clear()
        self._held = 0
