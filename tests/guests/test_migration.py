"""Debian's Linux moves to another machine, and back, while it works: a checksum loop in its memory, and a disk.

Booting takes longest by far, so that what one Linux can show is one test.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.guests.linux_disk import LinuxDisk
from tests.guests.linux_shell import LinuxShell
from tests.guests.test_debian import BOOT_SECONDS, CACHE
from tests.machines import Machine, wait_until

MOVE_SECONDS = 120
LOOP = (
    "(dd if=/dev/urandom of=/work bs=1M count=4; busybox sha256sum /work > /sum; n=0;"
    " while busybox sha256sum -c -s /sum; do n=$((n+1)); echo $n > /loops; done; echo broken > /broken) > /dev/null 2>&1 & true"
)

pytestmark = [
    pytest.mark.needs_guests,
    pytest.mark.skipif(not (CACHE / "versions").exists(), reason="needs scripts/fetch_guests"),
    pytest.mark.timeout(BOOT_SECONDS + 300),
]


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the machines write what they have decided."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def test_linux_moves_while_it_works_and_back(clean_machine: Machine, tmp_path: Path) -> None:
    disk = LinuxDisk(tmp_path, "linux")
    text = (
        f'name = "linux"\nkernel = "{CACHE}/vmlinuz"\nramdisk = "{CACHE}/initramfs.img"\n'
        f'memory = 128\ncmdline = "console=hvc0 noreplace-smp"\nvif = [ "mac=00:16:3e:00:00:42" ]\n{disk.setting}'
    )
    done = clean_machine.create(tmp_path, text)
    assert done.returncode == 0, done.stderr
    other = Machine()
    try:
        with LinuxShell(clean_machine, "linux") as shell:
            shell.await_shell("linux is up", BOOT_SECONDS)
            disk.is_worked_on(shell)
            assert shell.run(f"kept=remembered; mount -t ext4 /dev/xvda /mnt; {LOOP}")[0] == 0
            wait_until(lambda: loops(shell) > 0, 60, "the first check")
            moves(clean_machine, other)
        wait_until(clean_machine.census_is_clean, 30, "a clean census")
        with LinuxShell(other, "linux") as shell:
            works_on(shell)
            moves(other, clean_machine)
        wait_until(other.census_is_clean, 30, "a clean census")
        with LinuxShell(clean_machine, "linux") as shell:
            works_on(shell)
            assert shell.run("cat /mnt/data /mnt/data > /mnt/twice; umount /mnt")[0] == 0
            shell.send("poweroff -f")
            wait_until(lambda: clean_machine.is_gone("linux"), 60, "the end of the domain")
    finally:
        other.stop()
    disk.holds_what_was_written()


def moves(source: Machine, target: Machine) -> None:
    done = source.xenctl("migrate", "linux", target.name, "--progress", timeout=MOVE_SECONDS)
    assert done.returncode == 0, done.stderr
    assert "stood still for" in done.stdout
    assert target.domain("linux")["config"]["vifs"][0]["mac"] == "00:16:3e:00:00:42"


def loops(shell: LinuxShell) -> int:
    """How often the file in its memory was found as it was."""
    found = re.findall(r"^(\d+)$", shell.run("cat /loops")[1], re.MULTILINE)
    return int(found[-1]) if found else 0


def works_on(shell: LinuxShell) -> None:
    """The loop, the disk and the shell go on."""
    before = loops(shell)
    wait_until(lambda: loops(shell) > before, 60, "the next check")
    assert "remembered-no" in shell.run("echo $kept-$(test -e /broken && echo broken || echo no)")[1]
    assert shell.run("cmp /mnt/data /mnt/data && dmesg | tail -3")[0] == 0
