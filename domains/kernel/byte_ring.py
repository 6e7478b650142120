"""One direction of a byte ring in a page that two domains share: the end that writes, and the end that reads.

    ┌──────────── size bytes at `data` ────────────┐
    │ free │ written, not read yet │ free          │      byte n lies at n % size
    └──────┴───────────────────────┴───────────────┘
           ▲ cons: the reader's    ▲ prod: the writer's       they count bytes since the start, modulo 2^32

The console's ring and the store's are two such directions each (Xen public/io/console.h, public/io/xs_wire.h).
Invariants: an end's own index is a private copy, only written to the page and never read back; the other side's
is read once per decision, and one that is impossible is RingBroken (rule S4, XSA-325). The order is payload, then
index; the caller notifies afterwards. Only a length that was checked decides what is touched, so that nothing beyond the
data is read or written, whatever the other side writes.
"""

from __future__ import annotations

from typing import Final, NamedTuple

INDEX_MASK: Final = 0xFFFF_FFFF
"""Indices run modulo 2^32."""
WORD: Final = 4
"""Bytes of an index."""


class RingBroken(Exception):
    """The other side wrote an index that no honest one can reach."""


class Direction(NamedTuple):
    """Where one direction lies, in bytes from the start of the page; `size` is a power of two."""

    data: int
    size: int
    cons: int
    prod: int


class ByteRingEnd:
    """What both ends have: `page` is a writable view of the page's bytes, whose indices are taken over as they stand."""

    def __init__(self, page: memoryview, where: Direction, own: int, other: int) -> None:
        self._where = where
        self._data = page[where.data : where.data + where.size]
        self._own = page[own : own + WORD].cast("I")
        self._other = page[other : other + WORD].cast("I")
        self._index = self._own[0]

    def restart(self) -> None:
        """Both indices are 0 again, as in a new ring."""
        self._index = self._own[0] = self._other[0] = 0

    def release(self) -> None:
        """Let go of the page, so that it can be unmapped; the end is of no use afterwards."""
        for view in (self._data, self._own, self._other):
            view.release()

    def _advance(self, count: int) -> None:
        self._index = self._own[0] = (self._index + count) & INDEX_MASK

    def _checked(self, used: int) -> int:
        """Bytes that are written and not read yet. Raises RingBroken."""
        used &= INDEX_MASK
        if used > self._where.size:
            raise RingBroken(f"the other side claims {used} bytes in a ring of {self._where.size}")
        return used


class ByteRingWriter(ByteRingEnd):
    """The end that puts bytes in."""

    def __init__(self, page: memoryview, where: Direction) -> None:
        super().__init__(page, where, where.prod, where.cons)

    def room(self) -> int:
        """Bytes that fit now. Raises RingBroken."""
        return self._where.size - self._checked(self._index - self._other[0])

    def put(self, data: bytes | bytearray | memoryview) -> int:
        """Write as much of `data` as fits; how many bytes that was: if any, notify. Raises RingBroken."""
        count = min(len(data), self.room())
        if count:
            at = self._index % self._where.size
            first = min(count, self._where.size - at)
            self._data[at : at + first] = data[:first]
            self._data[: count - first] = data[first:count]
            self._advance(count)
        return count


class ByteRingReader(ByteRingEnd):
    """The end that takes bytes out."""

    def __init__(self, page: memoryview, where: Direction) -> None:
        super().__init__(page, where, where.cons, where.prod)

    def waiting(self) -> int:
        """Bytes that can be taken now. Raises RingBroken."""
        return self._checked(self._other[0] - self._index)

    def take(self, most: int = INDEX_MASK) -> bytes:
        """What waits, `most` bytes of it; if that is any, there is room again: notify. Raises RingBroken."""
        count = min(self.waiting(), most)
        if not count:
            return b""
        at = self._index % self._where.size
        first = min(count, self._where.size - at)
        data = bytes(self._data[at : at + first]) + bytes(self._data[: count - first])
        self._advance(count)
        return data
