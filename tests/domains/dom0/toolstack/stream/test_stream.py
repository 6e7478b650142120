"""Xen's streams as data: what is written is read again, and whatever else comes is one line that names the record at fault.

Negative control: without the checks of lengths in page_data.unpack the altered streams raise ValueError from numpy, and the
test of them fails.
"""

from __future__ import annotations

import random
import struct
from contextlib import suppress

import numpy as np
import pytest

from domains.dom0.toolstack.stream import libxc, libxl, xl_file
from domains.dom0.toolstack.stream.errors import EndOfStream, StreamError
from domains.dom0.toolstack.stream.framing import OPTIONAL, framed
from domains.dom0.toolstack.stream.libxc import LibxcRecord
from domains.dom0.toolstack.stream.page_data import PageData
from domains.dom0.toolstack.stream.pv_records import P2mFrames, TscInfo, VcpuBlob
from tests.domains.dom0.toolstack.stream.streams import DESCRIPTION, PAGES, PFNS, TYPES, read, small_stream

ALTERED = 3000
"""Streams with some bytes altered; each takes a millisecond."""


@pytest.fixture(scope="module")
def stream() -> bytes:
    return small_stream()


def place(stream: bytes, kind: LibxcRecord) -> int:
    """Where the only record of that type with a body begins."""
    at = stream.index(libxc.headers(libxc.GuestKind.X86_PV, 4, 17)) + 40
    while True:
        found, length = struct.unpack_from("<II", stream, at)
        if found == kind:
            return at
        at += 8 + length + -length % 8


def with_record(
    stream: bytes, kind: int, body: bytes, before: LibxcRecord = LibxcRecord.X86_TSC_INFO
) -> bytes:
    at = place(stream, before)
    return stream[:at] + b"".join(framed(kind, [body])) + stream[at:]


def refused(stream: bytes) -> str:
    with pytest.raises(StreamError) as caught:
        read(stream)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_what_is_written_is_read(stream: bytes) -> None:
    found = dict(read(stream))
    assert found["xl"] == DESCRIPTION
    assert found["libxc"] == (libxc.GuestKind.X86_PV, 4, 17)
    data, frames = found["PAGE_DATA"], found["X86_PV_P2M_FRAMES"]
    assert isinstance(data, PageData)
    assert isinstance(frames, P2mFrames)
    for got, wanted in zip(data, (PFNS, TYPES, PAGES), strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert (frames.start, frames.end, frames.pfns.tolist()) == (0, 1023, [3, 4])
    assert found["X86_TSC_INFO"] == TscInfo(0, 1_000_000, 5, 1)
    assert found["X86_PV_VCPU_EXTENDED"] == VcpuBlob(1, b"odd")
    assert found["X86_PV_INFO"] == 8


def test_a_stream_that_is_cut_anywhere_ends_within_what_is_named(stream: bytes) -> None:
    for end in range(0, len(stream), 7):
        with pytest.raises(EndOfStream, match=r"ends within it$"):
            read(stream[:end])


def test_altered_bytes_give_one_line_or_another_stream(stream: bytes) -> None:
    chance = random.Random(1)
    heads = [at for at in range(len(stream)) if not 1000 < at < 20000]
    for _ in range(ALTERED):
        altered = bytearray(stream)
        for _ in range(chance.choice((1, 1, 2, 8))):
            altered[chance.choice(heads)] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        with suppress(StreamError):
            read(bytes(altered))


@pytest.mark.parametrize(
    ("form", "values", "says"),
    [
        (libxl.HEADER, (libxl.IDENT + 1, 2, 0), "LibxlFmt"),
        (libxl.HEADER, (libxl.IDENT, 1, 0), "version 1, and not 2"),
        (libxl.HEADER, (libxl.IDENT, 2, libxl.BIG_ENDIAN), "big-endian"),
        (libxl.HEADER, (libxl.IDENT, 2, libxl.LEGACY), "Xen 4.5"),
        (libxc.IMAGE_HEADER, (libxc.MARKER, 0, 3, 0, 0, 0), "it is none"),
        (libxc.IMAGE_HEADER, (libxc.MARKER, libxc.ID, 2, 0, 0, 0), "version 2, and not 3"),
        (libxc.IMAGE_HEADER, (libxc.MARKER, libxc.ID, 3, 1, 0, 0), "big-endian"),
        (libxc.DOMAIN_HEADER, (7, 12, 0, 4, 17), "no domain of type 7"),
        (libxc.DOMAIN_HEADER, (1, 14, 0, 4, 17), "2\\^14 bytes"),
    ],
)
def test_headers_of_other_streams_are_refused(
    stream: bytes, form: struct.Struct, values: tuple[int, ...], says: str
) -> None:
    right = {
        libxl.HEADER: libxl.header(),
        libxc.IMAGE_HEADER: libxc.headers(libxc.GuestKind.X86_PV, 4, 17)[:24],
        libxc.DOMAIN_HEADER: libxc.headers(libxc.GuestKind.X86_PV, 4, 17)[24:],
    }[form]
    altered = stream.replace(right, form.pack(*values), 1)
    assert altered != stream
    with pytest.raises(StreamError, match=says):
        read(altered)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ((b"Linux guest record", xl_file.BYTE_ORDER, 3, 0, 0), "no saved domain"),
        ((xl_file.MAGIC, 0x04030201, 3, 0, 0), "big-endian"),
        ((xl_file.MAGIC, xl_file.BYTE_ORDER, 7, 0, 0), "flags 0x4"),
        ((xl_file.MAGIC, xl_file.BYTE_ORDER, 1, 0, 0), "Xen 4.5"),
        ((xl_file.MAGIC, xl_file.BYTE_ORDER, 3, 0, 1 << 31), "a description of 2147483648 bytes"),
    ],
)
def test_xl_headers_of_others_are_refused(values: tuple[object, ...], says: str) -> None:
    assert says in refused(xl_file.HEADER.pack(*values) + bytes(64))


@pytest.mark.parametrize(
    "text",
    [b"{", b"\xff", b"[" * 100_000, b'{"xenoscope": "\\ud800"}', b"1" * 5000],
    ids=["cut", "no text", "deep", "half a letter", "large"],
)
def test_a_description_that_is_none_is_refused(text: bytes) -> None:
    rest = xl_file.LENGTH.pack(len(text)) + text
    header = xl_file.HEADER.pack(xl_file.MAGIC, xl_file.BYTE_ORDER, 3, 0, len(rest))
    assert "its description is no JSON" in refused(header + rest)


def test_an_unknown_record_may_be_passed_over_only_if_it_says_so(stream: bytes) -> None:
    names = [name for name, _ in read(stream)]
    assert [name for name, _ in read(with_record(stream, OPTIONAL | 5, bytes(100_001)))] == names
    assert "(type 0x13, at byte" in refused(with_record(stream, 0x13, b""))


@pytest.mark.parametrize(
    ("kind", "body", "says"),
    [
        (LibxcRecord.X86_PV_INFO, struct.pack("<BBHI", 8, 3, 0, 0), "64 bits with page tables of 3 levels"),
        (LibxcRecord.X86_PV_INFO, b"\x08\x04", "it has 2 bytes"),
        (LibxcRecord.X86_PV_P2M_FRAMES, struct.pack("<II", 5, 4), "pages 0x5 to 0x4"),
        (LibxcRecord.X86_PV_P2M_FRAMES, struct.pack("<IIQ", 0, 0xFFFFFFFF, 1), "not 67108872"),
        (LibxcRecord.PAGE_DATA, struct.pack("<II", 0, 0), "no pages"),
        (LibxcRecord.PAGE_DATA, struct.pack("<IIQ", 0xFFFFFFFF, 0, 0), "do not fit"),
        (LibxcRecord.PAGE_DATA, struct.pack("<IIQ", 1, 0, 5), "have content"),
        (LibxcRecord.PAGE_DATA, struct.pack("<IIQ", 1, 0, 5 << 60 | 0x77), "page 0x77 is of type 0x5"),
        (LibxcRecord.PAGE_DATA, struct.pack("<IIQQ", 2, 0, 0xE << 60 | 9, 0xF << 60 | 9), "a page twice"),
        (LibxcRecord.X86_TSC_INFO, bytes(20), "it has 20 bytes, not 24"),
        (LibxcRecord.X86_PV_VCPU_BASIC, struct.pack("<II", 2, 0), "vCPU 2 of a domain of 2"),
        (LibxcRecord.STATIC_DATA_END, b"x", "its length is 1, and 0 at most"),
        (LibxcRecord.TOOLSTACK, b"x", "its length is 1, and 0 at most"),
        (LibxcRecord.SHARED_INFO, bytes(4097), "its length is 4097"),
    ],
)
def test_records_that_lie_are_named(stream: bytes, kind: LibxcRecord, body: bytes, says: str) -> None:
    text = refused(with_record(stream, kind, body))
    assert f"({kind.name}, at byte {place(stream, LibxcRecord.X86_TSC_INFO)})" in text
    assert says in text
