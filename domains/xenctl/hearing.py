"""What a guest says, heard from outside: texts that are looked for in what comes in pieces, and the last of it all, kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

KEPT: Final = 16 << 20
"""Bytes of a console that are kept for whoever wants all of it."""


class Search:
    """Looks for texts in what comes in pieces; an empty text is never found."""

    def __init__(self, *texts: bytes) -> None:
        """Of texts that end at the same byte, the one that stands first here is found."""
        self._texts = [text for text in texts if text]
        self._longest = max(map(len, self._texts), default=1)
        self._tail = b""

    def finds(self, data: bytes) -> bytes | None:
        """The text that is complete first with `data`."""
        seen = self._tail + data
        self._tail = seen[max(len(seen) - self._longest + 1, 0) :]
        ends = [(seen.index(text) + len(text), text) for text in self._texts if text in seen]
        return min(ends, key=lambda one: one[0])[1] if ends else None


class Transcript:
    """The last that was said, `limit` bytes at least and twice as many at most."""

    def __init__(self, limit: int = KEPT) -> None:
        self.left_out = 0
        """Bytes that were said before those that are kept."""
        self._limit = limit
        self._said = bytearray()

    def __iadd__(self, data: bytes) -> Transcript:
        self._said += data
        if len(self._said) > 2 * self._limit:
            self.left_out += len(self._said) - self._limit
            del self._said[: -self._limit]
        return self

    @property
    def end(self) -> int:
        """Bytes that were said in all."""
        return self.left_out + len(self._said)

    def since(self, position: int) -> bytes:
        """What is kept from a position on, which counts all that was said."""
        return bytes(self._said[max(position - self.left_out, 0) :])

    def text(self, limit: int = KEPT) -> str:
        """The last `limit` bytes as text; it begins by telling what was left out."""
        last = self.since(self.end - limit)
        missing = self.end - len(last)
        told = f"[… {missing} bytes before are left out …]\n" if missing else ""
        return told + last.decode("utf-8", "replace")


def first_of(seen: bytes, texts: Sequence[bytes]) -> bytes | None:
    """The text of these that is complete first in what was said."""
    return Search(*texts).finds(seen)
