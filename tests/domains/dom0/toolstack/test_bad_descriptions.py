"""Descriptions with mistakes and disks that fail, on a real machine: one clear line, an exit code, nothing left."""

from __future__ import annotations

import os
import re
import resource
from pathlib import Path

import pytest

from tests.machines import Machine, pids_of, wait_until

IDLE = 'name = "idle"\nkernel = "python:domains.guests.idle:Idle"\nmemory = 8\n'
FILLER = """
from drivers.block.front import BlockFront
from drivers.block.protocol import BlockError

class Probe(Guest):
    def main(self) -> None:
        store = self.kernel.xenbus
        disk = BlockFront(self.kernel, "device/vbd/51712")
        disk.connect()
        disk.write(0, b"a" * 512)
        disk.flush()
        far = disk.sectors - 8
        try:
            disk.write(far, b"b" * 4096)
            store.write("data/first", "written")
        except BlockError as error:
            store.write("data/first", f"refused {error}")
        self.kernel.console.readline()
        disk.write(far, b"c" * 4096)
        disk.flush()
        assert disk.read(far, 8) == b"c" * 4096
        assert disk.read(0, 1) == b"a" * 512
        print("written at last")
        disk.close()
"""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('name = "x"\nkernel = "k', ":2:10: the string that begins with"),
        ('name = "x"\nkernel = [ "a", \n', ":3:1: expected"),
        ('name = "x"\nkernel k', ":2:8: expected"),
        ('name = "x" kernel = "k"', ":1:12: expected a newline"),
        ('name = "x"\nKernel = "k"', ":2:1: 'K'"),
        ('name = "x"\nkernel = "k"\ndisc = []', "did you mean 'disk'"),
        ('name = "x"\nkernel = "k"\nbootloader = "pygrub"', ":3:1: bootloader boots from a disk"),
        ('name = "x"\nkernel = "k"\nmemory = "lots"', ":3:10: memory is a number"),
        ('name = "x"\nkernel = "k"\nmemory = 8\nmaxmem = 4', ":4:1: maxmem 4 is less"),
        (
            'name = "x"\nkernel = "k"\ndisk = ["a.vmdk,vmdk,xvda"]',
            ":3:9: disk: unknown value for format: near `vmdk'",
        ),
        (
            'name = "x"\nkernel = "k"\ndisk = ["/a,,xvda", "/b,,xvda"]',
            ":3:21: disk: vdev 'xvda' is used twice",
        ),
        ('name = "x"\nkernel = "k"\nvif = ["mac=nonsense"]', ":3:8: vif: 'nonsense' is no MAC"),
        ('name = "a/b"\nkernel = "k"', ":1:8: name must have"),
        ('name = "5"\nkernel = "k"', ":1:8: name must not be a number"),
        ('kernel = "k"', ":1:1: 'name' is missing"),
        ('name = "x"', ":1:1: 'kernel' is missing"),
        ("", ":1:1: 'name' is missing"),
        ("\0\1\2\3", ":1:1: unexpected character"),
        ("[" * 5000, ":1:1: expected a key"),
        ('name = "x"\nkernel = ' + "[" * 5000, "nested more than 16 deep"),
        ('name = "x"\nkernel = "k"\n' + "#" * (1 << 20), "longer than"),
        (
            'name = "x"\nkernel = "~nobody-is-called-so/k"',
            ":2:10: kernel '~nobody-is-called-so/k' lies in the home folder",
        ),
        ('name = "x"\nkernel = "python:./loop.py:Class"', "kernel file"),
        (IDLE + f'disk = ["{"a" * 300},,xvda"]', "File name too long"),
        ("".join(f"k{n} = 1\n" for n in range(20_000)), "more than 100 unknown keys"),
    ],
)
def test_a_mistake_is_told_with_its_place(
    text: str, why: str, shared_machine: Machine, tmp_path: Path
) -> None:
    (tmp_path / "loop.py").symlink_to("loop.py")
    failed = shared_machine.create(tmp_path, text)
    assert failed.returncode == 1
    assert why in failed.stderr
    assert "cannot read /tmp" not in failed.stderr
    assert all(line.startswith("xenctl: ") for line in failed.stderr.splitlines())


def test_a_description_that_is_not_there_is_told_by_its_path(shared_machine: Machine, tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.cfg", tmp_path):
        failed = shared_machine.xenctl("create", path)
        assert failed.returncode == 1
        assert str(path) in failed.stderr
        assert all(line.startswith("xenctl: ") for line in failed.stderr.splitlines())


def disk_refused(machine: Machine, folder: Path, line: str) -> str:
    """What is said of a domain that was refused for its disk."""
    failed = machine.create(folder, f'{IDLE}disk = [ "{line}" ]\n')
    assert failed.returncode == 1, failed.stderr
    (said,) = failed.stderr.splitlines()
    return said


@pytest.mark.parametrize("access", ["ro", "rw"])
def test_what_is_no_disk_image_is_refused(access: str, shared_machine: Machine, tmp_path: Path) -> None:
    """A pipe that nobody writes to must not hold Dom0 up."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path / "nothing", pipe, tmp_path, Path("/dev/null")):
        said = disk_refused(shared_machine, tmp_path, f"{path},raw,xvda,{access}")
        assert f"xvda: {path}" in said


def test_an_image_that_is_being_written_is_refused_to_a_second_domain(
    shared_machine: Machine, tmp_path: Path
) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    assert shared_machine.create(tmp_path, f'{IDLE}disk = [ "{image},,xvda" ]').returncode == 0
    failed = shared_machine.create(tmp_path, f'{IDLE}disk = [ "{image},,xvda" ]', "name=other")
    assert failed.returncode == 1
    assert "in use" in failed.stderr
    assert shared_machine.xenctl("destroy", "idle").returncode == 0


def test_of_two_disks_a_bad_one_takes_the_good_one_with_it(shared_machine: Machine, tmp_path: Path) -> None:
    """The good image is free again at once: another domain can have it."""
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    both = f'{IDLE}disk = [ "{image},,xvda", "{tmp_path}/nothing,,xvdb" ]'
    assert shared_machine.create(tmp_path, both).returncode == 1
    assert shared_machine.create(tmp_path, f'{IDLE}disk = [ "{image},,xvda" ]').returncode == 0
    assert shared_machine.xenctl("destroy", "idle").returncode == 0


def said(machine: Machine, node: str) -> str | None:
    """What the guest has written into its node data/`node`."""
    listing = machine.xenctl("xenstore-ls").stdout
    found = re.search(rf'^ *{node} = "(.*)"$', listing, re.MULTILINE)
    return found and found[1]


def test_a_full_disk_is_an_error_for_the_guest_alone_and_over_when_there_is_room(
    shared_machine: Machine, tmp_path: Path
) -> None:
    """A limit on Dom0's files stands for the full disk: the host refuses the write in the same call."""
    image = tmp_path / "disk.img"
    image.touch()
    os.truncate(image, 8 << 20)
    dom0 = next(
        pid
        for pid in pids_of(shared_machine.supervisor)
        if Path(f"/proc/{pid}/comm").read_text().strip() == "xeno-dom0"
    )
    before = resource.prlimit(dom0, resource.RLIMIT_FSIZE)
    resource.prlimit(dom0, resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        made = shared_machine.guest(tmp_path, FILLER, extra=f'disk = [ "{image},,xvda" ]')
        assert made.returncode == 0, made.stderr
        first = wait_until(lambda: said(shared_machine, "first"), 20, "the first write's end")
        assert first.startswith("refused")
        assert shared_machine.create(tmp_path, IDLE).returncode == 0
        assert shared_machine.xenctl("destroy", "idle").returncode == 0
    finally:
        resource.prlimit(dom0, resource.RLIMIT_FSIZE, before)
    ended = shared_machine.xenctl("console", "guest", stdin="again\n")
    assert ended.returncode == 0
    assert "written at last" in ended.stdout
    assert image.read_bytes()[-4096:] == b"c" * 4096
