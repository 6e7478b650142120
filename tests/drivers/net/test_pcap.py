"""Capture files: what any reader of the format finds in them."""

import io
import struct

from drivers.net.pcap import SNAPLEN, PcapWriter


def records(data: bytes) -> list[tuple[int, int, bytes]]:
    """(time, original length, bytes) of each record."""
    assert struct.unpack_from("<IHHiIII", data) == (0xA1B23C4D, 2, 4, 0, 0, 65535, 1)
    found, at = [], 24
    while at < len(data):
        seconds, nanoseconds, stored, original = struct.unpack_from("<IIII", data, at)
        found.append((seconds * 10**9 + nanoseconds, original, data[at + 16 : at + 16 + stored]))
        at += 16 + stored
    return found


def test_what_is_recorded_is_read_back() -> None:
    file = io.BytesIO()
    writer = PcapWriter(file)
    writer.record(1_700_000_000_123_456_789, b"first frame")
    writer.record(1_700_000_001_000_000_000, bytes(SNAPLEN + 10))
    assert records(file.getvalue()) == [
        (1_700_000_000_123_456_789, 11, b"first frame"),
        (1_700_000_001_000_000_000, SNAPLEN + 10, bytes(SNAPLEN)),
    ]


def test_a_full_capture_stays_readable_and_counts_what_it_dropped() -> None:
    file = io.BytesIO()
    writer = PcapWriter(file, limit=200)
    for _ in range(10):
        writer.record(0, bytes(50))
    assert len(records(file.getvalue())) == 2
    assert writer.dropped == 8
