"""Debian's own GRUBs, unchanged: to their prompt, and on to Debian's kernel."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from domains.dom0.toolstack.builder.bzimage import payload_of
from tests.guests import partitioned
from tests.guests.linux_disk import make_disk
from tests.guests.linux_shell import LinuxShell
from tests.machines import XENCTL, Machine, wait_until

CACHE = Path(os.environ.get("XENOSCOPE_CACHE") or Path.home() / ".cache" / "xenoscope") / "guests"
BOOT_SECONDS = 600
"""On an idle machine it takes half a minute; beside many other tests, much longer."""

GRUB_CFG = """
ls (xen/xvda)/
cat /hello.txt
linux /vmlinux console=hvc0 earlyprintk=xen noreplace-smp
initrd /initramfs.img
boot
"""
GRUBS = {"pv": "grub-x86_64-xen.bin", "pvh": "grub-i386-xen_pvh.bin"}

pytestmark = [
    pytest.mark.needs_guests,
    pytest.mark.skipif(not (CACHE / "versions").exists(), reason="needs scripts/fetch_guests"),
    pytest.mark.timeout(BOOT_SECONDS + 120),
]


@pytest.mark.parametrize("width", ["x86_64", "i386"])
def test_grub_reaches_its_prompt_and_lists_a_disk(machine: Machine, tmp_path: Path, width: str) -> None:
    """The 32-bit one is a PV guest in ring 1: it has its own hypercall layouts, rings of requests, events and frames."""
    files, disk = tmp_path / "files", tmp_path / "disk.img"
    files.mkdir()
    (files / "hello.txt").write_text("hello from the disk\n")
    make_disk(disk, 4, files)
    done = machine.create(
        tmp_path,
        f'name = "grub"\nkernel = "{CACHE}/grub-{width}-xen.bin"\nmemory = 64\n'
        f"disk = [ '{disk},raw,xvda,w' ]\n",
    )
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
        console.stdin.write(b"ls (xen/xvda)/\n")
        console.stdin.flush()
        wait_until(lambda: shown(b"hello.txt"), 60, "the answer to ls")
    finally:
        console.kill()
        console.communicate()
        machine.xenctl("destroy", "grub")


@pytest.mark.parametrize("kind", ["pv", pytest.param("pvh", marks=pytest.mark.slow)])
def test_grub_boots_linux_from_a_disk(clean_machine: Machine, tmp_path: Path, kind: str) -> None:
    """PV GRUB 2.06 does not unpack Debian's payload itself: its disk holds the kernel as the builder would load it. When that one
    speaks, the test has seen what is GRUB's; what a PV Linux does then, on a disk too, is in test_linux_network.py.

    PVH GRUB is a 32-bit program; it starts the kernel's own unpacker, as on bare hardware, and Linux finds Xen by CPUID.
    """
    files, disk = tmp_path / "files", tmp_path / "disk.img"
    (files / "boot/grub").mkdir(parents=True)
    (files / "boot/grub/grub.cfg").write_text(GRUB_CFG)
    (files / "hello.txt").write_text("hello from the disk\n")
    kernel = (CACHE / "vmlinuz").read_bytes()
    (files / "vmlinux").write_bytes(kernel if kind == "pvh" else payload_of(kernel, "vmlinuz"))
    shutil.copy(CACHE / "initramfs.img", files)
    make_disk(disk, 96, files)
    done = clean_machine.create(
        tmp_path,
        f'name = "linux"\ntype = "{kind}"\nkernel = "{CACHE}/{GRUBS[kind]}"\nmemory = 192\n'
        f"disk = [ '{disk},raw,xvda,w' ]\n",
    )
    assert done.returncode == 0, done.stderr
    with LinuxShell(clean_machine, "linux") as shell:
        if kind == "pv":
            wait_until(
                lambda: "Linux version" in clean_machine.xenctl("dmesg").stdout,
                BOOT_SECONDS,
                "Linux' first line",
            )
            clean_machine.destroy("linux")
        else:
            shell.await_shell("linux is up", BOOT_SECONDS)
            shell.send("poweroff -f")
            wait_until(lambda: clean_machine.is_gone("linux"), 60, "the end of the domain")
        shell.await_text("hello from the disk", 10)


MENU = """
menuentry "Debian" {
    linux /boot/vmlinuz console=hvc0 noreplace-smp quiet
    initrd /boot/initramfs.img
}
"""


def test_pygrub_boots_debians_kernel_from_a_partition_of_its_disk(
    clean_machine: Machine, tmp_path: Path
) -> None:
    """The kernel is packed as Debian packs it, the disk has a GUID partition table; `extra` comes behind the menu's words."""
    files, disk = tmp_path / "files", tmp_path / "disk.img"
    (files / "boot/grub").mkdir(parents=True)
    (files / "boot/grub/grub.cfg").write_text(MENU)
    shutil.copy(CACHE / "vmlinuz", files / "boot")
    shutil.copy(CACHE / "initramfs.img", files / "boot")
    make_disk(tmp_path / "filesystem", 64, files)
    partitioned.gpt(disk, (tmp_path / "filesystem").read_bytes())
    done = clean_machine.create(
        tmp_path,
        f"name = 'linux'\nbootloader = 'pygrub'\nmemory = 128\ndisk = [ '{disk},,xvda,w' ]\nextra = 'task=halt'\n"
        "on_poweroff = 'preserve'\n",
        "--paused",
    )
    assert done.returncode == 0, done.stderr
    with LinuxShell(clean_machine, "linux") as shell:
        clean_machine.xenctl("unpause", "linux")
        shell.await_text("linux is up", BOOT_SECONDS)
        shell.await_text("reboot: System halted", 60)  # a PV kernel has nothing else that powers off
        wait_until(lambda: clean_machine.domain("linux")["shutdown"] == "poweroff", 60, "the power-off")
    clean_machine.destroy("linux")
