"""Debian's own binaries, unchanged: PV GRUB to its prompt, the cloud kernel to a shell's work on a disk and its power-off."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.machines import XENCTL, Machine, wait_until

CACHE = Path(os.environ.get("XENOSCOPE_CACHE") or Path.home() / ".cache" / "xenoscope") / "guests"
BOOT_SECONDS = 600
"""On an idle machine it takes half a minute; beside many other tests, much longer."""

pytestmark = [
    pytest.mark.needs_guests,
    pytest.mark.skipif(not (CACHE / "versions").exists(), reason="needs scripts/fetch_guests"),
    pytest.mark.timeout(BOOT_SECONDS + 120),
]


def test_grub_reaches_its_prompt_and_runs_a_command(machine: Machine, tmp_path: Path) -> None:
    done = machine.create(tmp_path, f'name = "grub"\nkernel = "{CACHE}/grub-x86_64-xen.bin"\nmemory = 64\n')
    assert done.returncode == 0, done.stderr
    console = subprocess.Popen(
        [*XENCTL, "console", "grub"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=machine.environment,
    )
    assert console.stdin is not None
    assert console.stdout is not None
    os.set_blocking(console.stdout.fileno(), False)
    text = b""

    def shown(wanted: bytes) -> bool:
        nonlocal text
        text += console.stdout.read() or b""  # type: ignore[union-attr]
        return wanted in text

    try:
        wait_until(lambda: shown(b"grub> "), 100, "GRUB's prompt")
        console.stdin.write(b"ls\n")
        console.stdin.flush()
        wait_until(lambda: shown(b"(memdisk)"), 60, "the answer to ls")
    finally:
        console.kill()
        console.communicate()
        machine.xenctl("destroy", "grub")


def test_grub_reads_its_configuration_and_a_file_from_a_disk(machine: Machine, tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    shutil.copy(CACHE / "disk.img", disk)
    path = tmp_path / "grub.cfg"
    path.write_text(
        f'name = "grub"\nkernel = "{CACHE}/grub-x86_64-xen.bin"\nmemory = 64\n'
        f"disk = [ '{disk},raw,xvda,w' ]\n"
    )
    done = machine.xenctl("create", path, "--console", timeout=BOOT_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "hello from the disk" in done.stdout


def test_linux_mounts_writes_and_unmounts_a_disk_and_powers_off(machine: Machine, tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    shutil.copy(CACHE / "disk.img", disk)
    path = tmp_path / "linux.cfg"
    path.write_text(
        f'name = "linux"\nkernel = "{CACHE}/vmlinuz"\nramdisk = "{CACHE}/initramfs.img"\nmemory = 128\n'
        f"disk = [ '{disk},raw,xvda,w' ]\ncmdline = \"console=hvc0 task=disk\"\n"
    )
    done = machine.xenctl("create", path, "--console", timeout=BOOT_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    for line in ("linux is up", "hello from the disk", "disk is done", "System halted"):
        assert line in done.stdout
    assert b"written by the guest" in disk.read_bytes()
