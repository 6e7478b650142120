"""Which pages of a domain changed since they were sent, and for how long it is worth sending them while it runs.

A page has changed if its hash is another than that of what was sent. So whoever wrote it is seen, the guest, a back end or Dom0,
and no feature of the host's kernel is needed. The hash is that of the copy which is sent: a page that is written meanwhile is
another, and is sent again. Xen asks its log of dirty pages instead (XEN_DOMCTL_shadow_op).

Two pages with one hash of 64 bits would be taken for the same: of 2^20 pages that change 100 times each, one in 10^11 migrations.

Pre-copy: Clark et al., Live Migration of Virtual Machines, NSDI 2005. When it ends: Xen tools/libs/guest/xg_sr_save.c.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import xxhash

from hypervisor.public.types import PAGE_SIZE

Words = npt.NDArray[np.uint64]

FEW_DIRTY: Final = 50
"""With fewer pages than that left the domain is suspended (SPP_TARGET_DIRTY_COUNT)."""


def hashes_of(pages: Sequence[memoryview]) -> Words:
    """The hash of each of these pages."""
    return np.fromiter(map(xxhash.xxh3_64_intdigest, pages), np.uint64, len(pages))


def hashes(pages: Words) -> Words:
    """The hash of each page of uint64[n, 512]."""
    if not len(pages):
        return np.empty(0, np.uint64)
    data = memoryview(np.ascontiguousarray(pages).data).cast("B")
    return hashes_of([data[at : at + PAGE_SIZE] for at in range(0, len(data), PAGE_SIZE)])


class SentPages:
    """What was sent of a domain's memory: by the number of each page its hash."""

    def __init__(self) -> None:
        self._hash = np.zeros(0, np.uint64)
        self._sent = np.zeros(0, np.bool_)

    def note(self, pfns: Words, pages: Words) -> None:
        """These pages, uint64[n, 512], were sent as they are here."""
        self._grow(pfns)
        self._hash[pfns] = hashes(pages)
        self._sent[pfns] = True

    def changed(self, pfns: Words, now: Words) -> Words:
        """Those of these pages whose hash, which is this, is not that of what was sent."""
        self._grow(pfns)
        found: Words = pfns[~self._sent[pfns] | (self._hash[pfns] != now)]
        return found

    def keep_only(self, pfns: Words) -> int:
        """These are the pages that there are: forget all others. How many those were."""
        there = np.zeros(len(self._sent), np.bool_)
        there[pfns[pfns < len(there)]] = True
        gone = int(np.count_nonzero(self._sent & ~there))
        self._sent &= there
        return gone

    def _grow(self, pfns: Words) -> None:
        size = int(pfns.max()) + 1 if len(pfns) else 0
        if size > len(self._sent):
            more = size - len(self._sent)
            self._hash = np.concatenate((self._hash, np.zeros(more, np.uint64)))
            self._sent = np.concatenate((self._sent, np.zeros(more, np.bool_)))


def is_enough(rounds: int, most: int, dirty: int) -> bool:
    """Whether the domain is to be suspended after so many rounds, with so many pages left."""
    return rounds >= most or dirty < FEW_DIRTY
