"""Debian's own binaries, unchanged: GRUB to its prompt and on to Linux, the cloud kernel to a shell's work on a disk."""

import hashlib
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from domains.dom0.toolstack.builder.bzimage import payload_of
from tests.guests.linux_shell import LinuxShell
from tests.machines import XENCTL, Machine, wait_until

CACHE = Path(os.environ.get("XENOSCOPE_CACHE") or Path.home() / ".cache" / "xenoscope") / "guests"
BOOT_SECONDS = 600
"""On an idle machine it takes half a minute; beside many other tests, much longer."""

GRUB_CFG = """
ls (xen/xvda)/
cat /hello.txt
linux /vmlinux console=hvc0 noreplace-smp
initrd /initramfs.img
boot
"""
GRUBS = {"pv": "grub-x86_64-xen.bin", "pvh": "grub-i386-xen_pvh.bin"}

pytestmark = [
    pytest.mark.needs_guests,
    pytest.mark.skipif(not (CACHE / "versions").exists(), reason="needs scripts/fetch_guests"),
    pytest.mark.timeout(BOOT_SECONDS + 120),
]


def make_disk(image: Path, mebibytes: int, files: Path) -> None:
    """An ext4 file system with what is in the folder `files`, made without root."""
    options = ("-q", "-t", "ext4", "-O", "^metadata_csum,^64bit", "-d", str(files))
    host_tool("mke2fs", *options, str(image), f"{mebibytes}M")


def host_tool(*command: str) -> bytes:
    """What one of e2fsprogs' programs prints; CalledProcessError unless it is content."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    done = subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PATH": path})
    return done.stdout


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
def test_grub_boots_linux_from_the_disk_that_linux_works_on(
    clean_machine: Machine, tmp_path: Path, kind: str
) -> None:
    """PV GRUB 2.06 does not unpack Debian's payload itself: its disk holds the kernel as the builder would load it.

    PVH GRUB is a 32-bit program; it starts the kernel's own unpacker, as on bare hardware, and Linux finds Xen by CPUID.
    """
    files, disk, data = tmp_path / "files", tmp_path / "disk.img", random.randbytes(3 << 20)
    (files / "boot/grub").mkdir(parents=True)
    (files / "boot/grub/grub.cfg").write_text(GRUB_CFG)
    (files / "hello.txt").write_text("hello from the disk\n")
    (files / "data").write_bytes(data)
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
        shell.await_text("Linux version", BOOT_SECONDS)
        assert "hello from the disk" in shell.text
        works_on_its_disk(clean_machine, shell, data)
    holds_what_was_written(tmp_path, disk, data)


def test_an_interactive_linux_under_shadow_paging_works_on_a_disk(
    clean_machine: Machine, tmp_path: Path
) -> None:
    """The one that GRUB starts runs under nested paging, or is a PV guest."""
    files, disk, data = tmp_path / "files", tmp_path / "disk.img", random.randbytes(3 << 20)
    files.mkdir()
    (files / "data").write_bytes(data)
    make_disk(disk, 16, files)
    done = clean_machine.create(
        tmp_path,
        f'name = "linux"\ntype = "pvh"\nhap = 0\nkernel = "{CACHE}/vmlinuz"\nramdisk = "{CACHE}/initramfs.img"\n'
        f"memory = 128\ndisk = [ '{disk},raw,xvda,w' ]\ncmdline = \"console=hvc0\"\n",
    )
    assert done.returncode == 0, done.stderr
    with LinuxShell(clean_machine, "linux") as shell:
        works_on_its_disk(clean_machine, shell, data)
    holds_what_was_written(tmp_path, disk, data)


def works_on_its_disk(machine: Machine, shell: LinuxShell, data: bytes) -> None:
    """By its own blkfront and ext4 it reads what is there, writes it twice, and powers off."""
    shell.await_text("linux is up", BOOT_SECONDS)
    assert shell.run("until [ -b /dev/xvda ]; do sleep 1; done; mount -t ext4 /dev/xvda /mnt")[0] == 0
    assert hashlib.sha256(data).hexdigest() in shell.run("busybox sha256sum /mnt/data")[1]
    assert shell.run("cat /mnt/data /mnt/data > /mnt/twice; umount /mnt")[0] == 0
    shell.send("poweroff -f")
    wait_until(lambda: "linux" not in machine.domains(), 60, "the end of the domain")


def holds_what_was_written(tmp_path: Path, disk: Path, data: bytes) -> None:
    """The file system is sound, and has the file that the guest has written."""
    host_tool("e2fsck", "-fn", str(disk))
    copy = tmp_path / "twice"
    host_tool("debugfs", "-R", f"dump /twice {copy}", str(disk))
    assert copy.read_bytes() == data + data
