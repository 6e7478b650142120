"""How the records of libxl's and libxc's streams lie behind one another, and how one is read and written.

    type u32 | body length u32 | body | 0 to 7 bytes of padding

A reader takes no more than a record of that type may have, and never a record that it does not know and may not pass over (bit 31
of its type). Source: docs/specs/libxl-migration-stream and libxc-migration-stream of Xen.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from domains.dom0.toolstack.stream.checksums import Altered
from domains.dom0.toolstack.stream.ends import Bytes, Sink, Source
from domains.dom0.toolstack.stream.errors import EndOfStream, StreamError
from domains.kernel.tasks import Task

HEADER: Final = struct.Struct("<II")
OPTIONAL: Final = 1 << 31
"""Of a type: who does not know it passes over the record."""
ALIGNMENT: Final = 8
SKIPPED_AT_ONCE: Final = 1 << 16


class Layer(NamedTuple):
    """One of the two formats: its name, the names of its types, and how many bytes the body of each may have."""

    name: str
    types: Mapping[int, str]
    most: Mapping[int, int]

    def name_of(self, kind: int) -> str:
        """What a type is called."""
        return self.types.get(kind, f"type {kind:#x}")


@dataclass(frozen=True, slots=True)
class Record:
    """A record that was read: which one it is, from 1, at which byte of the stream it begins, and its body, which is good until
    the next one is read.
    """

    layer: Layer
    number: int
    offset: int
    type: int
    body: Bytes

    @property
    def name(self) -> str:
        """What its type is called."""
        return self.layer.name_of(self.type)

    @property
    def bare(self) -> Record:
        """The same without its body: to tell which record it was, later."""
        return replace(self, body=b"")

    def wrong(self, why: str) -> StreamError:
        """The error to raise: what is wrong with this record."""
        return StreamError(
            f"{self.layer.name} record {self.number} ({self.name}, at byte {self.offset}): {why}"
        )

    def ends(self) -> EndOfStream:
        """The error to raise: the stream ends before this record does."""
        return EndOfStream(str(self.wrong("the stream ends within it")))

    def need(self, right: bool, why: str) -> None:
        """Raises StreamError unless it is right."""
        if not right:
            raise self.wrong(why)

    def unpack(self, form: struct.Struct) -> tuple[int, ...]:
        """The numbers at the beginning of the body. StreamError: it is too short."""
        self.need(len(self.body) >= form.size, f"it has {len(self.body)} bytes, not {form.size} or more")
        return form.unpack_from(self.body)


class Counted:
    """A source, with how much of it was read."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.offset = 0

    def read(self, size: int) -> Task[Bytes]:
        """See Source."""
        data = yield from self._source.read(size)
        self.offset += size
        return data

    def header(self, form: struct.Struct, what: str) -> Task[tuple[int, ...]]:
        """The numbers of a header. StreamError: the stream ends within it."""
        try:
            return form.unpack((yield from self.read(form.size)))
        except EndOfStream:
            raise EndOfStream(f"{what} at byte {self.offset}: the stream ends within it") from None
        except Altered as altered:
            raise StreamError(f"{what} at byte {self.offset}: {altered}") from None


class RecordReader:
    """Reads the records of one layer; the other layer's may come between, from the same `Counted`."""

    def __init__(self, stream: Counted, layer: Layer) -> None:
        self._stream = stream
        self._layer = layer
        self._number = 0

    def next(self) -> Task[Record]:
        """The next record that is not to be passed over. Raises StreamError."""
        while True:
            record = yield from self._next()
            if record is not None:
                return record

    def _next(self) -> Task[Record | None]:
        """None: one that was passed over."""
        stream, layer, at = self._stream, self._layer, self._stream.offset
        self._number += 1
        name = f"{layer.name} record {self._number}"
        kind, length = yield from stream.header(HEADER, name)
        record = Record(layer, self._number, at, kind, b"")
        try:
            if kind not in layer.types:
                record.need(bool(kind & OPTIONAL), "there is no such record, and it may not be passed over")
                yield from self._skip(length + -length % ALIGNMENT)
                return None
            most = layer.most.get(kind, 0)
            record.need(length <= most, f"its length is {length}, and {most} at most for one of its type")
            body = yield from stream.read(length + -length % ALIGNMENT)
        except EndOfStream:
            raise record.ends() from None
        except Altered as altered:
            raise record.wrong(str(altered)) from None
        return Record(layer, self._number, at, kind, memoryview(body)[:length])

    def _skip(self, size: int) -> Task[None]:
        while size:
            part = min(size, SKIPPED_AT_ONCE)
            yield from self._stream.read(part)
            size -= part


class RecordWriter:
    """Writes records. `sparse`: each page comes once, so that pages which are zero may be left out."""

    def __init__(self, sink: Sink, *, sparse: bool = False) -> None:
        self._sink = sink
        self.sparse = sparse

    def raw(self, *parts: Bytes) -> Task[None]:
        """Bytes that are no record: a header."""
        return self._sink.write(parts)

    def write(self, kind: int, *parts: Bytes) -> Task[None]:
        """One record, whose body are these parts, of bytes each."""
        return self._sink.write(framed(kind, parts))


def framed(kind: int, parts: Sequence[Bytes]) -> list[Bytes]:
    """A record in pieces: header, body, padding."""
    length = sum(map(len, parts))
    padding = [bytes(-length % ALIGNMENT)] if length % ALIGNMENT else []
    return [HEADER.pack(kind, length), *parts, *padding]
