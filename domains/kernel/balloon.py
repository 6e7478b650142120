"""The balloon: how much memory this domain has, as the toolstack tells it in `memory/target` (`xenctl mem-set`).

    target falls     free pages leave the linear map, and their frames go back to Xen (XENMEM_decrease_reservation)
    target rises     their numbers get frames again (XENMEM_populate_physmap); beyond what the domain began with, new numbers do

What cannot be done now (no page is free, Xen has no frame or gives no more) is tried again, ever more seldom. Source: Linux,
drivers/xen/balloon.c and xen-balloon.c.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import numpy as np

from domains.kernel.kernel import Kernel
from domains.kernel.memory import Page
from domains.kernel.page_tables import READ_WRITE
from domains.kernel.tasks import NEXT_TURN, Task
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.memory import (
    XENMEM_decrease_reservation,
    XENMEM_populate_physmap,
    xen_memory_reservation,
)
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE, MAddr, Mfn, Pfn, VAddr
from hypervisor.public.xen import DOMID_SELF, MMUEXT_TLB_FLUSH_LOCAL, mmuext_op

NODE: Final = "memory/target"
PIECE: Final = 256
"""Pages that come or go at a time."""
KEPT: Final = 64
"""Free pages that the guest keeps for itself."""
RETRY: Final = 1.0
MAX_RETRY: Final = 32.0
"""Seconds until it is tried again: the first time, and in the end."""
TOP: Final = 1 << 64


class Balloon:
    """One per kernel. `start` is for straight-line code; everything else happens from the loop."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._memory = kernel.memory
        self._target = kernel.memory.nr_pages
        self._without: list[int] = []
        """Numbers of pages that have no frames; the last one gets a frame first."""
        self._retry = RETRY
        self._work = kernel.loop.source(self._adjust)

    @property
    def pages(self) -> int:
        """Pages that the domain has."""
        return self._memory.nr_p2m - len(self._without)

    def start(self) -> None:
        """Heed the target from now on."""
        self._kernel.xenbus.watch(NODE, self._changed)

    def _changed(self, path: str) -> Task[None]:
        try:
            text = yield from self._kernel.xenbus.tasks.read(path)
        except XenError as error:
            if error.errno is not Errno.ENOENT:
                raise
            return
        if text.isascii() and text.isdecimal() and len(text) < 20:
            self._target, self._retry = int(text) * 1024 // PAGE_SIZE, RETRY
            self._work.trigger()

    def _adjust(self) -> Task[None]:
        """Come as near to the target as is possible now; it is the others' turn after each piece."""
        while (more := self._target - self.pages) != 0:
            done = self._grow(min(more, PIECE)) if more > 0 else self._shrink(min(-more, PIECE))
            if not done:
                self._kernel.call_later(self._retry, self._work.trigger)
                self._retry = min(2 * self._retry, MAX_RETRY)
                return
            yield NEXT_TURN

    # --- frames go -------------------------------------------------------------------------------

    def _shrink(self, count: int) -> int:
        """Give so many free pages' frames back, or fewer; how many."""
        memory = self._memory
        pages: list[Page] = []
        with suppress(XenError):  # the last ones are needed for page tables
            for _ in range(min(count, memory.free_pages - KEPT)):
                pages.append(memory.alloc_page())
        self._map([page.pfn for page in pages], [0] * len(pages))
        done = self._reservation(XENMEM_decrease_reservation, [page.mfn for page in pages])[0]
        for page in pages[:done]:
            memory.set_phys_to_machine(page.pfn, None)
        self._without += [page.pfn for page in pages[:done]]
        self._come([page.pfn for page in pages[done:]], [page.mfn for page in pages[done:]])
        return done

    # --- frames come -----------------------------------------------------------------------------

    def _grow(self, count: int) -> int:
        """Take frames for so many pages, or fewer; how many."""
        if not self._without and not self._make_numbers():
            return 0
        pfns = self._without[-count:]
        done, mfns = self._reservation(XENMEM_populate_physmap, pfns)
        del self._without[len(self._without) - len(pfns) :]
        self._without += pfns[done:]
        self._come(pfns[:done], mfns[:done])
        return done

    def _make_numbers(self) -> bool:
        """Have numbers for all pages that the target asks for; whether there are any."""
        memory = self._memory
        first, pages = memory.nr_p2m, min(self._target, (TOP - memory.base) >> PAGE_SHIFT)
        if pages <= first:
            return False
        try:
            memory.lengthen_p2m(pages)
        except XenError:
            return False
        self._without = list(range(pages - 1, first - 1, -1))
        return True

    def _come(self, pfns: Sequence[int], mfns: Sequence[int]) -> None:
        """Zeroed frames are this domain's: map them, and hand them out."""
        for pfn, mfn in zip(pfns, mfns, strict=True):
            self._memory.set_phys_to_machine(Pfn(pfn), Mfn(mfn))
        self._map(pfns, [mfn << PAGE_SHIFT | READ_WRITE for mfn in mfns])
        for pfn in pfns:
            self._memory.add_page(Pfn(pfn))

    # --- hypercalls ------------------------------------------------------------------------------

    def _map(self, pfns: Sequence[int], entries: Sequence[int]) -> None:
        """Set the linear map's entries of these pages, and forget the old ones."""
        if not pfns:
            return
        memory = self._memory
        updates = []
        for pfn, entry in zip(pfns, entries, strict=True):
            va = VAddr(memory.base + (pfn << PAGE_SHIFT))
            table = memory.tables.ensure_l1(va)
            updates.append((MAddr((table << PAGE_SHIFT) + (va >> PAGE_SHIFT) % 512 * 8), entry))
        memory.tables.update(updates)
        self._kernel.hypercalls.hypercall_mmuext_op([mmuext_op(cmd=MMUEXT_TLB_FLUSH_LOCAL)])

    def _reservation(self, op: int, numbers: Sequence[int]) -> tuple[int, list[int]]:
        """Change the domain's reservation by these frames, or for these pages; how many, and what is in the list then."""
        if not numbers:
            return 0, []
        hypercalls, size = self._kernel.hypercalls, 8 * len(numbers)
        with hypercalls.arguments as area:
            va = area.push(np.array(numbers, "<u8").tobytes())
            request = xen_memory_reservation(extent_start=va, nr_extents=len(numbers), domid=DOMID_SELF)
            done = hypercalls.hypercall_memory_op(op, request)
            return done, np.frombuffer(self._kernel.cpu.load(va, size), "<u8").tolist()
