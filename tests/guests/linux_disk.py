"""An ext4 disk for a Linux guest to work on, made and looked at afterwards with e2fsprogs, without root."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
from pathlib import Path

from tests.guests.linux_shell import LinuxShell


def make_disk(image: Path, mebibytes: int, files: Path) -> None:
    """An ext4 file system with what is in the folder `files`."""
    options = ("-q", "-t", "ext4", "-O", "^metadata_csum,^64bit", "-d", str(files))
    host_tool("mke2fs", *options, str(image), f"{mebibytes}M")


def host_tool(*command: str) -> bytes:
    """What one of e2fsprogs' programs prints; CalledProcessError unless it is content."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    done = subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PATH": path})
    return done.stdout


class LinuxDisk:
    """A disk with a file of 3 MiB on it: its specification, and the setting of its domain's description."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._image = folder / name, folder / f"{name}.img"
        self._data = random.randbytes(3 << 20)
        self._folder.mkdir()
        (self._folder / "data").write_bytes(self._data)
        make_disk(self._image, 16, self._folder)
        self.specification = f"{self._image},raw,xvda,w"
        self.setting = f"disk = [ '{self.specification}' ]\n"

    def is_worked_on(self, shell: LinuxShell) -> None:
        """By its own blkfront and ext4 the guest reads what is there, and writes it twice."""
        assert shell.run("until [ -b /dev/xvda ]; do sleep 1; done; mount -t ext4 /dev/xvda /mnt")[0] == 0
        assert hashlib.sha256(self._data).hexdigest() in shell.run("busybox sha256sum /mnt/data")[1]
        assert shell.run("cat /mnt/data /mnt/data > /mnt/twice; umount /mnt")[0] == 0

    def holds_what_was_written(self) -> None:
        """The file system is sound, and has the file that the guest has written."""
        host_tool("e2fsck", "-fn", str(self._image))
        copy = self._folder / "twice"
        host_tool("debugfs", "-R", f"dump /twice {copy}", str(self._image))
        assert copy.read_bytes() == self._data * 2
