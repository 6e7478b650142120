"""Debian's Linux is written into a file on one machine and goes on on another: its memory, its processes and the registers they
compute in, its clock and its disk.

Booting takes longest by far, so that what one Linux can show is one test.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.guests.linux_disk import LinuxDisk
from tests.guests.linux_shell import LinuxShell
from tests.guests.test_debian import BOOT_SECONDS, CACHE
from tests.machines import Machine, wait_until

SAVE_SECONDS = 120
XL_CACHE = CACHE.parent / "xl"

pytestmark = [
    pytest.mark.needs_guests,
    pytest.mark.skipif(not (CACHE / "versions").exists(), reason="needs scripts/fetch_guests"),
    pytest.mark.timeout(BOOT_SECONDS + 300),
]


def test_linux_goes_on_on_another_machine(clean_machine: Machine, tmp_path: Path) -> None:
    disk = LinuxDisk(tmp_path, "linux")
    text = (
        f'name = "linux"\nkernel = "{CACHE}/vmlinuz"\nramdisk = "{CACHE}/initramfs.img"\n'
        f'memory = 128\ncmdline = "console=hvc0 noreplace-smp"\n{disk.setting}'
    )
    done = clean_machine.create(tmp_path, text)
    assert done.returncode == 0, done.stderr
    saved, other = tmp_path / "linux.saved", Machine()
    try:
        with LinuxShell(clean_machine, "linux") as shell:
            shell.await_shell("linux is up", BOOT_SECONDS)
            disk.is_worked_on(shell)
            assert shell.run("kept=remembered; echo on disk > /kept; mount -t ext4 /dev/xvda /mnt")[0] == 0
            before = uptime(shell)
            saves(clean_machine, saved)
        wait_until(clean_machine.census_is_clean, 30, "a clean census")
        xen_accepts(saved)
        done = other.xenctl("restore", saved, timeout=SAVE_SECONDS)
        assert done.returncode == 0, done.stderr
        with LinuxShell(other, "linux") as shell:
            assert "remembered-on disk" in shell.run("echo $kept-$(cat /kept)")[1]
            assert uptime(shell) >= before
            assert shell.run("cat /mnt/data /mnt/data > /mnt/twice; umount /mnt")[0] == 0
            shell.send("poweroff -f")
            wait_until(lambda: other.is_gone("linux"), 60, "the end of the domain")
        wait_until(other.census_is_clean, 30, "a clean census")
    finally:
        other.stop()
    disk.holds_what_was_written()


def saves(machine: Machine, file: Path, *options: str) -> None:
    done = machine.xenctl("save", *options, "linux", file, timeout=SAVE_SECONDS)
    assert done.returncode == 0, done.stderr


def uptime(shell: LinuxShell) -> float:
    found = re.findall(r"^(\d+\.\d+) ", shell.run("cat /proc/uptime")[1], re.MULTILINE)
    return float(found[-1])


def xen_accepts(file: Path) -> None:
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
    assert "Libxc Record: x86 PV vcpu basic" in done.stdout
