"""Raw images with partition tables, for tests: a file system's image put behind an MBR or a GUID partition table."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

SECTOR = 512
START = 2048
"""First sector of the partition with the file system; before it lies a small one with nothing in it."""
SMALL = 64


def mbr(image: Path, filesystem: bytes, *, active: bool = True) -> None:
    """Two primary partitions; the second holds the file system."""
    table = bytearray(SECTOR)
    count = len(filesystem) // SECTOR
    struct.pack_into("<8BII", table, 446, 0, 0, 0, 0, 0x83, 0, 0, 0, SMALL, SMALL)
    struct.pack_into("<8BII", table, 462, 0x80 * active, 0, 0, 0, 0x83, 0, 0, 0, START, count)
    table[510:512] = b"\x55\xaa"
    image.write_bytes(bytes(table).ljust(START * SECTOR, b"\0") + filesystem)


def gpt(image: Path, filesystem: bytes) -> None:
    """The same with a GUID partition table, whose second copy is left out, as nobody here reads it."""
    protective = bytearray(SECTOR)
    struct.pack_into("<8BII", protective, 446, 0, 0, 0, 0, 0xEE, 0, 0, 0, 1, 0xFFFF_FFFF)
    protective[510:512] = b"\x55\xaa"
    end = START + len(filesystem) // SECTOR
    entries = b"".join(
        struct.pack("<16s16sQQQ72s", bytes([7] * 16), bytes([number + 1] * 16), first, last, 0, b"")
        for number, (first, last) in enumerate([(SMALL, 2 * SMALL - 1), (START, end - 1)])
    ).ljust(128 * 128, b"\0")
    header = struct.pack(
        "<8sIIIIQQQQ16sQIII",
        b"EFI PART",
        0x10000,
        92,
        0,
        0,
        1,
        end,
        34,
        end - 1,
        bytes([9] * 16),
        2,
        128,
        128,
        zlib.crc32(entries),
    )
    header = header[:16] + struct.pack("<I", zlib.crc32(header)) + header[20:]
    image.write_bytes(
        (bytes(protective) + header.ljust(SECTOR, b"\0") + entries).ljust(START * SECTOR, b"\0") + filesystem
    )
