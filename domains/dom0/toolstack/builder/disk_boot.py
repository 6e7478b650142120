"""The kernel in a guest's own disk, as `bootloader = "pygrub"` boots it: partitions, file system, menu, kernel and RAM disk.

Runs in the process that unpacks one kernel (unpacker.py), for a disk is a stranger's. The file systems ext2 to ext4 are read by
debugfs, of e2fsprogs, which every distribution has: a process of its own, which ends with this one, keeps its limits of time and
memory, and writes nothing.

    sector 0   446: four partitions of 16 bytes; 510: 55 aa                   none: the file system begins at once
    sector 1   "EFI PART", 72: first sector of the entries, 80: how many, 84: their size     where a partition has type 0xee

Sources: Xen tools/pygrub/src/pygrub (get_partition_offsets); UEFI specification 2.10, chapter 5.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import struct
from typing import BinaryIO, Final, NamedTuple

from domains.dom0.toolstack.builder.boot_menu import MENUS, BadMenu, Boot
from domains.dom0.toolstack.errors import ToolstackError

SECTOR: Final = 512
GPT_TYPE: Final = 0xEE
MAX_PARTITIONS: Final = 128
EXT_MAGIC_AT: Final = 1024 + 56
EXT_MAGIC: Final = b"\x53\xef"
MAX_MENU: Final = 1 << 20
MAX_BOOT_FILE: Final = 512 << 20
"""Bytes of a kernel or a RAM disk in a disk."""
PATH: Final = re.compile(r"/[A-Za-z0-9_./+:@~=,%-]{1,1000}", re.ASCII)
"""What a menu may name: nothing that means something to debugfs' own words."""
PR_SET_PDEATHSIG: Final = 1
ELSEWHERE: Final = "/usr/sbin:/sbin"


class Found(NamedTuple):
    """What a disk boots. `kernel_path` is for messages."""

    kernel: bytes
    kernel_path: str
    ramdisk: bytes
    cmdline: str


def boot_files(disk: str) -> Found:
    """What the raw image or device `disk` boots. Raises ToolstackError with one line that says what to do."""
    try:
        with open(disk, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            offsets = [offset for offset in partitions(file) if is_ext(file, offset)]
    except OSError as error:
        raise ToolstackError(f"bootloader: cannot read disk {disk}: {error.strerror}") from None
    if not offsets:
        raise ToolstackError(
            f"bootloader: disk {disk} has no partition with ext2, ext3 or ext4; write"
            ' bootloader = "pvgrub" for other file systems, or name kernel and ramdisk'
        )
    for offset in offsets:
        for path, read in MENUS:
            text = cat(disk, offset, path, MAX_MENU)
            if not text:
                continue
            try:
                boot = read(text.decode("utf-8", "replace"))
            except BadMenu as why:
                raise ToolstackError(f"bootloader: {path} of disk {disk}: {why}") from None
            return fetched(disk, offset, boot)
    raise ToolstackError(
        f"bootloader: disk {disk} has no menu, such as /boot/grub/grub.cfg; name kernel and ramdisk instead"
    )


def fetched(disk: str, offset: int, boot: Boot) -> Found:
    """The files themselves."""

    def wanted(path: str) -> bytes:
        data = cat(disk, offset, path, MAX_BOOT_FILE)
        if not data:
            raise ToolstackError(f"bootloader: the menu of disk {disk} names {path}, which is not in it")
        return data

    ramdisk = b"".join(map(wanted, boot.initrds))
    return Found(wanted(boot.kernel), f"{boot.kernel} of {disk}", ramdisk, boot.args)


def partitions(file: BinaryIO) -> list[int]:
    """Where file systems may begin, in bytes; the active partition first."""
    table = at(file, 0, SECTOR)
    found: list[int] = []
    if table[510:512] == b"\x55\xaa":
        for where in range(446, 510, 16):
            active, kind = table[where], table[where + 4]
            (start,) = struct.unpack_from("<I", table, where + 8)
            if kind == GPT_TYPE:
                return gpt_partitions(file)
            if start:
                found.insert(0 if active == 0x80 else len(found), start * SECTOR)
    return found or [0]


def gpt_partitions(file: BinaryIO) -> list[int]:
    """The same of a GUID partition table."""
    header = at(file, SECTOR, 92)
    if header[:8] != b"EFI PART":
        return [0]
    first, count, size = struct.unpack_from("<QII", header, 72)
    if not 128 <= size <= 4096 or first >= 1 << 40:
        return [0]
    found: list[int] = []
    for number in range(min(count, MAX_PARTITIONS)):
        entry = at(file, first * SECTOR + number * size, 40)
        (start,) = struct.unpack_from("<Q", entry, 32)
        if any(entry[:16]) and start < 1 << 40:
            found.append(start * SECTOR)
    return found or [0]


def is_ext(file: BinaryIO, offset: int) -> bool:
    """Whether an ext2, ext3 or ext4 begins there."""
    return at(file, offset + EXT_MAGIC_AT, 2) == EXT_MAGIC


def at(file: BinaryIO, offset: int, size: int) -> bytes:
    """These bytes; zeros behind the end."""
    return os.pread(file.fileno(), size, offset).ljust(size, b"\0")


def cat(disk: str, offset: int, path: str, most: int) -> bytes:
    """A file of the file system at `offset`; nothing if there is none. Raises ToolstackError."""
    import subprocess

    if not PATH.fullmatch(path):
        raise ToolstackError(
            f"bootloader: the menu of disk {disk} names {path[:80]!r}, which is no plain path"
        )
    program = shutil.which("debugfs", path=f"{os.environ.get('PATH', '')}:{ELSEWHERE}")
    if program is None:
        raise ToolstackError(
            "bootloader: pygrub reads disks by debugfs, which is not there: install e2fsprogs, or write"
            ' bootloader = "pvgrub"'
        )
    environment = {"DEBUGFS_PAGER": "cat", "LC_ALL": "C"}
    command = [program, "-R", f"cat {path}", f"{os.path.abspath(disk)}?offset={offset}"]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        preexec_fn=end_with_parent,
    ) as process:
        assert process.stdout is not None
        data = process.stdout.read(most + 1)
        process.kill()
    if len(data) > most:
        raise ToolstackError(f"bootloader: {path} of disk {disk} has more than {most} bytes")
    return data


def end_with_parent() -> None:
    """The process that is about to run is killed when its parent ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
