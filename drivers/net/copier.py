"""Copies packets between guests' granted pages and this domain, many at once, by grant copy.

Owns a few pages of this domain that everything passes through. Xen checks each reference, offset and length
(G13), so a front's lie is one failed part.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from domains.kernel.kernel import Kernel
from hypervisor.public.grant_table import (
    GNTCOPY_dest_gref,
    GNTCOPY_source_gref,
    GNTST_okay,
    gnttab_copy,
)
from hypervisor.public.types import PAGE_SIZE, DomId
from hypervisor.public.xen import DOMID_SELF

PAGES: Final = 64


class Part(NamedTuple):
    """A piece of a page that `domid` has granted, in bytes."""

    domid: DomId
    ref: int
    offset: int
    size: int


class Filling(NamedTuple):
    """What is to be at the beginning of a page that `domid` has granted."""

    domid: DomId
    ref: int
    data: memoryview


class Copier:
    """One for all devices of a net back, and for parts of several of them at once. Copies are finished when its
    methods return.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        pages = [kernel.memory.alloc_page() for _ in range(PAGES)]
        self._views = [kernel.cpu.view(page.va, PAGE_SIZE, True) for page in pages]
        self._fetching, self._delivering = np.zeros((2, PAGES), gnttab_copy.dtype)
        for rows, mine, flags in (
            (self._fetching, "dest", GNTCOPY_source_gref),
            (self._delivering, "source", GNTCOPY_dest_gref),
        ):
            rows[mine]["u"]["gmfn"] = [page.mfn for page in pages]
            rows[mine]["domid"] = DOMID_SELF
            rows["flags"] = flags

    def fetch(self, parts: Sequence[Part]) -> list[bytes | None]:
        """The bytes of each part; None: Xen refused it."""
        found: list[bytes | None] = []
        for at in range(0, len(parts), PAGES):
            domids, refs, offsets, sizes = zip(*parts[at : at + PAGES], strict=True)
            rows = self._fetching[: len(refs)]
            theirs = rows["source"]
            theirs["domid"], theirs["u"]["ref"], theirs["offset"] = domids, refs, offsets
            rows["len"] = sizes
            found += [
                bytes(view[:size]) if done else None
                for view, size, done in zip(self._views, sizes, self._copy(rows), strict=False)
            ]
        return found

    def deliver(self, fillings: Sequence[Filling]) -> list[bool]:
        """Fill each page; whether Xen did not refuse it."""
        done: list[bool] = []
        for at in range(0, len(fillings), PAGES):
            domids, refs, pieces = zip(*fillings[at : at + PAGES], strict=True)
            for view, data in zip(self._views, pieces, strict=False):
                view[: len(data)] = data
            rows = self._delivering[: len(refs)]
            theirs = rows["dest"]
            theirs["domid"], theirs["u"]["ref"] = domids, refs
            rows["len"] = [len(data) for data in pieces]
            done += self._copy(rows)
        return done

    def _copy(self, rows: np.ndarray[tuple[int], np.dtype[np.void]]) -> list[bool]:
        return [status == GNTST_okay for status in self._kernel.grants.copy_rows(rows)]
