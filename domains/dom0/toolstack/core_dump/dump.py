"""Writing a core dump of a domain while everybody else's work goes on.

    loop    pauses the domain ─► finds its frames ─► maps some ──► … ─► unmaps them, maps the next ─► … ─► lets it go on
    thread                                               └► writes them ─┘

A dump that fails leaves the file that was there, and nothing else (written_file.py).
"""

from __future__ import annotations

import os
from contextlib import suppress
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
from domains.dom0.toolstack.written_file import WrittenFile, opened
from domains.dom0.toolstack.xenctrl import DomainInfo, XenCtrl
from domains.kernel.kernel import Kernel
from domains.kernel.tasks import Signal, Task
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

    def _write(self, info: DomainInfo, file: WrittenFile) -> Task[int]:
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

    def _write_pages(self, domid: DomId, frames: Words, file: WrittenFile) -> Task[None]:
        memory = self._kernel.memory
        va = memory.map_frames(domid, [Mfn(frame) for frame in frames.tolist()], writable=False)
        try:
            yield from file.write(self._kernel.cpu.views(va, len(frames) * PAGE_SIZE))
        finally:
            memory.unmap(va)


def dump_folder(machine: str) -> Path:
    """Where a machine's dumps lie, and stay when it ends: $XDG_STATE_HOME/xenoscope/dump/<machine> (Xen's XEN_DUMP_DIR)."""
    state = os.environ.get("XDG_STATE_HOME", "") or os.path.expanduser("~/.local/state")
    return Path(state if state.startswith("/") else "/var/tmp") / "xenoscope" / "dump" / machine
