"""Disks on a real machine: Dom0 serves them, a guest in a process of its own uses them."""

import hashlib
import os
import re
import signal
import subprocess
import zlib
from pathlib import Path

import pytest

from tests.machines import Machine, wait_until

MIB = 1 << 20

OPEN = """
import hashlib
import os
import zlib
from drivers.block.front import BlockFront
from drivers.block.protocol import BlockError

def disks(kernel):
    found = []
    for device in sorted(kernel.xenbus.directory("device/vbd"), key=int):
        found.append(BlockFront(kernel, f"device/vbd/{device}"))
        found[-1].connect()
    return found
"""


def disk_line(*images: Path, access: str = "rw") -> str:
    names = "abcdefgh"
    lines = [f"'format=raw, vdev=xvd{names[i]}, access={access}, target={p}'" for i, p in enumerate(images)]
    return f"disk = [{', '.join(lines)}]"


def said(machine: Machine, name: str) -> str | None:
    """What the guest has written into its node data/`name`."""
    listing = machine.xenctl("xenstore-ls").stdout
    found = re.search(rf'^ *{name} = "(.*)"$', listing, re.MULTILINE)
    return found and found[1]


def random_image(path: Path, size: int) -> str:
    """Fill `path`; its SHA-256."""
    block = os.urandom(MIB)
    with path.open("wb") as file:
        for number in range(size // MIB):
            file.write(number.to_bytes(8, "little") + block[8:])
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_guest_reads_a_disk_of_64_mib_with_the_right_sum(clean_machine: Machine, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    expected = random_image(image, 64 * MIB)
    body = (
        OPEN
        + """
class Probe(Guest):
    def main(self):
        disk, = disks(self.kernel)
        sum = hashlib.sha256()
        for sector in range(0, disk.sectors, 8192):
            sum.update(disk.read(sector, min(8192, disk.sectors - sector)))
        print("read", disk.sectors * 512, sum.hexdigest())
"""
    )
    done = clean_machine.guest(tmp_path, body, "-c", extra=f"{disk_line(image, access='ro')}")
    assert f"read {64 * MIB} {expected}" in done.stdout, done.stdout + done.stderr


def test_what_a_guest_wrote_is_in_the_file_after_a_flush(clean_machine: Machine, tmp_path: Path) -> None:
    """The guest is still running when the file is compared: the flush alone made it so."""
    image = tmp_path / "disk.img"
    random_image(image, 4 * MIB)
    body = (
        OPEN
        + """
class Probe(Guest):
    def main(self):
        disk, = disks(self.kernel)
        data = os.urandom(3 * 1024 * 1024 + 512)
        disk.write(5, data)
        disk.flush()
        self.kernel.xenbus.write("data/wrote", str(zlib.crc32(data)))
        self.kernel.sleep(600)
"""
    )
    before = image.read_bytes()
    clean_machine.guest(tmp_path, body, extra=f"{disk_line(image)}")
    written = int(wait_until(lambda: said(clean_machine, "wrote"), 30, "the guest's flush"))
    after = image.read_bytes()
    end = 5 * 512 + 3 * MIB + 512
    assert written == zlib.crc32(after[5 * 512 : end])
    assert after[: 5 * 512] + after[end:] == before[: 5 * 512] + before[end:]
    clean_machine.xenctl("destroy", "guest")


def test_a_disk_discards_unless_its_description_says_no(clean_machine: Machine, tmp_path: Path) -> None:
    """xl-disk-configuration(5): `no-discard`; a disk that cannot be written cannot discard."""
    images = [tmp_path / name for name in "abc"]
    for image in images:
        image.write_bytes(bytes(4096))
    body = "class Probe(Guest):\n    def main(self):\n        self.kernel.sleep(600)\n"
    a, b, c = images
    disks = f"disk = ['{a},,xvda', '{b},,xvdb,w,no-discard', '{c},,xvdc,r,discard']"
    assert clean_machine.guest(tmp_path, body, extra=disks).returncode == 0
    listing = clean_machine.xenctl("xenstore-ls").stdout
    assert re.findall(r'feature-discard = "(.)"', listing) == ["1", "0", "0"]
    clean_machine.end_domains()


@pytest.mark.parametrize(
    ("size", "returns", "what"),
    [(511, 1, "has 511 bytes, less than a sector"), (0, 1, "has 0 bytes"), (1030, 0, "the last 6 bytes")],
)
def test_an_image_that_is_no_whole_sectors_is_told(
    clean_machine: Machine, tmp_path: Path, size: int, returns: int, what: str
) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(size))
    body = "class Probe(Guest):\n    def main(self):\n        self.kernel.sleep(600)\n"
    done = clean_machine.guest(tmp_path, body, extra=disk_line(image))
    assert done.returncode == returns
    (line,) = done.stderr.splitlines()
    assert what in line
    clean_machine.end_domains()


@pytest.mark.needs_e2fsprogs
def test_an_ext4_image_copied_from_disk_to_disk_is_sound(clean_machine: Machine, tmp_path: Path) -> None:
    source, target = tmp_path / "source.img", tmp_path / "target.img"
    for image in (source, target):
        image.touch()
        os.truncate(image, 16 * MIB)
    files = tmp_path / "files"
    files.mkdir()
    for number in range(40):
        (files / f"file{number}").write_bytes(os.urandom(number * 1000))
    subprocess.run(["mkfs.ext4", "-q", "-d", files, source], check=True)
    body = (
        OPEN
        + """
class Probe(Guest):
    def main(self):
        source, target = disks(self.kernel)
        left = [0]
        def written(status, data):
            assert status == 0
            left[0] -= 1
        for sector in range(0, source.sectors, 8):
            def read(status, data, at=sector):
                assert status == 0
                target.submit_write(at, data, written)
            left[0] += 1
            source.submit_read(sector, 8, read)
        self.kernel.wait(lambda: not left[0])
        target.flush()
        print("copied", source.sectors)
"""
    )
    done = clean_machine.guest(tmp_path, body, "-c", extra=f"{disk_line(source, target)}")
    assert f"copied {16 * MIB // 512}" in done.stdout, done.stdout + done.stderr
    assert target.read_bytes() == source.read_bytes()
    checked = subprocess.run(["e2fsck", "-fn", target], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


BUSY = (
    OPEN
    + """
class Probe(Guest):
    def main(self):
        disk, = disks(self.kernel)
        def again(status, data):
            disk.submit_write(0, bytes(65536), again)
        for _ in range(8):
            again(0, b"")
        self.kernel.sleep(0.2)
        self.kernel.xenbus.write("data/busy", "yes")
        self.kernel.sleep(600)
"""
)


def test_a_guest_killed_during_its_requests_leaves_nothing(clean_machine: Machine, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    random_image(image, MIB)
    for attempt in range(3):
        name = f"guest{attempt}"
        created = clean_machine.guest(tmp_path, BUSY, name=name, extra=f"{disk_line(image)}")
        assert created.returncode == 0, created.stderr
        wait_until(lambda: said(clean_machine, "busy"), 30, "a busy guest")
        os.kill(int(clean_machine.domain(name)["pid"]), signal.SIGKILL)
        wait_until(clean_machine.census_is_clean, 15, "a clean census")


def test_a_disk_in_use_is_refused_to_a_second_guest(clean_machine: Machine, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    random_image(image, MIB)
    extra = disk_line(image)
    assert clean_machine.guest(tmp_path, BUSY, name="first", extra=extra).returncode == 0
    second = clean_machine.guest(tmp_path, BUSY, name="second", extra=extra)
    assert second.returncode != 0
    assert "in use" in second.stderr
    clean_machine.xenctl("destroy", "first")
    wait_until(clean_machine.census_is_clean, 15, "a clean census")
    assert clean_machine.guest(tmp_path, BUSY, name="third", extra=extra).returncode == 0
    clean_machine.xenctl("destroy", "third")
