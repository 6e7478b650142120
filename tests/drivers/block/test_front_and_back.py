"""Block front and block back against each other: what is written is read, whatever comes in between."""

import os
from pathlib import Path

import pytest

from drivers.block.front import BlockFront
from drivers.block.protocol import SECTOR_SIZE
from tests.drivers.block.disk import Disks

MIB = 1 << 20


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(os.urandom(3 * MIB))
    return path


def connected(disks: Disks, image: Path, mode: str = "w", domid: int = 1) -> BlockFront:
    guest = disks.guest(domid)
    front = BlockFront(guest, disks.attach(guest, image, mode))
    front.connect()
    return front


def test_a_guest_reads_what_the_image_holds(image: Path) -> None:
    front = connected(Disks(), image)
    assert front.sectors == 3 * MIB // SECTOR_SIZE
    assert front.read(0, front.sectors) == image.read_bytes()
    assert front.read(3, 17) == image.read_bytes()[3 * 512 : 20 * 512]


def test_what_a_guest_writes_is_in_the_image_after_a_flush(image: Path) -> None:
    front = connected(Disks(), image)
    data = os.urandom(2 * MIB + 512)
    front.write(7, data)
    front.flush()
    assert image.read_bytes()[7 * 512 : 7 * 512 + len(data)] == data
    assert front.read(7, len(data) // 512) == data
