"""The kernel in a guest's own disk: partitions, menus as pygrub reads them, and what a stranger's disk may try.

Negative control: without PATH in disk_boot.py the menu that names "/x\ncat /etc/passwd" is not refused.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from domains.dom0.toolstack.builder import disk_boot
from domains.dom0.toolstack.builder.boot_menu import BadMenu, Boot, extlinux, grub2, grub_legacy
from domains.dom0.toolstack.builder.disk_boot import boot_files
from domains.dom0.toolstack.errors import ToolstackError
from tests.guests import partitioned
from tests.guests.linux_disk import make_disk

GRUB_CFG = """
function savedefault {
  set default="9"
}
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
else
   set default="1"
fi
menuentry 'Debian' --class debian $menuentry_id_option 'gnulinux' {
\tlinux\t/boot/old root=UUID=1 ro
\tinitrd /boot/old.img
}
submenu 'More' {
  menuentry "Second" {
    echo 'loading'
    linux   /boot/vmlinuz root=/dev/xvda1 ro quiet "a b"
    initrd  /boot/one.img /boot/two.img
  }
}
menuentry 'Memtest' { linux16 /boot/memtest }
"""
MENU_LST = """
default=1
timeout 5
title Xen
root (hd0,0)
kernel /boot/xen.gz dom0_mem=1G
module /boot/vmlinuz root=/dev/sda1
module /boot/initrd.img
title Plain
kernel (hd0,0)/boot/vmlinuz root=/dev/xvda1 ro
initrd (hd0,0)/boot/initrd.img
"""
EXTLINUX = """
DEFAULT grsec
LABEL other
  KERNEL /boot/other
LABEL grsec
  MENU LABEL Linux
  LINUX /boot/vmlinuz
  INITRD /boot/initrd.img
  APPEND root=/dev/xvda modules=ext4 quiet
"""


@pytest.mark.parametrize(
    ("read", "text", "boot"),
    [
        (
            grub2,
            GRUB_CFG,
            Boot("/boot/vmlinuz", ["/boot/one.img", "/boot/two.img"], "root=/dev/xvda1 ro quiet a b"),
        ),
        (
            grub2,
            GRUB_CFG.replace('"1"', '"More>Second"'),
            Boot("/boot/vmlinuz", ["/boot/one.img", "/boot/two.img"], "root=/dev/xvda1 ro quiet a b"),
        ),
        (
            grub2,
            GRUB_CFG.replace('"1"', '"${saved_entry}"'),
            Boot("/boot/old", ["/boot/old.img"], "root=UUID=1 ro"),
        ),
        (grub2, GRUB_CFG.replace('"1"', '"77"'), Boot("/boot/old", ["/boot/old.img"], "root=UUID=1 ro")),
        (grub_legacy, MENU_LST, Boot("/boot/vmlinuz", ["/boot/initrd.img"], "root=/dev/xvda1 ro")),
        (
            grub_legacy,
            MENU_LST.replace("=1", " 0", 1),
            Boot("/boot/vmlinuz", ["/boot/initrd.img"], "root=/dev/sda1"),
        ),
        (
            extlinux,
            EXTLINUX,
            Boot("/boot/vmlinuz", ["/boot/initrd.img"], "root=/dev/xvda modules=ext4 quiet"),
        ),
        (extlinux, EXTLINUX.replace("DEFAULT grsec", ""), Boot("/boot/other", [], "")),
        (extlinux, "label a\nkernel /k\nappend quiet\0hidden", Boot("/k", [], "quiet")),
    ],
)
def test_a_menu_is_read_as_pygrub_reads_it(read: Callable[[str], Boot], text: str, boot: Boot) -> None:
    assert read(text) == boot


@pytest.mark.parametrize(
    "text",
    [
        *("", "menuentry 'x' {\n}\n", "menuentry x {}\n" * 2000, "title a\n" * 2000, "label a\n" * 2000),
        f"menuentry x {{\nlinux /k\ninitrd {'/i ' * 1000}\n}}\nlabel x\ntitle x\nkernel /k\ninitrd {'/i ' * 500}{'/i,' * 500}",
    ],
)
@pytest.mark.parametrize("read", [grub2, grub_legacy, extlinux])
def test_a_menu_that_starts_nothing_is_refused(read: Callable[[str], Boot], text: str) -> None:
    with pytest.raises(BadMenu):
        read(text)


@pytest.fixture(scope="module")
def filesystem(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An ext4 file system with a menu in it."""
    if shutil.which("debugfs", path="/usr/sbin:/sbin:/usr/bin:/bin") is None:
        pytest.skip("needs debugfs, of e2fsprogs")
    folder = tmp_path_factory.mktemp("filesystem")
    return ext4(
        folder,
        {"boot/grub/grub.cfg": GRUB_CFG, "boot/vmlinuz": "kernel", "boot/one.img": "1", "boot/two.img": "2"},
    )


def ext4(folder: Path, files: dict[str, str]) -> bytes:
    tree = folder / "tree"
    for name, text in files.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    make_disk(folder / "filesystem", 4, tree)
    return (folder / "filesystem").read_bytes()


@pytest.mark.parametrize("table", ["none", "mbr", "gpt"])
def test_a_disk_of_any_kind_boots_what_its_menu_names(tmp_path: Path, filesystem: bytes, table: str) -> None:
    disk = tmp_path / "disk.img"
    make: dict[str, Callable[[Path, bytes], object]] = {
        "none": Path.write_bytes,
        "mbr": partitioned.mbr,
        "gpt": partitioned.gpt,
    }
    make[table](disk, filesystem)
    found = boot_files(str(disk))
    assert (found.kernel, found.ramdisk, found.cmdline) == (b"kernel", b"12", "root=/dev/xvda1 ro quiet a b")


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"readme": ""}, "has no menu"),
        ({"boot/grub/grub.cfg": "menuentry 'a' {\n linux /gone\n}\n"}, "names /gone, which is not in it"),
        ({"boot/grub/grub.cfg": "menuentry 'a' {\n linux '/x\tcat' \n}\n"}, "no plain path"),
        ({"boot/grub/grub.cfg": "menuentry 'a' {\n linux '/x\\\"; ls' \n}\n"}, "no plain path"),
        ({"boot/grub/grub.cfg": "set x=1"}, "starts a kernel"),
    ],
)
def test_a_disk_that_boots_nothing_says_why(
    tmp_path: Path, filesystem: bytes, files: dict[str, str], why: str
) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(ext4(tmp_path, files))
    with pytest.raises(ToolstackError, match=why):
        boot_files(str(disk))


@pytest.mark.parametrize("content", [b"", b"\x55\xaa" * 512, b"\0" * 510 + b"\x55\xaa", b"\xff" * 4096])
def test_a_disk_without_a_file_system_says_what_to_do(tmp_path: Path, content: bytes) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(content)
    with pytest.raises(ToolstackError, match="pvgrub"):
        boot_files(str(disk))


def test_without_debugfs_it_is_said_what_to_install(
    tmp_path: Path, filesystem: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(filesystem)
    monkeypatch.setattr(disk_boot, "ELSEWHERE", "")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ToolstackError, match="e2fsprogs"):
        boot_files(str(disk))
