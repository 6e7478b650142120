"""Debian's Linux with a disk and an interface is written into files, and goes on: on its machine, and on another one. As a PV
guest it has two vCPUs; as a PVH guest it has nested paging first, and shadow paging on the other machine. There a driver domain
serves its interface.

All the while it is at work: doubles stay in registers, a file on the disk is written and compared, a ping goes out every second,
and bytes come in over a TCP stream. Booting takes longest by far, so that what one Linux can show is one test.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from domains.control.address import MachineAddress
from domains.control.client import ControlClient
from domains.control.operations import Wait
from tests.guests.compiled import HERE, gcc
from tests.guests.linux_disk import host_tool, make_disk
from tests.guests.linux_shell import LinuxShell
from tests.guests.test_debian import BOOT_SECONDS, CACHE
from tests.machines import REPOSITORY, Machine, wait_until

SAVE_SECONDS = 120
GUESTS = REPOSITORY / "domains" / "guests"
XL_CACHE = CACHE.parent / "xl"
LINUX, SERVER = "10.0.0.2", "10.0.0.3"
STREAM = 16_000_000
"""Bytes that come by TCP, a million a second: over a save and a restore."""
WORK = (
    "mount -t ext4 /dev/xvda /mnt; kept=remembered; /mnt/doubles /doubles & "
    "(while head -c 100000 /dev/urandom > /mnt/a && cat /mnt/a > /mnt/b && cmp /mnt/a /mnt/b; do "
    "echo $(($(cat /rounds || echo 0) + 1)) > /rounds; done; echo broken > /rounds) 2>/dev/null & "
    f"ping {SERVER} > /pings & "
    f"(wget -q -O - http://{SERVER}/bytes/{STREAM} | busybox sha256sum > /sum; echo done >> /sum) & true"
)

pytestmark = [
    pytest.mark.needs_guests,
    pytest.mark.skipif(not (CACHE / "versions").exists(), reason="needs scripts/fetch_guests"),
    pytest.mark.timeout(BOOT_SECONDS + 600),
]


class Kind(NamedTuple):
    """A kind of guest: its settings, and those that it has on the other machine; what verify-stream-v2 says of its file."""

    settings: str
    elsewhere: str
    vcpus: int
    verified: str


PV = Kind("vcpus = 2", "vcpus = 2", 2, "vcpu1 basic context")
PVH = Kind('type = "pvh"\nhap = 1', 'type = "pvh"\nhap = 0', 1, "HVM context")


@pytest.mark.parametrize("kind", [PV, PVH], ids=["PV", "PVH"])
def test_linux_goes_on_with_its_work_here_and_on_another_machine(tmp_path: Path, kind: Kind) -> None:
    image, saved, sums = disk(tmp_path), tmp_path / "linux.saved", []
    with clean_machine() as here, clean_machine() as there:
        serves(here, f"vif=['ip={SERVER}/24,rate=1MB/s']")
        succeeds(there, "create", GUESTS / "netdom.cfg")
        serves(there, f"vif=['backend=netdom,ip={SERVER}/24']")
        boot(here, tmp_path, image, kind)
        with LinuxShell(here, "linux") as shell:
            shell.await_shell(f"network is up: {LINUX}", BOOT_SECONDS)
            assert shell.run(WORK)[0] == 0
            it_is_at_work(shell)
            with ControlClient(MachineAddress.in_folder(here.folder), timeout=60) as client:
                client.post(Wait("linux"))
                saves(here, saved, "-c")
                it_is_at_work(shell)
                assert client.receive(0.0) is None, "who waits for a domain's end was told of a checkpoint"
            gives_memory_back(here, shell)
            before = uptime(shell)
            saves(here, saved)
        xen_accepts(saved, kind)
        restores(here, saved)
        with LinuxShell(here, "linux") as shell:
            it_is_at_work(shell)
            assert uptime(shell) >= before
            assert "remembered" in shell.run("echo $kept")[1]
            assert shell.run("until grep -q done /sum; do sleep 1; done")[0] == 0
            sums = re.findall(r"[0-9a-f]{64}", shell.run("cat /sum")[1])
            assert mebibytes(here) == 160
            saves(here, saved)
        restores(there, elsewhere(tmp_path, image, kind), saved)
        with LinuxShell(there, "linux") as shell:
            it_is_at_work(shell)
            assert shell.run("kill $(busybox pidof doubles ping); grep -c processor /proc/cpuinfo")[
                1
            ].split()[-1] == str(kind.vcpus)
            assert (
                shell.run("rm /rounds; mkdir /rounds; sleep 1; until umount /mnt; do sleep 1; done")[0] == 0
            )
            shell.send("poweroff -f")
            wait_until(lambda: there.is_gone("linux"), 60, "the end of the domain")
    assert sums == [hashlib.sha256(bytes(STREAM)).hexdigest()]
    host_tool("e2fsck", "-fn", str(image))


@contextmanager
def clean_machine() -> Iterator[Machine]:
    machine = Machine()
    try:
        yield machine
        machine.end_domains()
        wait_until(machine.census_is_clean, 30, "a clean census")
    finally:
        machine.stop()


def disk(tmp_path: Path) -> Path:
    """An ext4 with the program in `doubles.c`."""
    (tmp_path / "files").mkdir()
    gcc("-static", "-O1", "-o", tmp_path / "files" / "doubles", HERE / "doubles.c")
    make_disk(tmp_path / "linux.img", 16, tmp_path / "files")
    return tmp_path / "linux.img"


def serves(machine: Machine, vif: str) -> None:
    succeeds(machine, "create", GUESTS / "webserver.cfg", vif)


def succeeds(machine: Machine, *words: str | Path) -> None:
    done = machine.xenctl(*words, timeout=SAVE_SECONDS)
    assert done.returncode == 0, done.stderr


def description(image: Path, settings: str, backend: str = "") -> str:
    return (
        f'name = "linux"\nkernel = "{CACHE}/vmlinuz"\nramdisk = "{CACHE}/initramfs.img"\nmemory = 192\n'
        f"{settings}\ndisk = ['{image},raw,xvda,w']\nvif = ['mac=00:16:3e:00:00:02{backend}']\n"
        f'cmdline = "console=hvc0 noreplace-smp task=net address={LINUX}/24"\n'
    )


def boot(machine: Machine, tmp_path: Path, image: Path, kind: Kind) -> None:
    done = machine.create(tmp_path, description(image, kind.settings))
    assert done.returncode == 0, done.stderr


def elsewhere(tmp_path: Path, image: Path, kind: Kind) -> Path:
    """The description for the other machine."""
    (tmp_path / "elsewhere.cfg").write_text(description(image, kind.elsewhere, ",backend=netdom"))
    return tmp_path / "elsewhere.cfg"


def it_is_at_work(shell: LinuxShell) -> None:
    """Each kind of work gets further, and none has found anything wrong."""
    for kind in ("cat /doubles", "cat /rounds", "grep -c seq= /pings"):
        before = number(shell, kind)
        wait_until(lambda kind=kind, before=before: number(shell, kind) > before, 120, f"more of {kind}")  # type: ignore[misc]


def number(shell: LinuxShell, command: str) -> int:
    """What a command prints."""
    text = shell.run(command)[1]
    assert "broken" not in text, text
    found = re.findall(r"^(-?\d+)\s*$", text, re.MULTILINE)
    value = int(found[-1]) if found else 0
    assert value >= 0, text
    return value


def gives_memory_back(machine: Machine, shell: LinuxShell) -> None:
    assert machine.xenctl("mem-set", "linux", "160").returncode == 0
    wait_until(lambda: mebibytes(machine) == 160, 120, "what was ballooned out")


def mebibytes(machine: Machine) -> int:
    """What the domain has; a PVH domain has some pages outside of its RAM, too."""
    return int(machine.domain("linux")["memory_kib"]) >> 10


def saves(machine: Machine, file: Path, *options: str) -> None:
    succeeds(machine, "save", *options, "linux", file)


def restores(machine: Machine, *files: Path) -> None:
    succeeds(machine, "restore", *files)


def uptime(shell: LinuxShell) -> float:
    found = re.findall(r"^(\d+\.\d+) ", shell.run("cat /proc/uptime")[1], re.MULTILINE)
    return float(found[-1])


def xen_accepts(file: Path, kind: Kind) -> None:
    """Xen's own verify-stream-v2, which scripts/fetch_xl brings."""
    xen = XL_CACHE / "usr/lib/xen-4.17"
    if not (XL_CACHE / "versions").exists():
        return
    done = subprocess.run(
        [sys.executable, xen / "bin/verify-stream-v2", "-v", "-f", "xl", "-i", file],
        env={**os.environ, "PYTHONPATH": str(xen / "lib/python"), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert kind.verified in done.stdout
