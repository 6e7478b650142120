"""Writes frames into a pcap file, for Wireshark and tcpdump.

    file header ─ (record header ─ frame) ─ (record header ─ frame) ─ …

Format: draft-ietf-opsawg-pcap, with timestamps in nanoseconds, little-endian, link type Ethernet.
"""

from typing import BinaryIO, Final

from hypervisor.public.layout import Struct, u16, u32

MAGIC_NANOSECONDS: Final = 0xA1B23C4D
LINKTYPE_ETHERNET: Final = 1
SNAPLEN: Final = 65535


class pcap_file_header(Struct, size=24):
    """The beginning of a file."""

    magic: u32
    version_major: u16
    version_minor: u16
    thiszone: u32
    sigfigs: u32
    snaplen: u32  # longest piece of a frame that is stored, in bytes
    linktype: u32


class pcap_record_header(Struct, size=16):
    """What stands before each frame."""

    seconds: u32
    nanoseconds: u32
    incl_len: u32  # bytes stored
    orig_len: u32  # bytes the frame had


class PcapWriter:
    """`file` gets the header at once. `limit` bounds its size in bytes: what comes after is counted, not
    written.
    """

    def __init__(self, file: BinaryIO, limit: int = 1 << 30) -> None:
        self._file = file
        self._left = limit
        self.dropped = 0
        header = pcap_file_header(
            magic=MAGIC_NANOSECONDS,
            version_major=2,
            version_minor=4,
            snaplen=SNAPLEN,
            linktype=LINKTYPE_ETHERNET,
        )
        self._write(header.pack())

    def record(self, time_ns: int, frame: bytes) -> None:
        """One frame, at `time_ns` nanoseconds since 1970."""
        seconds, nanoseconds = divmod(time_ns, 10**9)
        data = frame[:SNAPLEN]
        header = pcap_record_header(
            seconds=seconds & 0xFFFF_FFFF, nanoseconds=nanoseconds, incl_len=len(data), orig_len=len(frame)
        )
        if pcap_record_header.sizeof + len(data) > self._left:
            self.dropped += 1
            return
        self._write(header.pack() + data)

    def flush(self) -> None:
        """Have readers see what was recorded."""
        self._file.flush()

    def _write(self, data: bytes) -> None:
        self._left -= len(data)
        self._file.write(data)
