"""A domain's pages as they are looked at in round after round: mapped once, for as long as they are in the same frames.

What takes time of a look is the mapping, by hypercalls; to hash what is mapped does not. And the last look is taken while the
domain stands still. HELD_MOST pages are held; those of a larger domain are mapped for each look.

A mapping keeps a frame from being free. So whoever destroys the domain has all of them let go first (`Domains.ending`).
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from domains.dom0.toolstack.domain_pages import Words
from domains.dom0.toolstack.errors import ToolstackError
from domains.dom0.toolstack.migrating.rounds import hashes_of
from domains.kernel.kernel import Kernel
from domains.kernel.tasks import NEXT_TURN, Task
from hypervisor.public.types import DomId, VAddr

AT_ONCE: Final = 512
"""Pages in one run, by their numbers in the domain."""
HELD_MOST: Final = 65536
"""Of them Dom0 keeps 512 KiB of page tables."""


class Run(NamedTuple):
    """Machine frames that are mapped side by side, and a view of each."""

    where: Words
    va: VAddr
    views: list[memoryview]


class HeldPages:
    """Those of one domain, while it leaves."""

    def __init__(self, kernel: Kernel, domid: DomId) -> None:
        self._kernel = kernel
        self._domid = domid
        self._runs: dict[int, Run] = {}
        self._ended = False

    def read(self, number: int, frames: Words, where: Words) -> Words:
        """Copies of the pages of run `number`: uint64[n, 512]. `frames` is what a mapping names, `where` the machine frames,
        another thing for a PVH domain; a page that it gave away and got back lies elsewhere. XenError: not all are the domain's.
        """
        run = self._run(number, frames, where)
        pages = self._kernel.cpu.load_pages(run.va, len(frames))
        self._keep_few(number)
        return pages

    def hashes(self, number: int, frames: Words, where: Words) -> Words:
        """The hash of each of them. XenError."""
        found = hashes_of(self._run(number, frames, where).views)
        self._keep_few(number)
        return found

    def _run(self, number: int, frames: Words, where: Words) -> Run:
        if self._ended:
            raise ToolstackError(f"domain {self._domid} is being destroyed")
        run = self._runs.get(number)
        if run is None or not np.array_equal(run.where, where):
            self._let_go(number)
            run = self._runs[number] = self._mapped(frames, where)
        return run

    def _keep_few(self, number: int) -> None:
        if len(self._runs) * AT_ONCE > HELD_MOST:
            self._let_go(number)

    def _mapped(self, frames: Words, where: Words) -> Run:
        va = self._kernel.memory.map_frames(self._domid, frames.tolist(), writable=False)
        return Run(where, va, self._kernel.cpu.page_views(va, len(frames)))

    def _let_go(self, number: int) -> None:
        run = self._runs.pop(number, None)
        if run is not None:
            run.views.clear()
            self._kernel.memory.unmap(run.va)

    def end(self) -> None:
        """Let go of all, in the next turns of the loop; from now on nothing is mapped. Idempotent."""
        if not self._ended:
            self._ended = True
            self._kernel.spawn(self._let_all_go())

    def _let_all_go(self) -> Task[None]:
        while self._runs:
            self._let_go(next(iter(self._runs)))
            yield NEXT_TURN
