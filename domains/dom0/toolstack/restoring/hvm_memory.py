"""The pages of a PVH domain that is restored: each lies where the guest has it.

A page may come several times, and the last time counts; one that is said to be there no more is taken back.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from domains.dom0.toolstack.builder.hvm_state import HvmState
from domains.dom0.toolstack.domain_pages import DomainPages, Words
from domains.dom0.toolstack.stream.framing import Record
from domains.dom0.toolstack.stream.hvm_records import MOST_GFN
from domains.dom0.toolstack.stream.page_data import XALLOC, PageData, has_content
from domains.dom0.toolstack.xenctrl import EXTENTS_AT_ONCE, XenCtrl
from domains.kernel.kernel import Kernel
from domains.kernel.tasks import NEXT_TURN, Task
from hypervisor.public.errno import XenError
from hypervisor.public.types import DomId


class HvmRestoredMemory:
    """Of one domain."""

    def __init__(self, kernel: Kernel, xen: XenCtrl, domid: DomId) -> None:
        self._xen = xen
        self._domid = domid
        self._hvm = HvmState(kernel, domid)
        self._pages = DomainPages(kernel, domid)
        self._there: npt.NDArray[np.bool_] = np.zeros(MOST_GFN, np.bool_)
        """By guest frame number. Only what is touched takes memory."""

    def has(self, gfn: int) -> bool:
        """Whether the domain has a page there."""
        return gfn < MOST_GFN and bool(self._there[gfn])

    def clear(self, gfn: int) -> None:
        """Fill a page that is there with zeros."""
        self._pages.write(np.array([gfn], np.uint64), np.zeros((1, 512), np.uint64))

    def page_data(self, record: Record, data: PageData) -> Task[None]:
        """Some pages. StreamError: there can be no such pages, or there is no more memory."""
        for wrong, why in (
            (data.pfns >= MOST_GFN, "no guest has so many"),
            (
                has_content(data.types) & (data.types != 0),
                "a PVH domain's page tables are no pages of a kind of their own",
            ),
        ):
            if wrong.any():
                raise record.wrong(f"page {data.pfns[np.argmax(wrong)]:#x}: {why}")
        wanted = has_content(data.types) | (data.types == XALLOC)
        there = self._there[data.pfns.astype(np.intp)]
        try:
            yield from self._populate(data.pfns[wanted & ~there])
            yield from self._take_back(data.pfns[~wanted & there])
        except XenError as error:
            raise record.wrong(f"the domain gets no more memory: {error}") from None
        yield from self._pages.write_all(data.pfns[data.with_content], data.pages)

    def _populate(self, gfns: Words) -> Task[None]:
        for first in range(0, len(gfns), EXTENTS_AT_ONCE):
            part = gfns[first : first + EXTENTS_AT_ONCE]
            self._xen.populate(self._domid, part)
            self._there[part.astype(np.intp)] = True
            yield NEXT_TURN

    def _take_back(self, gfns: Words) -> Task[None]:
        for first in range(0, len(gfns), EXTENTS_AT_ONCE):
            part = gfns[first : first + EXTENTS_AT_ONCE]
            self._hvm.take_pages(part)
            self._there[part.astype(np.intp)] = False
            yield NEXT_TURN
