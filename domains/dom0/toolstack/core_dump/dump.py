"""Writing a core dump of a domain while everybody else's work goes on.

    loop    pauses the domain ─► finds its frames ─► maps some ──► … ─► unmaps them, maps the next ─► … ─► lets it go on
    thread                                               └► writes them ─┘

The file is written under another name beside its own, and takes its place when it is whole: a dump that fails leaves what was
there, and nothing else.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from domains.dom0.toolstack.core_dump.contents import (
    Words,
    contexts_of,
    frames_of,
    shared_info_of,
    xen_version,
)
from domains.dom0.toolstack.core_dump.elf_core import About, Core, core_of
from domains.dom0.toolstack.errors import ToolstackError
from domains.dom0.toolstack.xenctrl import DomainInfo, XenCtrl
from domains.kernel.kernel import Kernel
from domains.kernel.tasks import Signal, Task
from drivers.block.aside import Aside
from hypervisor.public.errno import XenError
from hypervisor.public.types import PAGE_SIZE, DomId, Mfn

PAGES_AT_ONCE: Final = 128
"""Mapped at a time, and written by one call."""
AT_ONCE: Final = 4
"""Dumps under way; others wait."""


class CoreDumps:
    """One per toolstack."""

    def __init__(self, kernel: Kernel, xen: XenCtrl, folder: Path) -> None:
        """`folder`: where those lie that nobody names a file for."""
        self._folder = folder
        self._kernel = kernel
        self._xen = xen
        self._under_way = 0
        self._ended = Signal()

    def path_of(self, name: str) -> str:
        """The file for a domain that its description has dumped: one for each name."""
        return str(self._folder / name)

    def dump(self, domid: DomId, path: str) -> Task[int]:
        """Write a domain's memory and registers to the file of that absolute path; how many pages it has.

        Raises ToolstackError: the file cannot be written, or the domain ended meanwhile.
        """
        yield from self._kernel.until(lambda: self._under_way < AT_ONCE, self._ended)
        self._under_way += 1
        try:
            return (yield from self._dump(domid, path))
        except XenError as error:
            raise ToolstackError(
                f"domain {domid} could not be dumped, for it ended meanwhile: {error}"
            ) from None
        finally:
            self._under_way -= 1
            self._ended.send()

    def _dump(self, domid: DomId, path: str) -> Task[int]:
        info = self._xen.getdomaininfo(domid)
        if info is None or info.dying:
            raise ToolstackError(f"domain {domid} is gone")
        self._xen.pausedomain(domid)
        try:
            with opened(self._kernel, path, self._folder) as file:
                yield from file.do(file.open)
                pages = yield from self._write(info, file)
                yield from file.do(file.finish)
                return pages
        finally:
            with suppress(XenError):  # it is gone
                self._xen.unpausedomain(domid)

    def _write(self, info: DomainInfo, file: CoreFile) -> Task[int]:
        kernel, domid = self._kernel, info.domid
        pfns, mfns = yield from frames_of(kernel, self._xen, domid)
        translated = info.translated
        contexts = yield from contexts_of(kernel, self._xen, domid, info.max_vcpus, translated=translated)
        shared = shared_info_of(kernel, domid, info.shared_info_frame)
        about = About(translated, contexts, shared, xen_version(kernel))
        made: list[Core] = []
        yield from file.do(lambda: made.append(core_of(about, pfns, mfns)))
        (core,) = made
        yield from file.write([core.before])
        for first in range(0, len(core.frames), PAGES_AT_ONCE):
            yield from self._write_pages(domid, core.frames[first : first + PAGES_AT_ONCE], file)
        yield from file.write([core.after])
        return len(core.frames)

    def _write_pages(self, domid: DomId, frames: Words, file: CoreFile) -> Task[None]:
        memory = self._kernel.memory
        va = memory.map_frames(domid, [Mfn(frame) for frame in frames.tolist()], writable=False)
        try:
            yield from file.write(self._kernel.cpu.views(va, len(frames) * PAGE_SIZE))
        finally:
            memory.unmap(va)


class CoreFile:
    """A file being written by a thread; its methods but `do` and `write` are the thread's to call, and raise OSError."""

    def __init__(self, kernel: Kernel, path: str, folder: Path) -> None:
        """`folder` is made if the file lies in it; others must be there."""
        self._kernel = kernel
        self._folder = folder
        self._aside = Aside(kernel)
        self._path = path
        self._part = f"{path}.{secrets.token_hex(4)}.part"
        """A name of its own: what is called so already is somebody's, as another dump into the same file is."""
        self._fd = -1

    def do(self, work: Callable[[], None]) -> Task[None]:
        """Have the thread do something, and wait for it. Raises ToolstackError."""
        ended: list[OSError | None] = []
        signal = Signal()

        def done(error: OSError | None) -> None:
            ended.append(error)
            signal.send()

        self._aside.submit(work, done)
        yield from self._kernel.until(lambda: bool(ended), signal)
        if (error := ended[0]) is not None:
            raise ToolstackError(f"cannot write {self._path}: {error.strerror}; name another file")

    def write(self, pieces: Sequence[bytes | memoryview]) -> Task[None]:
        """Put these behind what was written before."""
        return self.do(lambda: write_all(self._fd, pieces))

    def open(self) -> None:
        """Begin. What is there under its name already must be a file."""
        with suppress(FileNotFoundError):
            if not stat.S_ISREG(os.stat(self._path).st_mode):
                raise OSError(0, "it is no regular file")
        if Path(self._path).parent == self._folder:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._fd = os.open(self._part, flags, 0o600)

    def finish(self) -> None:
        """It is whole."""
        os.close(self._fd)
        self._fd = -1
        os.replace(self._part, self._path)

    def close(self) -> None:
        """Let go of everything; a part of a file is nobody's."""
        self._aside.close()
        if self._fd >= 0:
            os.close(self._fd)
            with suppress(OSError):
                os.unlink(self._part)


def dump_folder(machine: str) -> Path:
    """Where a machine's dumps lie, and stay when it ends: $XDG_STATE_HOME/xenoscope/dump/<machine> (Xen's XEN_DUMP_DIR)."""
    state = os.environ.get("XDG_STATE_HOME", "") or os.path.expanduser("~/.local/state")
    return Path(state if state.startswith("/") else "/var/tmp") / "xenoscope" / "dump" / machine


@contextmanager
def opened(kernel: Kernel, path: str, folder: Path) -> Iterator[CoreFile]:
    """A file to be written; nothing of it is left if that fails."""
    file = CoreFile(kernel, path, folder)
    try:
        yield file
    finally:
        file.close()


def write_all(fd: int, pieces: Sequence[bytes | memoryview]) -> None:
    """Write pieces one after the other. Raises OSError."""
    total = sum(map(len, pieces))
    done = os.writev(fd, pieces)
    if done == total:
        return
    rest = memoryview(b"".join(pieces))[done:]
    while rest:
        rest = rest[os.write(fd, rest) :]
