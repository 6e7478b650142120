"""The pages of a PV domain that is restored.

    PAGE_DATA          a page that is new gets a frame; its content goes there as it stands in the stream
    the stream's end   page tables are translated where they lie, while they are still ordinary pages; then the guest's own
                       table of frames (P2M) is written anew. Xen checks tables when a vCPU or a pin first uses them as such

A page may come several times: the last one counts, which is how a domain that runs is moved. Nothing but a number and a type for
each page is kept in Dom0.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from domains.dom0.toolstack.domain_pages import AT_ONCE, DomainPages, Words
from domains.dom0.toolstack.stream.errors import StreamError
from domains.dom0.toolstack.stream.framing import Record
from domains.dom0.toolstack.stream.page_data import LEVEL, PINNED, XALLOC, PageData, has_content
from domains.dom0.toolstack.stream.page_tables import NONE, TABLES_AT_ONCE, BadEntry, localise
from domains.dom0.toolstack.stream.pv_records import P2mFrames
from domains.dom0.toolstack.xenctrl import EXTENTS_AT_ONCE, XenCtrl
from domains.kernel.kernel import Kernel
from domains.kernel.tasks import NEXT_TURN, Task
from hypervisor.public.errno import XenError
from hypervisor.public.types import PAGE_SIZE, DomId

MORE_PFNS: Final = 1 << 20
"""Numbers that a domain's pages may have beyond four times as many as it has pages (saving/pv_memory.py)."""
IDENTITY: Final = {8: 1 << 62, 4: 1 << 30}
FOREIGN: Final = {8: 1 << 63, 4: 1 << 31}
"""By the width of words: bits by which Linux says in its P2M that a page is no memory, or another domain's."""


class PvRestoredMemory:
    """Of one domain. `p2m`: by page the machine frame, or NONE; `types`: as in PAGE_DATA."""

    def __init__(self, kernel: Kernel, xen: XenCtrl, domid: DomId, most_pages: int, width: int) -> None:
        self._xen = xen
        self._domid = domid
        self._pages = DomainPages(kernel, domid)
        self._most = 4 * most_pages + MORE_PFNS
        self._width = width
        self.p2m: Words = np.empty(0, np.uint64)
        self.types: Words = np.empty(0, np.uint8)
        self._p2m_pfns: Words = np.empty(0, np.uint64)
        self._p2m_record: Record

    # --- from the stream ---------------------------------------------------------------------------

    def p2m_frames(self, record: Record, frames: P2mFrames) -> None:
        """Where the guest's own table lies, and how many pages it is for. StreamError."""
        size = frames.end + 1
        record.need(size <= self._most, f"pages up to number {frames.end:#x} are too many for this domain")
        if size > len(self.p2m):
            more = size - len(self.p2m)
            self.p2m = np.concatenate([self.p2m, np.full(more, NONE)])
            self.types = np.concatenate([self.types, np.zeros(more, np.uint8)])
        entries = PAGE_SIZE // self._width
        first, end = frames.start // entries, frames.start // entries + len(frames.pfns)
        if end > len(self._p2m_pfns):
            self._p2m_pfns = np.concatenate([self._p2m_pfns, np.full(end - len(self._p2m_pfns), NONE)])
        self._p2m_pfns[first:end] = frames.pfns
        self._p2m_record = record.bare

    def page_data(self, record: Record, data: PageData) -> Task[None]:
        """Some pages. StreamError: there are no such pages; XenError(ENOMEM)."""
        record.need(len(self.p2m) > 0, "it comes before X86_PV_P2M_FRAMES")
        beyond = data.pfns >= len(self.p2m)
        if beyond.any():
            raise record.wrong(
                f"page {data.pfns[np.argmax(beyond)]:#x}: X86_PV_P2M_FRAMES has pages up to {len(self.p2m) - 1:#x}"
            )
        pfns = data.pfns.astype(np.intp)
        self.types[pfns] = np.where(data.types == XALLOC, 0, data.types)
        wanted = pfns[(has_content(data.types) | (data.types == XALLOC)) & (self.p2m[pfns] == NONE)]
        for first in range(0, len(wanted), EXTENTS_AT_ONCE):
            part = wanted[first : first + EXTENTS_AT_ONCE]
            try:
                self.p2m[part] = self._xen.populate(self._domid, part.astype(np.uint64))
            except XenError as error:
                raise record.wrong(f"the domain gets no more memory: {error}") from None
            yield NEXT_TURN
        yield from self._pages.write_all(self.p2m[pfns[data.with_content]], data.pages)

    # --- at the stream's end -----------------------------------------------------------------------

    def frame_of(self, pfns: Words) -> Words:
        """The machine frames of these pages; NONE: there is no such page."""
        there = pfns < len(self.p2m)
        return np.where(there, self.p2m[np.where(there, pfns, 0).astype(np.intp)], NONE)

    def ordinary_frame(self, pfn: int) -> int | None:
        """The machine frame of a page that is no page table; None: there is no such page."""
        if pfn >= len(self.p2m) or self.types[pfn] & LEVEL or self.p2m[pfn] == NONE:
            return None
        return int(self.p2m[pfn])

    def table_frame(self, pfn: int, level: int) -> int | None:
        """The machine frame of a page table of that level; None: that page is none."""
        if pfn >= len(self.p2m) or self.types[pfn] & LEVEL != level or self.p2m[pfn] == NONE:
            return None
        return int(self.p2m[pfn])

    def finish(self) -> Task[None]:
        """Translate the page tables, and write the guest's table of frames. StreamError."""
        yield from self._localise()
        yield from self._write_p2m()

    def pins(self) -> list[tuple[int, int]]:
        """The page tables that are to be pinned: (page, level), the lowest levels first."""
        pinned = np.flatnonzero(
            (self.types & PINNED != 0) & (self.types & LEVEL != 0) & has_content(self.types)
        )
        levels = self.types[pinned] & LEVEL
        order = np.argsort(levels, kind="stable")
        return list(zip(pinned[order].tolist(), levels[order].tolist(), strict=True))

    def _localise(self) -> Task[None]:
        tables = np.flatnonzero((self.types & LEVEL != 0) & has_content(self.types) & (self.p2m != NONE))
        for first in range(0, len(tables), TABLES_AT_ONCE):
            part = tables[first : first + TABLES_AT_ONCE]
            pages = self._pages.read(self.p2m[part])
            try:
                localise(pages, self.frame_of)
            except BadEntry as bad:
                raise StreamError(
                    f"libxc's PAGE_DATA of page {part[bad.table]:#x}, a page table: entry {bad.entry}: {bad}"
                ) from None
            self._pages.write(self.p2m[part], pages)
            yield NEXT_TURN

    def _write_p2m(self) -> Task[None]:
        entries = PAGE_SIZE // self._width
        frames = np.array([self._p2m_frame(int(pfn)) for pfn in self._p2m_pfns], np.uint64)
        for first in range(0, len(frames), AT_ONCE):
            part = frames[first : first + AT_ONCE]
            old = self._pages.read(part).view(f"<u{self._width}").reshape(-1)
            at = first * entries
            known = self.p2m[at : at + len(old)]
            new = np.full(len(old), NONE)
            new[: len(known)] = known
            kept = (new == NONE) & (old & IDENTITY[self._width] != 0) & (old & FOREIGN[self._width] == 0)
            words = np.where(kept, old, new.astype(old.dtype))
            self._pages.write(part, words.view("<u8").reshape(-1, 512))
            yield NEXT_TURN

    def _p2m_frame(self, pfn: int) -> int:
        frame = self.ordinary_frame(pfn)
        if frame is None:
            raise self._p2m_record.wrong(f"page {pfn:#x} of the table is no ordinary page of the domain")
        return frame
