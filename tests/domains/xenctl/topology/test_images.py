"""Disk images are made whole or not at all, with nothing that is there ever changed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from domains.control.protocol import ControlError
from domains.xenctl.topology.expand import Image
from domains.xenctl.topology.images import make_image

MIB = 1 << 20


def image(
    path: Path, size: int | None = None, copy_of: Path | None = None, filesystem: str | None = None
) -> Image:
    return Image(path, size, copy_of, filesystem, kept=False)


def test_an_image_of_a_size_takes_no_space(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "disk.img"
    assert make_image(image(path, 64 * MIB))
    assert path.stat().st_size == 64 * MIB
    assert path.stat().st_blocks * 512 < MIB


def test_a_copy_has_the_same_bytes_and_the_same_holes(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as file:
        for place in (3 * MIB, 10 * MIB, 30 * MIB):
            file.seek(place)
            file.write(os.urandom(100_000))
        file.truncate(40 * MIB)
    assert make_image(image(target, 50 * MIB, source))
    assert target.read_bytes() == source.read_bytes() + bytes(10 * MIB)
    assert target.stat().st_blocks <= source.stat().st_blocks + 64


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(b"precious")
    assert not make_image(image(path, 64 * MIB, filesystem="ext4"))
    assert path.read_bytes() == b"precious"


@pytest.mark.needs_e2fsprogs
def test_a_file_system_is_sound(tmp_path: Path) -> None:
    if shutil.which("mkfs.ext4", path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
        pytest.skip("e2fsprogs is not installed")
    path = tmp_path / "disk.img"
    make_image(image(path, 16 * MIB, filesystem="ext4"))
    checked = subprocess.run(["/sbin/e2fsck", "-fn", path], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_what_cannot_be_made_is_told_in_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(2 * MIB))
    (tmp_path / "file").touch()
    for wanted, why in (
        (image(tmp_path / "a", MIB, source), "more than its size"),
        (image(tmp_path / "b", None, tmp_path / "nothing"), "No such file"),
        (image(tmp_path / "c", 100, filesystem="ext4"), "mkfs.ext4"),
        (image(tmp_path / "file" / "d", MIB), "cannot make disk"),
    ):
        with pytest.raises(ControlError, match=why) as caught:
            make_image(wanted)
        assert "\n" not in str(caught.value)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "source"]
