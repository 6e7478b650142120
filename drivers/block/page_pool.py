"""The front's data pages: granted to the back end once, and used again and again.

Owns the pages and their grants. The free ones are a stack, so that the same few pages are named most of the
time and the back end finds them mapped ("feature-persistent"). The pool grows on demand, up to a limit.
"""

import numpy as np
from numpy.typing import NDArray

from domains.kernel.kernel import Kernel
from domains.kernel.memory import Page
from drivers.block.protocol import SECTORS_PER_PAGE
from hypervisor.public.errno import XenError
from hypervisor.public.io.blkif import blkif_request_segment
from hypervisor.public.types import PAGE_SIZE, DomId, GrantRef


class PagePool:
    """At most `limit` pages that domain `backend` may map. Pages are named by their index here."""

    def __init__(self, kernel: Kernel, backend: DomId, limit: int) -> None:
        self._kernel = kernel
        self._backend = backend
        self._pages: list[Page] = []
        self._refs: list[GrantRef] = []
        self._free: list[int] = []
        self._limit = limit
        self._segments: NDArray[np.void] = np.zeros(limit, blkif_request_segment.dtype)
        self._segments["last_sect"] = SECTORS_PER_PAGE - 1
        self._words = self._segments.view("<u8")  # the same, one word each: numpy picks those out faster
        self.views: list[memoryview] = []

    def take(self, count: int) -> list[int] | None:
        """`count` free pages; None if there are not enough, now or under the limit."""
        while len(self._free) < count:
            if not self._grow():
                return None
        at = len(self._free) - count
        taken = self._free[at:]
        del self._free[at:]
        return taken

    def give(self, pages: list[int]) -> None:
        """Take pages back."""
        self._free += pages

    def ref(self, page: int) -> GrantRef:
        """The grant of one page."""
        return self._refs[page]

    def segments(self, pages: list[int], sectors: int) -> NDArray[np.void]:
        """`sectors` sectors in `pages`, all full but the last: a private array of blkif_request_segment."""
        segments = self._words[pages].view(blkif_request_segment.dtype)
        segments["last_sect"][-1] = (sectors - 1) % SECTORS_PER_PAGE
        return segments

    def close(self) -> None:
        """Revoke all grants; a page that the back end still holds is given up rather than used for anything
        else.
        """
        self.views.clear()
        for page, ref in zip(self._pages, self._refs, strict=True):
            if self._kernel.grants.end_access(ref):
                self._kernel.memory.free_page(page)
        self._pages.clear()
        self._refs.clear()
        self._free.clear()

    def _grow(self) -> bool:
        """One more page; False at the limit, and when the domain has no page or no grant left."""
        index = len(self._pages)
        if index == self._limit:
            return False
        try:
            page = self._kernel.memory.alloc_page()
        except XenError:
            return False
        try:
            ref = self._kernel.grants.grant_access(self._backend, page.mfn)
        except XenError:
            self._kernel.memory.free_page(page)
            return False
        self._pages.append(page)
        self._refs.append(ref)
        self._segments["gref"][index] = ref
        self.views.append(self._kernel.cpu.view(page.va, PAGE_SIZE, True))
        self._free.append(index)
        return True
