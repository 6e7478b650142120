"""A disk over an image reads as a plain copy would, whatever is written to it in which order, and leaves the image alone."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from drivers.block.overlay import CHUNK, CHUNK_SIZE, Overlay, OverlayImage, Overlays
from drivers.block.protocol import SECTOR_SIZE

SECTORS = 8 * CHUNK + 3
"""So that the last chunk is no whole one."""


class Disk:
    """One disk, and what it should read as."""

    def __init__(self, folder: Path) -> None:
        self.content = bytearray(random.randbytes(SECTORS * SECTOR_SIZE))
        self.image = folder / "image"
        self.image.write_bytes(self.content)
        self.original = bytes(self.content)
        own = os.open(folder, os.O_TMPFILE | os.O_RDWR)
        self.overlays = Overlays()
        self.number = self.overlays.add(lambda: Overlay(os.open(self.image, os.O_RDONLY), own, str(folder)))
        self.front = self.overlays.image(str(self.number), "w")

    def write(self, sector: int, count: int) -> None:
        data = random.randbytes(count * SECTOR_SIZE)
        self.front.write(sector, in_pieces(bytearray(data)), len(data))
        self.content[sector * SECTOR_SIZE : (sector + count) * SECTOR_SIZE] = data

    def read(self, sector: int, count: int) -> bytes:
        buffer = bytearray(count * SECTOR_SIZE)
        if random.random() < 0.5 or not self.front.read_at_once(sector, in_pieces(buffer), len(buffer)):
            self.front.read(sector, in_pieces(buffer), len(buffer))
        return bytes(buffer)

    def expected(self, sector: int, count: int) -> bytes:
        return bytes(self.content[sector * SECTOR_SIZE : (sector + count) * SECTOR_SIZE])


def in_pieces(buffer: bytearray) -> list[memoryview]:
    """As a guest's segments are: of a page at most, the first one shorter."""
    view, first = memoryview(buffer), random.randrange(1, 9) * SECTOR_SIZE
    return [view[:first], *(view[at : at + 4096] for at in range(first, len(view), 4096))]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path)
    yield disk
    assert disk.image.read_bytes() == disk.original
    disk.front.close()
    disk.overlays.close(disk.number)
    assert disk.overlays.get(disk.number) is None


def test_it_reads_as_a_copy_would(disk: Disk) -> None:
    for _ in range(600):
        sector = random.randrange(SECTORS)
        count = random.randint(1, min(SECTORS - sector, 3 * CHUNK))
        disk.write(sector, count) if random.random() < 0.4 else None
        assert disk.read(sector, count) == disk.expected(sector, count)
    assert disk.read(0, SECTORS) == disk.expected(0, SECTORS)


def test_it_takes_no_room_for_what_was_not_written(disk: Disk) -> None:
    overlay = disk.overlays.get(disk.number)
    assert overlay is not None
    assert os.fstat(overlay.own).st_blocks == 0
    disk.write(CHUNK + 1, 2)
    assert os.fstat(overlay.own).st_blocks * 512 <= 2 * CHUNK_SIZE
    assert overlay.written.tolist() == [False, True, *[False] * 7]


def test_discarded_chunks_read_as_zeros_and_the_others_as_they_were(disk: Disk) -> None:
    disk.front.discard(
        CHUNK - 1, CHUNK + 2
    )  # the end of the first chunk, the second, and the third's first sector
    zeros = bytes(CHUNK_SIZE)
    disk.content[CHUNK_SIZE : 2 * CHUNK_SIZE] = zeros
    assert disk.read(0, SECTORS) == disk.expected(0, SECTORS)


def test_it_is_there_again_after_its_device(disk: Disk) -> None:
    disk.write(0, 1)
    with pytest.raises(OSError, match="in use"):
        disk.overlays.image(str(disk.number), "r")
    disk.front.close()
    disk.front = disk.overlays.image(str(disk.number), "w")
    assert disk.read(0, 2) == disk.expected(0, 2)


@pytest.mark.parametrize("number", ["0", "99", "-1", "", "/etc/passwd", "1" * 40, "²"])
def test_there_is_no_other(disk: Disk, number: str) -> None:
    with pytest.raises(OSError, match="no fork's disk"):
        disk.overlays.image(number, "w")


def test_a_read_past_the_end_is_refused(disk: Disk) -> None:
    with pytest.raises(OSError, match="ends"):
        OverlayImage.read(disk.front, SECTORS - 1, [memoryview(bytearray(1024))], 1024)
