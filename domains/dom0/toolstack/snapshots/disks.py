"""The disks of a snapshot: what the guest may write is copied, and each fork gets an overlay of the copy.

    read-only       a fork has the image itself, as the original has
    writable, raw   the copy lies beside the image, without a name: a clone that shares its blocks where the file system can make
                    one (FICLONE), else a copy without its holes
    a fork's        the copy below its overlay, and what it has written on top

The domain stands still meanwhile. What it had under way a fork asks for again, so it does not matter whether that is in the copy.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from domains.control.description import Disk, DomainConfig
from domains.dom0.toolstack.errors import ToolstackError
from domains.dom0.toolstack.host_thread import HostThread
from domains.dom0.toolstack.snapshots.kept import nameless
from domains.kernel.tasks import Task
from drivers.block.overlay import CHUNK_SIZE, FORMAT, Overlay, Overlays

FICLONE: Final = 0x40049409
"""Linux: include/uapi/linux/fs.h."""
AT_ONCE: Final = 1 << 24
"""Bytes copied by one system call."""


@dataclass(frozen=True, slots=True)
class KeptDisk:
    """`copy`: a descriptor of the image as it was, in folder `folder`; None: forks have the image itself."""

    disk: Disk
    copy: int | None
    folder: str

    @property
    def size(self) -> int:
        """Bytes that the copy takes of the host's disk, at most: some may be shared with the image."""
        return 0 if self.copy is None else os.fstat(self.copy).st_blocks * 512

    def close(self) -> None:
        """Nothing of it is left but what forks have of it."""
        if self.copy is not None:
            os.close(self.copy)


def check(config: DomainConfig) -> None:
    """ToolstackError: a disk of this domain cannot be kept, and why."""
    for disk in config.disks:
        if not disk.writable:
            continue
        if disk.backend is not None:
            why = f"is served by driver domain {disk.backend}"
        elif disk.format not in ("raw", FORMAT):
            why = f"is an image of format {disk.format}"
        else:
            continue
        raise ToolstackError(
            f"domain '{config.name}' cannot be kept: its disk {disk.vdev} {why}; only raw images of Dom0's, and disks that"
            " are read-only, can be"
        )


def keep(thread: HostThread, overlays: Overlays, disk: Disk, folder: str | None) -> Task[KeptDisk]:
    """Copy a disk, if it needs to be. ToolstackError."""
    if not disk.writable:
        return KeptDisk(disk, None, "")
    overlay = overlays.get(int(disk.target)) if disk.format == FORMAT else None
    path, where = disk.target, folder or os.path.dirname(disk.target)
    if overlay is not None:
        path, where = f"/proc/self/fd/{overlay.below}", folder or overlay.folder

    def work() -> int:
        copy = nameless(where)
        try:
            copy_image(path, copy)
            if overlay is not None:
                copy_written(overlay, copy)
        except BaseException:
            os.close(copy)
            raise
        return copy

    try:
        if folder is None and stat.S_ISBLK(os.stat(path).st_mode):
            raise OSError(errno.EXDEV, "it is a device of the host's")
        return KeptDisk(disk, (yield from thread.do(work)), where)
    except OSError as error:
        raise ToolstackError(
            f"cannot copy {disk.vdev} ({disk.target}) into a file in {where}: {error.strerror}; name a folder with --folder"
        ) from None


def copy_image(path: str, copy: int) -> None:
    """Have the empty file `copy` be as the image is now. OSError."""
    image = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        try:
            fcntl.ioctl(copy, FICLONE, image)
        except OSError:  # this file system has no clones
            size = os.lseek(image, 0, os.SEEK_END)
            os.ftruncate(copy, size)
            for start, end in data_of(image, size):
                copy_range(image, copy, start, end)
    finally:
        os.close(image)


def copy_written(overlay: Overlay, copy: int) -> None:
    """Put what an overlay has on top into a copy of what is below it. OSError."""
    size = os.fstat(copy).st_size
    for first, end, written in overlay.runs(0, len(overlay.written)):
        if written:
            copy_range(overlay.own, copy, first * CHUNK_SIZE, min(end * CHUNK_SIZE, size))


def data_of(image: int, size: int) -> Iterator[tuple[int, int]]:
    """Where a file has no holes: (from, to). A device has none."""
    at = 0
    while at < size:
        try:
            start = os.lseek(image, at, os.SEEK_DATA)
            end = os.lseek(image, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole up to its end
                return
            start, end = at, size
        yield start, end
        at = end


def copy_range(image: int, copy: int, start: int, end: int) -> None:
    """The same bytes at the same place. OSError."""
    while start < end:
        try:
            done = os.copy_file_range(image, copy, min(end - start, AT_ONCE), start, start)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            done = os.pwrite(copy, os.pread(image, min(end - start, AT_ONCE), start), start)
        if not done:  # the image has become shorter
            return
        start += done


def for_fork(kept: KeptDisk, overlays: Overlays, numbers: list[int]) -> Disk:
    """The disk of one fork; the number of its overlay, if it has one, is put into `numbers`. ToolstackError."""
    copy = kept.copy
    if copy is None:
        return kept.disk

    def made() -> Overlay:
        own = nameless(kept.folder)
        return Overlay(os.dup(copy), own, kept.folder)

    try:
        numbers.append(overlays.add(made))
    except OSError as error:
        raise ToolstackError(
            f"no file in {kept.folder} for what is written to {kept.disk.vdev}: {error.strerror}"
        ) from None
    return kept.disk.replaced(target=str(numbers[-1]), format=FORMAT)
