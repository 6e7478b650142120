"""The pages that one front granted, as a back end sees them that cannot map them: copies in this domain's own pages.

    a request that writes    the front's pages ─copy─► own pages ──► image
    a request that reads     image ──► own pages ─copy─► just the sectors asked for, in the front's pages

Stands where `granted_pages.py` stands in Dom0. Nothing is kept for the next request, and nothing of the front's is
held when this domain dies. Owns the pages, which grow to what the largest request so far took. Deliberate difference:
that Xen refuses a page of a request that reads is found when the others have been filled; the answer is an error all
the same.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from domains.kernel.grants import BATCH, GrantError
from domains.kernel.kernel import Kernel
from domains.kernel.memory import Page
from hypervisor.public.grant_table import (
    GNTCOPY_dest_gref,
    GNTCOPY_source_gref,
    GNTST_okay,
    gnttab_copy,
)
from hypervisor.public.types import PAGE_SIZE, DomId
from hypervisor.public.xen import DOMID_SELF

Bounds = Sequence[tuple[int, int]]
"""Of each page the bytes from the first up to the second, without it."""
WHOLE: Final = (0, PAGE_SIZE)


class CopiedPages:
    """Pages of the front in domain `domid`. Raises XenError when Xen refuses a reference, or has no memory."""

    persistent = False

    def __init__(self, kernel: Kernel, domid: DomId) -> None:
        self._kernel = kernel
        self._domid = domid
        self._pages: list[Page] = []
        self._views: list[memoryview] = []
        self._to_fill: Sequence[int] = ()

    def views(self, refs: Sequence[int], writable: bool) -> list[memoryview]:
        """One view per reference, in order, until the next call or `let_go`: of the front's bytes, or if `writable`
        of what `filled` is to give it.
        """
        while len(self._pages) < len(refs):
            page = self._kernel.memory.alloc_page()
            self._pages.append(page)
            self._views.append(self._kernel.cpu.view(page.va, PAGE_SIZE, True))
        if writable:
            self._to_fill = refs
        else:
            self._copy(refs, [WHOLE] * len(refs), "source", "dest", int(GNTCOPY_source_gref))
        return self._views[: len(refs)]

    def filled(self, bounds: Bounds) -> None:
        """What was written into the views of this request is the front's."""
        self._copy(self._to_fill, bounds, "dest", "source", int(GNTCOPY_dest_gref))

    def all_kept(self, _refs: Sequence[int]) -> bool:
        """No view outlives its request."""
        return False

    def let_go(self) -> None:
        """The request is done."""
        self._to_fill = ()

    def close(self) -> None:
        """Give the pages back."""
        while self._pages:
            self._views.pop().release()
            self._kernel.memory.free_page(self._pages.pop())

    def _copy(self, refs: Sequence[int], bounds: Bounds, theirs: str, own: str, flag: int) -> None:
        rows = np.zeros(len(refs), gnttab_copy.dtype)
        rows[theirs]["u"]["ref"], rows[theirs]["domid"] = refs, self._domid
        rows[own]["u"]["gmfn"] = [page.mfn for page in self._pages[: len(refs)]]
        rows[own]["domid"] = DOMID_SELF
        first, end = np.array(bounds, np.uint16).reshape(-1, 2).T
        rows[theirs]["offset"] = rows[own]["offset"] = first
        rows["len"], rows["flags"] = end - first, flag
        for at in range(0, len(rows), BATCH):
            status = self._kernel.grants.copy_in_order(rows[at : at + BATCH]).status
            if status != GNTST_okay:
                raise GrantError(status, f"copy of pages of d{self._domid}")
