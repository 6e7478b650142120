"""Which disks a snapshot can keep, and that a copy of an image is what the image was, holes and all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from domains.control.description import Disk, DomainConfig
from domains.dom0.toolstack.errors import ToolstackError
from domains.dom0.toolstack.snapshots.disks import check, copy_image, copy_written, data_of
from domains.dom0.toolstack.snapshots.kept import nameless
from drivers.block.overlay import CHUNK_SIZE, Overlay, OverlayImage

SIZE = 8 << 20


def config(disk: Disk) -> DomainConfig:
    return DomainConfig(name="web", kernel="/kernel", memory=16, disks=(disk,))


@pytest.mark.parametrize(
    "disk",
    [
        Disk("/x.img", "xvda"),
        Disk("/x.img", "xvda", "qcow2", writable=False),
        Disk("/x.img", "xvda", "raw", writable=False, backend="drivers"),
        Disk("3", "xvda", "overlay"),
    ],
)
def test_what_can_be_kept(disk: Disk) -> None:
    check(config(disk))


@pytest.mark.parametrize(
    ("disk", "why"),
    [
        (Disk("/x.img", "xvda", "qcow2"), "disk xvda is an image of format qcow2"),
        (Disk("/x.img", "xvdb", "raw", backend="drivers"), "disk xvdb is served by driver domain drivers"),
    ],
)
def test_what_cannot(disk: Disk, why: str) -> None:
    with pytest.raises(ToolstackError, match=why):
        check(config(disk))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Data, a hole, data at an odd place, a hole up to the end."""
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.write(os.urandom(100_000))
        file.seek(5 << 20)
        file.write(os.urandom(70_001))
        file.truncate(SIZE + 77)
    return path


def content(fd: int) -> bytes:
    return os.pread(fd, 2 * SIZE, 0)


def test_a_copy_is_what_the_image_was(image: Path, tmp_path: Path) -> None:
    copy, before = nameless(str(tmp_path)), image.read_bytes()
    copy_image(str(image), copy)
    with image.open("r+b") as file:
        file.write(bytes(4096))
    assert content(copy) == before
    assert os.fstat(copy).st_blocks <= image.stat().st_blocks
    os.close(copy)
    assert os.listdir(tmp_path) == ["image"]


def test_a_file_is_gone_through_by_its_data(image: Path) -> None:
    fd = os.open(image, os.O_RDONLY)
    found = list(data_of(fd, os.fstat(fd).st_size))
    os.close(fd)
    assert found[0][0] == 0
    assert sum(end - start for start, end in found) <= SIZE + 77


def test_a_copy_of_an_overlay_has_what_was_written(image: Path, tmp_path: Path) -> None:
    overlay = Overlay(os.open(image, os.O_RDONLY), nameless(str(tmp_path)), str(tmp_path))
    front, expected = OverlayImage(overlay, "w"), bytearray(image.read_bytes())
    for sector, count in ((0, 1), (19, 30), (9000, 64), (SIZE // 512 - 3, 3)):
        data = os.urandom(count * 512)
        front.write(sector, [memoryview(data)], len(data))
        expected[sector * 512 : sector * 512 + len(data)] = data
    front.discard(4096, CHUNK_SIZE // 512)
    expected[4096 * 512 : 4096 * 512 + CHUNK_SIZE] = bytes(CHUNK_SIZE)
    copy = nameless(str(tmp_path))
    copy_image(f"/proc/self/fd/{overlay.below}", copy)
    copy_written(overlay, copy)
    assert content(copy) == expected
    front.close()
    overlay.close()
    os.close(copy)


def test_a_folder_that_takes_no_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        nameless(str(tmp_path / "nowhere"))
