"""What a guest says by console_io: gathered into lines, made harmless, and no more of it than the log can bear.

The log is one for all: a guest that fills it hides what the others and the hypervisor said. So a domain has a credit of bytes,
which time refills; lines beyond it are counted, and the count is said once there is credit again.

Source: Xen drivers/char/console.c (guest_console_write strips what is not printable; printk_ratelimit).
"""

from __future__ import annotations

from typing import Final

from hypervisor.domain.log import MAX_LINE

BURST: Final = 32 * 1024
"""Bytes that a domain may say at once: half of the log."""
BYTES_PER_SECOND: Final = 8192
NS_PER_S: Final = 10**9

_PRINTABLE: Final = bytes(range(0x20, 0x7F)) + b"\t\n"
_STRIPPED: Final = bytes(set(range(256)) - set(_PRINTABLE))


class GuestConsole:
    """One domain's."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._credit = BURST
        self._at_ns = 0
        self._suppressed = 0

    def write(self, text: bytes, now_ns: int) -> list[str]:
        """The lines that end in `text`, as they are to be logged; the rest waits for its end."""
        self._refill(now_ns)
        said: list[str] = []
        for piece in text.translate(None, _STRIPPED).splitlines(keepends=True):
            self._line += piece
            if piece.endswith(b"\n") or len(self._line) >= MAX_LINE:
                self._say(self._line.rstrip(b"\n").decode("ascii"), said)
                self._line.clear()
        return said

    def _say(self, line: str, said: list[str]) -> None:
        if self._credit < len(line) + 1:
            self._suppressed += 1
            return
        if self._suppressed:
            said.append(f"{self._suppressed} lines suppressed")
            self._suppressed = 0
        self._credit -= len(line) + 1
        said.append(line)

    def _refill(self, now_ns: int) -> None:
        self._credit = min(BURST, self._credit + (now_ns - self._at_ns) * BYTES_PER_SECOND // NS_PER_S)
        self._at_ns = now_ns
