"""A file of the host's that Dom0 reads from its beginning to its end, while everybody else's work goes on: a thread does the
reading.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from domains.dom0.toolstack.errors import ToolstackError
from domains.dom0.toolstack.host_thread import HostThread
from domains.kernel.kernel import Kernel
from domains.kernel.tasks import Task

MOST_AT_END: Final = 1 << 24
"""Bytes that are looked at behind a stream."""
AHEAD: Final = 1 << 18
"""Bytes that are read at once for those who want few."""


class ReadFile:
    """A file being read; its methods but `do` and `read` are the thread's to call, and raise OSError."""

    def __init__(self, kernel: Kernel, path: str) -> None:
        self._thread = HostThread(kernel)
        self._path = path
        self._fd = -1
        self._buffer = memoryview(bytearray(AHEAD))
        self._ahead = self._buffer[:0]
        """What of the buffer was read, and not asked for yet."""

    def do(self, work: Callable[[], None]) -> Task[None]:
        """Have the thread do something, and wait for it. Raises ToolstackError."""
        try:
            yield from self._thread.do(work)
        except OSError as error:
            raise ToolstackError(f"cannot read {self._path}: {error.strerror}") from None

    def open(self) -> None:
        """Begin. It must be a file: others may never give a byte."""
        self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            raise OSError(0, "it is no regular file")

    def read(self, size: int) -> Task[memoryview]:
        """The next bytes, fewer only at the file's end; good until the next read."""
        if size > len(self._ahead):
            kept = len(self._ahead)
            if size > len(self._buffer):
                fresh = memoryview(bytearray(size))
                fresh[:kept], self._buffer = self._ahead, fresh
            else:
                self._buffer[:kept] = self._ahead
            buffer, got = self._buffer, [kept]

            def fill() -> None:
                while got[0] < size:
                    more = os.readv(self._fd, [buffer[got[0] :]])
                    if not more:
                        return
                    got[0] += more

            yield from self.do(fill)
            self._ahead = buffer[: got[0]]
        part, self._ahead = self._ahead[:size], self._ahead[size:]
        return part

    def last(self, size: int) -> Task[bytes]:
        """The file's last bytes, or all if it has fewer."""
        found: list[bytes] = []

        def look() -> None:
            end = os.fstat(self._fd).st_size
            found.append(os.pread(self._fd, min(size, MOST_AT_END), max(0, end - size)))

        yield from self.do(look)
        return found[0]

    def close(self) -> None:
        """Let go of it."""
        self._thread.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@contextmanager
def opened(kernel: Kernel, path: str) -> Iterator[ReadFile]:
    """A file to be read."""
    file = ReadFile(kernel, path)
    try:
        yield file
    finally:
        file.close()
