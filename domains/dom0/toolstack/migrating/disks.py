"""Images that go over with their domain: all of them while it runs, and again what changed, when it stands still.

    block   number of the disk u32 | size u32 | offset u64 | bytes        size 0 and number END: no more of this part

A block is BLOCK bytes, the last one of an image fewer; blocks of zeros are not sent the first time, for the file at the target
begins as a hole. What changed is found by a hash of each block, as with memory (rounds.py). Files are read and written by a
thread.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import xxhash

from domains.dom0.toolstack.errors import ToolstackError
from domains.dom0.toolstack.host_thread import HostThread
from domains.dom0.toolstack.migrating.offer import DiskOffer
from domains.dom0.toolstack.stream.ends import Bytes, Sink, Source
from domains.kernel.kernel import Kernel
from domains.kernel.tasks import Task

BLOCK: Final = 1 << 18
HEAD: Final = struct.Struct("<IIQ")
END: Final = 0xFFFF_FFFF


class Owner(Protocol):
    """Where copies lie."""

    def path_of(self, disk: DiskOffer) -> Path:
        """The file for a disk."""


def done_by(thread: HostThread, work: Callable[[], None]) -> Task[None]:
    """Have a thread do something with images, and wait for it. Raises ToolstackError."""
    try:
        yield from thread.do(work)
    except OSError as error:
        raise ToolstackError(f"an image cannot be copied: {error.filename or ''} {error.strerror}") from None


class CopiedDisks:
    """The images at the source."""

    def __init__(self, kernel: Kernel, disks: Sequence[DiskOffer]) -> None:
        self._thread = HostThread(kernel)
        self._disks = [disk for disk in disks if disk.copied]
        self._hashes: dict[tuple[int, int], int] = {}

    def send(self, sink: Sink) -> Task[None]:
        """Send all of them. ToolstackError, and what the sink raises."""
        yield from self._send(sink)

    def send_rest(self, sink: Sink) -> Task[None]:
        """Send what has changed since. The same."""
        yield from self._send(sink)

    def _send(self, sink: Sink) -> Task[None]:
        for disk in self._disks:
            for offset in range(0, disk.size, BLOCK):
                size = min(BLOCK, disk.size - offset)
                found: list[bytes] = []
                yield from done_by(self._thread, partial(self._look, disk, offset, size, found))
                if found:
                    yield from sink.write([HEAD.pack(disk.devid, size, offset), found[0]])
        yield from sink.write([HEAD.pack(END, 0, 0)])

    def _look(self, disk: DiskOffer, offset: int, size: int, found: list[bytes]) -> None:
        """Read a block; it is found if it is not as it was sent."""
        fd = os.open(disk.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.pread(fd, size, offset).ljust(size, b"\0")
        finally:
            os.close(fd)
        digest, key = xxhash.xxh3_64_intdigest(data), (disk.devid, offset)
        before = self._hashes.get(key)
        self._hashes[key] = digest
        if digest != before and not (before is None and not any(data)):
            found.append(data)

    def close(self) -> None:
        """Let go of everything."""
        self._thread.close()


class DiskCopies:
    """The copies at the target, in a folder of their own; nothing of them is left unless they are kept."""

    def __init__(self, kernel: Kernel, folder: Path, disks: Sequence[DiskOffer]) -> None:
        self._thread = HostThread(kernel)
        self._folder = folder
        self._disks = {disk.devid: disk for disk in disks if disk.copied}
        self._kept = False

    def path_of(self, disk: DiskOffer) -> Path:
        """The file of a copy."""
        return self._folder / f"{disk.devid}.img"

    def make(self) -> Task[None]:
        """Make the files, as holes. Raises ToolstackError."""
        yield from done_by(self._thread, self._make)

    def _make(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True)
        for disk in self._disks.values():
            fd = os.open(self.path_of(disk), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.ftruncate(fd, disk.size)
            finally:
                os.close(fd)

    def receive(self, source: Source) -> Task[None]:
        """Blocks up to the end of this part. Raises ToolstackError, and what the source raises."""
        while True:
            devid, size, offset = HEAD.unpack(bytes((yield from source.read(HEAD.size))))
            if devid == END:
                return
            disk = self._disks.get(devid)
            if disk is None or size > BLOCK or offset + size > disk.size:
                raise ToolstackError("a block of an image that was not offered so")
            data: Bytes = yield from source.read(size)
            yield from done_by(self._thread, partial(self._write, disk, offset, data))

    def _write(self, disk: DiskOffer, offset: int, data: Bytes) -> None:
        fd = os.open(self.path_of(disk), os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(fd, data, offset)
        finally:
            os.close(fd)

    def keep(self) -> None:
        """The domain runs with them."""
        self._kept = True

    def close(self) -> None:
        """Let go of everything."""
        self._thread.close()
        if self._kept:
            return
        for disk in self._disks.values():
            with suppress(OSError):
                self.path_of(disk).unlink()
        with suppress(OSError):
            self._folder.rmdir()


def images_folder(machine: str) -> Path:
    """Where the images lie that came to a machine: a folder for each migration, whose files are the user's from then on."""
    state = os.environ.get("XDG_STATE_HOME", "") or os.path.expanduser("~/.local/state")
    return Path(state if state.startswith("/") else "/var/tmp") / "xenoscope" / "images" / machine
