"""Debian's Linux is booted once, and any number go on from there: each with its memory, its shell's variables and the disk as
they were, with an address, an id and a name of its own; and nobody sees what another has written.

Negative control: with `for_fork` giving each fork the copy itself and no overlay (snapshots/disks.py) the second fork reads what
the first has written.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.guests.linux_shell import LinuxShell
from tests.guests.test_debian import BOOT_SECONDS, CACHE
from tests.machines import Machine, wait_until

pytestmark = [
    pytest.mark.needs_guests,
    pytest.mark.skipif(not (CACHE / "versions").exists(), reason="needs scripts/fetch_guests"),
    pytest.mark.timeout(BOOT_SECONDS + 300),
]
DISK = 8 << 20
MARK = 1 << 20
"""Where on the disk guests write, in bytes."""


@contextmanager
def machine_that_ends_clean() -> Iterator[Machine]:
    machine = Machine(memory=1024)
    try:
        yield machine
        machine.end_domains()
        wait_until(machine.census_is_clean, 30, "a clean census")
    finally:
        machine.stop()


@pytest.mark.parametrize("kind", ["pv", "pvh"])
def test_linux_boots_once_and_goes_on_several_times(tmp_path: Path, kind: str) -> None:
    image, read_only = tmp_path / "linux.img", tmp_path / "read-only.img"
    for path in (image, read_only):
        path.write_bytes(b"original".ljust(DISK, b"\0"))
    with machine_that_ends_clean() as machine:
        boot(machine, tmp_path, image, read_only, kind)
        files = open_files(machine)
        with LinuxShell(machine, "linux") as shell:
            shell.await_shell("linux is up", BOOT_SECONDS)
            assert shell.run("until [ -b /dev/xvdb ]; do sleep 1; done; kept=remembered")[0] == 0
            write(shell, "before")
            taken = machine.json("snapshot", "linux", "ready", "--json")
            assert taken["memory_bytes"] < 120 << 20
            assert machine.info()["snapshot_bytes"] == taken["memory_bytes"]
            assert "remembered" in shell.run("echo $kept")[1], "it does not go on"
            write(shell, "after")
            assert read(shell) == "after"
        digest = hashlib.sha256(image.read_bytes()).digest()
        one, two = (machine.json("fork", "ready") for _ in range(2))
        assert [one["name"], two["name"]] == ["ready-1", "ready-2"]
        has_its_own(machine, ["linux", "ready-1", "ready-2"])
        with LinuxShell(machine, "ready-1") as shell, LinuxShell(machine, "ready-2") as other:
            goes_on_from_there(machine, shell, "ready-1")
            goes_on_from_there(machine, other, "ready-2")
            forks_of_forks(machine)
            assert hashlib.sha256(image.read_bytes()).digest() == digest, "a fork has written to the image"
            refusals(machine)
            forgotten(machine, other)
        reboots(machine)
        machine.end_domains()
        wait_until(lambda: open_files(machine) <= files, 30, "all files closed")


def boot(machine: Machine, tmp_path: Path, image: Path, read_only: Path, kind: str) -> None:
    text = (
        f'name = "linux"\nkernel = "{CACHE}/vmlinuz"\nramdisk = "{CACHE}/initramfs.img"\nmemory = 128\ntype = "{kind}"\n'
        f"disk = ['{image},raw,xvda,w', '{read_only},raw,xvdb,r']\nvif = ['']\n"
        'cmdline = "console=hvc0 noreplace-smp"\n'
    )
    done = machine.create(tmp_path, text)
    assert done.returncode == 0, done.stderr


def write(shell: LinuxShell, text: str) -> None:
    command = f"printf %-512s {text} | dd of=/dev/xvda bs=512 seek={MARK // 512} conv=notrunc; sync"
    assert shell.run(command)[0] == 0


def read(shell: LinuxShell, device: str = "xvda", at: int = MARK) -> str:
    """The word at that place, past what the guest remembers of the disk."""
    drop = "echo 3 > /proc/sys/vm/drop_caches"
    said = shell.run(f"{drop}; echo =$(dd if=/dev/{device} bs=16 count=1 skip={at // 16} 2>/dev/null)=")[1]
    found = re.findall(r"^=([a-z0-9-]+)[ \0]*=$", said, re.MULTILINE)
    assert found, said
    return str(found[-1])


def goes_on_from_there(machine: Machine, shell: LinuxShell, name: str) -> None:
    assert "remembered" in shell.run("echo $kept")[1]
    assert read(shell) == "before"
    assert read(shell, "xvdb", 0) == "original"
    write(shell, name)
    assert read(shell) == name
    assert mac_of(machine, name) in shell.run("cat /sys/class/net/eth0/address")[1]


def forks_of_forks(machine: Machine) -> None:
    """A fork that is at work is kept itself, in files, and what it has written is there in its forks, also after it has gone."""
    folder = machine.folder
    kept = machine.json("snapshot", "ready-1", "further", "--folder", str(folder))
    assert kept["memory_bytes"] == 0
    assert kept["file_bytes"] > 0
    assert not list(folder.glob("*.tmp"))
    machine.destroy("ready-1")
    done = machine.xenctl("fork", "further", "--name", "grandchild", "--paused", "--keep-macs")
    assert done.returncode == 0, done.stderr
    assert "p" in machine.domain("grandchild")["state"]
    assert machine.xenctl("unpause", "grandchild").returncode == 0
    with LinuxShell(machine, "grandchild") as shell:
        assert read(shell) == "ready-1"
        write(shell, "third")
        assert read(shell) == "third"
    machine.destroy("grandchild")


def refusals(machine: Machine) -> None:
    for words, why in (
        (["fork", "nothing"], "there is no snapshot 'nothing'; there is ready, further"),
        (["fork", "ready", "--name", "linux"], "domain 'linux' exists already"),
        (["fork", "ready", "--name", "a/b"], "a domain's name"),
        (["snapshot", "linux", "ready"], "there is a snapshot 'ready' already"),
        (["snapshot", "linux", "x", "--folder", "/nowhere"], "No such file or directory"),
        (
            ["save", "ready-2", "/tmp/never"],
            "domain 'ready-2' is a fork, and what it has written to xvda ends with it",
        ),
        (["snapshot-delete", "nothing"], "there is no snapshot 'nothing'"),
    ):
        done = machine.xenctl(*words)
        assert done.returncode != 0
        assert why in done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
    assert set(machine.domains()) == {"Domain-0", "linux", "ready-2"}
    assert "b" in machine.domain("linux")["state"] or "r" in machine.domain("linux")["state"]


def forgotten(machine: Machine, shell: LinuxShell) -> None:
    """A snapshot goes; its fork goes on, with its disk."""
    for name in ("ready", "further"):
        assert machine.xenctl("snapshot-delete", name).returncode == 0
    assert machine.json("snapshot-list") == []
    assert machine.info()["snapshot_bytes"] == 0
    assert read(shell) == "ready-2"
    assert shell.run("dd if=/dev/xvda of=/dev/null bs=1M")[0] == 0


def reboots(machine: Machine) -> None:
    """A fork that reboots boots, and finds its own disk as it left it."""
    before = machine.domain("ready-2")["domid"]
    assert machine.xenctl("reboot", "ready-2").returncode == 0

    def runs_again() -> bool:
        about = machine.domains().get("ready-2")
        return about is not None and about["domid"] != before and about["cpu_time"] > 0

    wait_until(runs_again, 60, "the reboot")
    with LinuxShell(machine, "ready-2") as shell:
        shell.await_shell("linux is up", BOOT_SECONDS)
        assert shell.run("until [ -b /dev/xvda ]; do sleep 1; done")[0] == 0
        assert read(shell) == "ready-2"


def has_its_own(machine: Machine, names: list[str]) -> None:
    """Ids and addresses."""
    listed = machine.domains()
    assert len({listed[name]["uuid"] for name in names}) == len(names)
    assert len({mac_of(machine, name) for name in names}) == len(names)


def mac_of(machine: Machine, name: str) -> str:
    vif: dict[str, Any] = machine.domain(name)["config"]["vifs"][0]
    return str(vif["mac"])


def open_files(machine: Machine) -> int:
    """How many descriptors Dom0 has."""
    pid = machine.domain("Domain-0")["pid"]
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
