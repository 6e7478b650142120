"""A file of the host's that Dom0 writes whole or not at all, while everybody else's work goes on: a thread does the writing.

It has no name while it is written, and takes its place when it is whole: what fails leaves what was there, and nothing else, and
so does a Dom0 that is killed. Where the file system knows no files without a name (O_TMPFILE), it has another one beside its own.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from domains.dom0.toolstack.errors import ToolstackError
from domains.dom0.toolstack.host_thread import HostThread
from domains.kernel.kernel import Kernel
from domains.kernel.tasks import Task


class WrittenFile:
    """A file being written by a thread; its methods but `do` and `write` are the thread's to call, and raise OSError."""

    def __init__(self, kernel: Kernel, path: str, folder: Path | None) -> None:
        """`folder` is made if the file lies in it; others must be there."""
        self._folder = folder
        self._thread = HostThread(kernel)
        self._path = path
        self._part = f"{path}.{secrets.token_hex(4)}.part"
        """A name of its own: what is called so already is somebody's, as another one into the same file is."""
        self._fd = -1
        self._named = False
        """Whether it is called so already."""

    def do(self, work: Callable[[], None]) -> Task[None]:
        """Have the thread do something, and wait for it. Raises ToolstackError."""
        try:
            yield from self._thread.do(work)
        except OSError as error:
            raise ToolstackError(f"cannot write {self._path}: {error.strerror}; name another file") from None

    def write(self, pieces: Sequence[bytes | memoryview]) -> Task[None]:
        """Put these behind what was written before."""
        return self.do(lambda: self.append(pieces))

    def append(self, pieces: Sequence[bytes | memoryview]) -> None:
        """The same, for the thread to call."""
        write_all(self._fd, pieces)

    def open(self) -> None:
        """Begin. What is there under its name already must be a file."""
        with suppress(FileNotFoundError):
            if not stat.S_ISREG(os.stat(self._path).st_mode):
                raise OSError(0, "it is no regular file")
        if self._folder is not None and Path(self._path).parent == self._folder:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CLOEXEC
        try:
            self._fd = os.open(Path(self._path).parent, flags | os.O_TMPFILE, 0o600)
        except OSError:
            self._fd = os.open(self._part, flags | os.O_CREAT | os.O_EXCL, 0o600)
            self._named = True

    def finish(self) -> None:
        """It is whole, and stays so if the host loses its power: a domain is destroyed whose memory it has."""
        os.fsync(self._fd)
        if not self._named:
            # a descriptor of a folder, though none is needed, has Python follow the link, by linkat
            os.link(f"/proc/self/fd/{self._fd}", self._part, src_dir_fd=self._fd, follow_symlinks=True)
            self._named = True
        os.replace(self._part, self._path)
        os.close(self._fd)
        self._fd = -1
        sync_folder(Path(self._path).parent)

    def close(self) -> None:
        """Let go of everything; a part of a file is nobody's."""
        self._thread.close()
        if self._fd >= 0:
            os.close(self._fd)
            if self._named:
                with suppress(OSError):
                    os.unlink(self._part)


@contextmanager
def opened(kernel: Kernel, path: str, folder: Path | None = None) -> Iterator[WrittenFile]:
    """A file to be written; nothing of it is left if that fails."""
    file = WrittenFile(kernel, path, folder)
    try:
        yield file
    finally:
        file.close()


def sync_folder(folder: Path) -> None:
    """See that the names in it outlive the host. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, pieces: Sequence[bytes | memoryview]) -> None:
    """Write pieces one after the other. Raises OSError."""
    total = sum(map(len, pieces))
    done = os.writev(fd, pieces)
    if done == total:
        return
    rest = memoryview(b"".join(pieces))[done:]
    while rest:
        rest = rest[os.write(fd, rest) :]
