"""Where the stream of a snapshot lies: in the host's memory, or in a file without a name. Either is gone with Dom0, however it
ends.

From memory a fork reads without a copy in between: the memory is mapped for as long as the snapshot is there. A file is read by a
thread, for the host's disk may let one wait.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from domains.dom0.toolstack.errors import ToolstackError
from domains.dom0.toolstack.host_thread import HostThread, host_thread
from domains.dom0.toolstack.stream.ends import Bytes, MemorySource, Source
from domains.dom0.toolstack.stream.errors import EndOfStream
from domains.dom0.toolstack.written_file import write_all
from domains.kernel.kernel import Kernel
from domains.kernel.tasks import Task

AHEAD: Final = 1 << 18
"""Bytes that are read of a file at once for those who want few."""


class Kept:
    """The stream of one snapshot: first a Sink, and after `finish` any number of sources. `size`: its bytes."""

    def __init__(self, kernel: Kernel, folder: str | None, room: Callable[[], int]) -> None:
        """`folder`: where the file is; None: there is none. `room`: how many more bytes of memory may be taken."""
        self._kernel = kernel
        self._folder = folder
        self._room = room
        self._thread = HostThread(kernel)
        self._fd = -1
        self._map: mmap.mmap | None = None
        self.size = 0

    @property
    def memory_bytes(self) -> int:
        """What it takes of the host's memory."""
        return self.size if self._folder is None else 0

    @property
    def file_bytes(self) -> int:
        """What it takes of the host's disk."""
        return self.size - self.memory_bytes

    def open(self) -> Task[None]:
        """Begin. ToolstackError."""
        folder = self._folder
        if folder is None:
            self._fd = os.memfd_create("snapshot", os.MFD_CLOEXEC)
            return
        try:
            self._fd = yield from self._thread.do(lambda: nameless(folder))
        except OSError as error:
            raise self._cannot(error) from None

    def write(self, parts: Sequence[Bytes]) -> Task[None]:
        """See Sink. ToolstackError: there is no room."""
        if self._folder is None and sum(map(len, parts)) > self._room():
            raise ToolstackError(
                "the snapshots of a machine take as much of the host's memory as the machine has, at most; delete one"
                " ('xenctl snapshot-delete'), or keep this one in a file (--folder)"
            )
        try:
            yield from self._thread.do(lambda: write_all(self._fd, parts))
        except OSError as error:
            raise self._cannot(error) from None
        self.size += sum(map(len, parts))

    def finish(self) -> None:
        """The stream is whole."""
        self._thread.close()
        if self._folder is None:
            self._map = mmap.mmap(self._fd, self.size, prot=mmap.PROT_READ)

    @contextmanager
    def source(self) -> Iterator[Source]:
        """The stream from its beginning."""
        if self._map is not None:
            yield MemorySource(memoryview(self._map))
            return
        with host_thread(self._kernel) as thread:
            yield FileEnd(thread, self._fd)

    def close(self) -> None:
        """Nothing of it is left. Idempotent."""
        self._thread.close()
        self._map = None  # unmapped when nobody has a view of it
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _cannot(self, error: OSError) -> ToolstackError:
        where = self._folder or "the host's memory"
        return ToolstackError(f"cannot keep the snapshot in {where}: {error.strerror}; name another folder")


class FileEnd:
    """A stream that lies in a file which others read, too."""

    def __init__(self, thread: HostThread, fd: int) -> None:
        self._thread = thread
        self._fd = fd
        self._at = 0
        self._ahead = memoryview(b"")

    def read(self, size: int) -> Task[Bytes]:
        """See Source."""
        if size > len(self._ahead):
            kept, at = bytes(self._ahead), self._at
            wanted = max(size, AHEAD) - len(kept)
            try:
                more = yield from self._thread.do(lambda: os.pread(self._fd, wanted, at))
            except OSError as error:
                raise ToolstackError(f"cannot read the snapshot's file: {error.strerror}") from None
            self._at += len(more)
            self._ahead = memoryview(kept + more)
        if size > len(self._ahead):
            raise EndOfStream(f"{len(self._ahead)} bytes are left, not {size}")
        part, self._ahead = self._ahead[:size], self._ahead[size:]
        return part


def nameless(folder: str) -> int:
    """A new file in `folder` that has no name, for reading and writing. OSError."""
    return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
