"""A saved domain's file taken apart into its records, to be put together otherwise."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from domains.dom0.toolstack.stream import libxc, libxl, xl_file
from domains.dom0.toolstack.stream.framing import framed
from domains.dom0.toolstack.stream.libxc import LibxcRecord

LIBXC_HEADERS = libxc.IMAGE_HEADER.size + libxc.DOMAIN_HEADER.size


@dataclass
class SavedFile:
    """`records`: (type, body) of libxc's, END included; `before`: all that comes first; `after`: libxl's END. Checksums are left
    out.
    """

    before: bytes
    records: list[tuple[int, bytes]] = field(default_factory=list)
    after: bytes = b""

    @classmethod
    def read(cls, file: Path) -> SavedFile:
        data = file.read_bytes()
        at = (
            xl_file.HEADER.size + xl_file.HEADER.unpack_from(data)[-1] + libxl.HEADER.size + 8 + LIBXC_HEADERS
        )
        found = cls(data[:at])
        while True:
            kind, length = struct.unpack_from("<II", data, at)
            found.records.append((kind, data[at + 8 : at + 8 + length]))
            at += 8 + length + -length % 8
            if kind == LibxcRecord.END:
                found.after = data[at : at + 8]
                return found

    def write(self, file: Path) -> Path:
        parts = [b"".join(map(bytes, framed(kind, [body]))) for kind, body in self.records]
        file.write_bytes(b"".join([self.before, *parts, self.after]))
        return file

    def places(self) -> Iterator[int]:
        """Where each record begins."""
        at = len(self.before)
        for _, body in self.records:
            yield at
            at += 8 + len(body) + -len(body) % 8

    def body(self, kind: LibxcRecord) -> bytes:
        """Of the first record of that type."""
        return next(body for found, body in self.records if found == kind)

    def number(self, kind: LibxcRecord) -> int:
        """Which record, from 1, is the first of that type."""
        return [found for found, _ in self.records].index(kind) + 1

    def altered(
        self, kind: LibxcRecord, change: Callable[[bytearray], bytes | bytearray | None]
    ) -> SavedFile:
        """The same with another body in the first record of that type: what `change` returns, or has made of it."""
        at = self.number(kind) - 1
        body = bytearray(self.records[at][1])
        new = change(body)
        records = list(self.records)
        records[at] = kind, bytes(body if new is None else new)
        return SavedFile(self.before, records, self.after)

    def without(self, kind: LibxcRecord) -> SavedFile:
        """The same without any record of that type."""
        return SavedFile(self.before, [r for r in self.records if r[0] != kind], self.after)

    def twice(self, kind: LibxcRecord) -> SavedFile:
        """The same with the first record of that type once more behind it."""
        at = self.number(kind)
        return SavedFile(
            self.before, [*self.records[:at], self.records[at - 1], *self.records[at:]], self.after
        )

    def moved(self, kind: LibxcRecord, before: LibxcRecord) -> SavedFile:
        """The same with all records of that type before the first of another."""
        ours = [r for r in self.records if r[0] == kind]
        others = [r for r in self.records if r[0] != kind]
        at = [found for found, _ in others].index(before)
        return SavedFile(self.before, [*others[:at], *ours, *others[at:]], self.after)
