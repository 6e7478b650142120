"""A domain's pages as Dom0 reads and writes many of them at a time, through a foreign mapping that Xen has checked."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from domains.kernel.kernel import Kernel
from domains.kernel.tasks import NEXT_TURN, Task
from hypervisor.public.types import DomId

Words = npt.NDArray[np.uint64]
AT_ONCE: Final = 1024
"""Pages in one turn: what takes a few milliseconds."""
WRITTEN_AT_ONCE: Final = 512


class DomainPages:
    """Those of one domain; frames are machine frames of a PV domain, and its own of a translated one."""

    def __init__(self, kernel: Kernel, domid: DomId) -> None:
        self._kernel = kernel
        self._domid = domid

    def read(self, frames: Words) -> Words:
        """Copies of at most AT_ONCE pages: uint64[n, 512]. XenError: they are not all the domain's."""
        memory = self._kernel.memory
        if not len(frames):
            return np.empty((0, 512), np.uint64)
        va = memory.map_frames(self._domid, frames.tolist(), writable=False)
        try:
            return self._kernel.cpu.load_pages(va, len(frames))
        finally:
            memory.unmap(va)

    def write(self, frames: Words, pages: Words) -> None:
        """Put at most AT_ONCE pages, uint64[n, 512], into frames. XenError: they are not all the domain's, or one is a table."""
        memory = self._kernel.memory
        if not len(frames):
            return
        va = memory.map_frames(self._domid, frames.tolist())
        try:
            self._kernel.cpu.store_pages(va, pages)
        finally:
            memory.unmap(va)

    def write_all(self, frames: Words, pages: Words) -> Task[None]:
        """Any number of pages, WRITTEN_AT_ONCE in one turn: a new page of the host's is cleared first."""
        for first in range(0, len(frames), WRITTEN_AT_ONCE):
            part = slice(first, first + WRITTEN_AT_ONCE)
            self.write(frames[part], pages[part])
            yield NEXT_TURN

    def read_all(self, frames: Words) -> Task[Words]:
        """Any number of pages, AT_ONCE in one turn."""
        parts = [np.empty((0, 512), np.uint64)]
        for first in range(0, len(frames), AT_ONCE):
            parts.append(self.read(frames[first : first + AT_ONCE]))
            yield NEXT_TURN
        return np.concatenate(parts)
