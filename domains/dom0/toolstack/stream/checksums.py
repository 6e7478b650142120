"""Checksums of a stream in a file, behind libxl's END, where xl and Xen's own checker do not look.

    for each piece that was written at once, a header or a record:  length u32 | CRC-32 u32
    "Xenoscope CRC-32" | how many u32 | CRC-32 of all those u32                                 the file's last 24 bytes

A file of Xen's own has none, and is not checked.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Final, NamedTuple

from domains.dom0.toolstack.stream.ends import Bytes
from domains.dom0.toolstack.stream.errors import StreamError

MAGIC: Final = b"Xenoscope CRC-32"
FOOTER: Final = struct.Struct("<16sII")
ENTRY: Final = struct.Struct("<II")


class Sum(NamedTuple):
    """One piece: its length and its checksum."""

    length: int
    crc: int


class Altered(StreamError):
    """A piece is not as it was written."""


class Sums:
    """Of a stream that is being written."""

    def __init__(self) -> None:
        self._sums: list[Sum] = []

    def add(self, parts: Sequence[Bytes]) -> None:
        """The next piece, in parts."""
        crc = length = 0
        for part in parts:
            crc, length = zlib.crc32(part, crc), length + len(part)
        self._sums.append(Sum(length, crc))

    def pack(self) -> bytes:
        """What goes behind the stream."""
        entries = b"".join(ENTRY.pack(*one) for one in self._sums)
        return entries + FOOTER.pack(MAGIC, len(self._sums), zlib.crc32(entries))


class Checking:
    """Of a stream that is being read, piece by piece or in smaller parts."""

    def __init__(self, sums: Sequence[Sum]) -> None:
        self._sums = iter(sums)
        self._left, self._wanted = 0, 0
        self._crc = 0

    def take(self, data: Bytes) -> None:
        """The next bytes. Altered: they end a piece that is another one."""
        rest = memoryview(data)
        while rest:
            if not self._left:
                self._left, self._wanted = next(self._sums, Sum(len(rest), 0))
                self._crc = 0
            part, rest = rest[: self._left], rest[self._left :]
            self._crc = zlib.crc32(part, self._crc)
            self._left -= len(part)
            if not self._left and self._crc != self._wanted:
                raise Altered("its bytes are not as they were written")


def size_of(footer: bytes) -> int | None:
    """How many bytes the checksums before a file's last bytes have; None: there are none."""
    if len(footer) != FOOTER.size:
        return None
    magic, count, _ = FOOTER.unpack(footer)
    return count * ENTRY.size if magic == MAGIC else None


def unpack(entries: bytes, footer: bytes) -> list[Sum]:
    """The checksums. StreamError: they are altered themselves."""
    if zlib.crc32(entries) != FOOTER.unpack(footer)[2]:
        raise StreamError("the checksums at the file's end are not as they were written")
    return [Sum(*one) for one in ENTRY.iter_unpack(entries)]
