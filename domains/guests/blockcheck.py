"""A guest that checks its disk: reads it all, writes a pattern over it, and reads that back.

Prints the sum of what it found first, so that whoever gave it an image can compare. `extra = "keep"` leaves
the disk as it is.
"""

import zlib
from typing import Final

from domains.kernel.guest import Guest
from drivers.block.front import BlockFront
from drivers.block.protocol import SECTOR_SIZE

CHUNK: Final = 64
"""Sectors read or written at a time."""


class BlockCheck(Guest):
    """The guest. `keep` on its command line leaves the disk as it is."""

    def main(self) -> None:
        """Reads, writes and reads back; prints each result."""
        device = self.kernel.xenbus.directory("device/vbd")[0]
        self.disk = BlockFront(self.kernel, f"device/vbd/{device}")
        self.disk.connect()
        print(f"disk of {self.disk.sectors} sectors{', read-only' if self.disk.read_only else ''}")
        print(f"crc32 of what was there: {self.checksum():08x}")
        if not self.disk.read_only and self.kernel.cmdline != "keep":
            self.write_pattern()
            self.check_pattern()
            print("wrote and read back a pattern: all sectors right")
        self.disk.close()

    def chunks(self) -> list[tuple[int, int]]:
        """(first sector, count) of all pieces of the disk."""
        sectors = self.disk.sectors
        return [(first, min(CHUNK, sectors - first)) for first in range(0, sectors, CHUNK)]

    def checksum(self) -> int:
        """CRC-32 of the whole disk."""
        crc = 0
        for first, count in self.chunks():
            crc = zlib.crc32(self.disk.read(first, count), crc)
        return crc

    def pattern(self, first: int, count: int) -> bytes:
        """Each sector holds its own number, again and again."""
        return b"".join(
            sector.to_bytes(8, "little") * (SECTOR_SIZE // 8) for sector in range(first, first + count)
        )

    def write_pattern(self) -> None:
        """Writes every sector, and flushes."""
        for first, count in self.chunks():
            self.disk.write(first, self.pattern(first, count))
        self.disk.flush()

    def check_pattern(self) -> None:
        """Reads every sector; SystemError if one does not hold what was written."""
        for first, count in self.chunks():
            if self.disk.read(first, count) != self.pattern(first, count):
                raise SystemError(f"sectors {first} to {first + count - 1} do not hold what was written")
