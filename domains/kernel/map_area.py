"""Virtual addresses where the kernel maps what does not lie in its linear map: others' frames, grants, shared
pages.

Owns the range of one L4 slot; hands out runs of pages, first fit, and joins what comes back.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

from hypervisor.public.errno import Errno, XenError
from hypervisor.public.types import PAGE_SHIFT, VAddr

MAP_AREA_START: Final = VAddr(0xFFFF_C900_0000_0000)
MAP_AREA_PAGES: Final = 1 << 27
"""One L4 slot: 512 GiB."""


class MapArea:
    """Free runs in order of address: `_starts[i]` is a page number, `_lengths[i]` pages are free from there."""

    def __init__(self, start: VAddr = MAP_AREA_START, pages: int = MAP_AREA_PAGES) -> None:
        self._starts = [start >> PAGE_SHIFT]
        self._lengths = [pages]
        self._used: dict[int, int] = {}

    def alloc(self, pages: int) -> VAddr:
        """Addresses for `pages` pages; XenError(ENOMEM)."""
        for i, length in enumerate(self._lengths):
            if length >= pages:
                start = self._starts[i]
                self._starts[i] += pages
                self._lengths[i] -= pages
                if not self._lengths[i]:
                    del self._starts[i], self._lengths[i]
                self._used[start] = pages
                return VAddr(start << PAGE_SHIFT)
        raise XenError(Errno.ENOMEM, f"no {pages} pages of address space in a row")

    def free(self, va: VAddr) -> int:
        """Take a run back, by the address that `alloc` gave; its length in pages. KeyError for another
        address.
        """
        start = va >> PAGE_SHIFT
        pages = self._used.pop(start)
        i = bisect_left(self._starts, start)
        self._starts.insert(i, start)
        self._lengths.insert(i, pages)
        self._join(i)
        if i:
            self._join(i - 1)
        return pages

    def size(self, va: VAddr) -> int:
        """Pages of the run at `va`."""
        return self._used[va >> PAGE_SHIFT]

    def _join(self, i: int) -> None:
        if i + 1 < len(self._starts) and self._starts[i] + self._lengths[i] == self._starts[i + 1]:
            self._lengths[i] += self._lengths[i + 1]
            del self._starts[i + 1], self._lengths[i + 1]
