"""Linux' bzImage: a boot header, and in it the kernel's ELF file, compressed.

    0x1f1  setup_sects       512-byte sectors of real-mode code behind the first; 0 stands for 4
    0x1fe  0xaa55
    0x202  "HdrS"
    0x206  version           0x0208 is the first with a payload offset
    0x248  payload_offset    bytes from the protected-mode code, which follows the sectors
    0x24c  payload_length

Source: Linux Documentation/arch/x86/boot.rst. Every packer is a library's; what comes out is bounded by the
memory of the domain that it is for, and by MAX_UNPACKED.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Final

from domains.dom0.toolstack.errors import ToolstackError

SECTOR: Final = 512
MIN_VERSION: Final = 0x0208
MAX_UNPACKED: Final = 1 << 30
"""Bytes that a payload may grow to."""

CHUNK: Final = 4096
"""Bytes unpacked at once; a hostile one grows some 30000 times."""

LZ4_LEGACY_BLOCK: Final = 8 << 20
"""Bytes one block of an lz4 legacy file unpacks to, at most."""


class Damaged(Exception):
    """The packed data is damaged."""


class TooLarge(Exception):
    """The data unpacks to more than the domain has room for, or than any kernel has."""


def is_bzimage(data: bytes) -> bool:
    """Whether the file has a bzImage's boot header."""
    return len(data) >= 0x250 and data[0x1FE:0x200] == b"\x55\xaa" and data[0x202:0x206] == b"HdrS"


def payload_of(data: bytes, name: str, most: int = MAX_UNPACKED) -> bytes:
    """The unpacked payload of a bzImage, `most` bytes; `name` is for messages. Raises ToolstackError."""

    def number(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], "little")

    if number(0x206, 2) < MIN_VERSION:
        raise ToolstackError(f"kernel {name}: a bzImage older than Linux 2.6.26, which has no PV payload")
    start = ((data[0x1F1] or 4) + 1) * SECTOR + number(0x248, 4)
    length = number(0x24C, 4)
    if not length or start + length > len(data):
        raise ToolstackError(f"kernel {name}: its payload reaches beyond the end of the file")
    return unpack(data[start : start + length], name, most)


def packed_as(data: bytes) -> str | None:
    """The name of the packer whose mark `data` begins with."""
    return next((packer for packer, (mark, _) in PACKERS.items() if data.startswith(mark)), None)


def unpack(data: bytes, name: str, most: int = MAX_UNPACKED) -> bytes:
    """`data` unpacked by what its first bytes name, to `most` bytes; as it is if it is an ELF file. Raises
    ToolstackError.
    """
    if data.startswith(b"\x7fELF"):
        return data
    packer = packed_as(data)
    if packer is None:
        raise ToolstackError(f"kernel {name}: packed in an unknown way (it begins with {data[:4].hex()})")
    try:
        return PACKERS[packer][1](data, min(most, MAX_UNPACKED))
    except Damaged as error:
        raise ToolstackError(f"kernel {name}: its {packer} payload is damaged ({error})") from None
    except TooLarge as error:
        raise ToolstackError(f"kernel {name}: {error}, which is more than fits") from None


def unpack_gzip(data: bytes, most: int) -> bytes:
    """At most `most` bytes. Damaged: no gzip. TooLarge."""
    unpacker = zlib.decompressobj(wbits=31)
    try:
        return whole(unpacker.decompress(data, most + 1), unpacker.eof, most)
    except zlib.error as error:
        raise Damaged(error) from None


def unpack_bzip2(data: bytes, most: int) -> bytes:
    """At most `most` bytes. Damaged: no bzip2. TooLarge."""
    unpacker = bz2.BZ2Decompressor()
    try:
        return whole(unpacker.decompress(data, most + 1), unpacker.eof, most)
    except OSError as error:
        raise Damaged(error) from None


def unpack_lzma(data: bytes, most: int) -> bytes:
    """xz and the older lzma format."""
    unpacker = lzma.LZMADecompressor(memlimit=MAX_UNPACKED)
    try:
        return whole(unpacker.decompress(data, most + 1), unpacker.eof, most)
    except lzma.LZMAError as error:
        raise Damaged(error) from None


def unpack_lz4(data: bytes, most: int) -> bytes:
    """lz4's legacy format: a magic number, then blocks, each with its packed length before it.

    Linux puts the unpacked length behind the last block, where it looks like one more block that does not
    fit.
    """
    from lz4.block import LZ4BlockError, decompress  # type: ignore[attr-defined]

    out, at = bytearray(), 4
    while at + 4 <= len(data) and len(out) <= most:
        length = int.from_bytes(data[at : at + 4], "little")
        at += 4
        if not 0 < length <= len(data) - at:
            break
        try:
            out += decompress(data[at : at + length], uncompressed_size=LZ4_LEGACY_BLOCK)
        except LZ4BlockError as error:
            raise Damaged(error) from None
        at += length
    return whole(bytes(out), True, most)


def unpack_zstd(data: bytes, most: int) -> bytes:
    """At most `most` bytes. Damaged: no zstd. TooLarge."""
    import zstandard

    unpacker = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj()
    out = bytearray()
    try:
        for at in range(0, len(data), CHUNK):
            if unpacker.eof or len(out) > most:
                break
            out += unpacker.decompress(data[at : at + CHUNK])
    except zstandard.ZstdError as error:
        raise Damaged(error) from None
    return whole(bytes(out), unpacker.eof, most)


def whole(data: bytes, ended: bool, most: int) -> bytes:
    """`data`, if it is not too long and its packer saw the end of it."""
    if len(data) > most:
        raise TooLarge(f"it unpacks to more than {most >> 20} MiB")
    if not ended:
        raise Damaged("it is cut off")
    return data


PACKERS: Final[dict[str, tuple[bytes, Callable[[bytes, int], bytes]]]] = {
    "gzip": (b"\x1f\x8b", unpack_gzip),
    "bzip2": (b"BZh", unpack_bzip2),
    "lzma": (b"\x5d\x00\x00", unpack_lzma),
    "xz": (b"\xfd7zXZ\x00", unpack_lzma),
    "lz4": (b"\x02\x21\x4c\x18", unpack_lz4),
    "zstd": (b"\x28\xb5\x2f\xfd", unpack_zstd),
}
