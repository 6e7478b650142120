"""Which machine frames a PV domain's pages are in, and what they are used as: what the guest says, checked with Xen.

    shared_info.arch   max_pfn, and where the table of frames (P2M) is: mapped at p2m_vaddr under p2m_cr3,
                       or a tree: pfn_to_mfn_frame_list_list ─► lists ─► the table's frames
    Xen                of each frame, whether it is the domain's, and whether it is a page table

What a guest says may be anything: numbers are bounded, and frames that are not its own are not there.
Source: Xen tools/libs/guest/xg_sr_save_x86_pv.c (map_p2m), public/arch-x86/xen.h (arch_shared_info).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from domains.dom0.toolstack.domain_pages import DomainPages, Words
from domains.dom0.toolstack.domain_state import FRAMES_AT_ONCE, DomainState
from domains.dom0.toolstack.errors import ToolstackError
from domains.dom0.toolstack.stream.page_data import LEVEL, XTAB
from domains.dom0.toolstack.stream.page_tables import MASK, NONE, PRESENT, SHIFT
from domains.dom0.toolstack.xenctrl import DomainInfo
from domains.kernel.tasks import NEXT_TURN, Task
from hypervisor.machine.memory import MACHINE_FRAMES
from hypervisor.public.abi import Abi
from hypervisor.public.arch_x86.xen import arch_shared_info
from hypervisor.public.arch_x86.xen_x86_32 import xen_cr3_to_pfn
from hypervisor.public.errno import XenError
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE
from hypervisor.public.xen import shared_info

FRAMES_OF_WORDS: Final = 256
PAGES_AT_ONCE: Final = 1 << 16
"""How much is done in one turn: what takes a millisecond or two."""
MORE_PFNS: Final = 1 << 20
"""A guest's numbers may go so far beyond what it has pages: Linux gives numbers to what it maps of others."""


class PvMemory:
    """`p2m`: by the domain's own number the frame of each page, NONE for those that have none. `types`: what each is used as, as
    in PAGE_DATA. `p2m_pfns`: the pages that hold the guest's own table.
    """

    def __init__(self, p2m: Words, types: Words, p2m_frames: Words, pages: npt.NDArray[np.uint32]) -> None:
        """`pages`: what pages_of_frames says."""
        self.p2m = p2m
        self.types = types
        self._pages = pages
        self.p2m_pfns = self.page_of(p2m_frames)

    def page_of(self, frames: Words) -> Words:
        """The domain's number for each of these machine frames; NONE: it is not a page of the domain."""
        inside = frames < len(self._pages)
        found = self._pages[np.where(inside, frames, 0).astype(np.intp)].astype(np.uint64)
        return np.where(inside & (found != 0), found - np.uint64(1), NONE)

    @property
    def tables(self) -> Words:
        """The pages that are page tables."""
        return np.flatnonzero((self.p2m != NONE) & (self.types & np.uint64(LEVEL) != 0)).astype(np.uint64)

    @property
    def ordinary(self) -> Words:
        """All others that there are."""
        return np.flatnonzero((self.p2m != NONE) & (self.types & np.uint64(LEVEL) == 0)).astype(np.uint64)


class PvMemoryReader:
    """Finds it out, of one domain; for a domain that runs it may be another a moment later."""

    def __init__(self, pages: DomainPages, state: DomainState, info: DomainInfo, abi: Abi) -> None:
        self._pages = pages
        self._state = state
        self._info = info
        self._abi = abi

    def read(self) -> Task[PvMemory]:
        """ToolstackError: the guest has no such table, or not yet."""
        try:
            return (yield from self._read())
        except XenError as error:
            raise ToolstackError(
                f"domain {self._info.domid} has no table of its machine frames where it says: {error}"
            ) from None

    def shared_info(self) -> bytes:
        """The page that the domain shares with Xen. XenError."""
        return self._pages.read(np.array([self._info.shared_info_frame], np.uint64)).tobytes()

    def _read(self) -> Task[PvMemory]:
        layout = self._abi.layout(shared_info)
        arch = self._abi.layout(arch_shared_info).unpack(self.shared_info(), layout.offsetof("arch"))
        size = arch.max_pfn
        if not 0 < size <= 4 * self._info.max_pages + MORE_PFNS:
            raise ToolstackError(
                f"domain {self._info.domid} says that its pages have numbers up to {size:#x}: it is no guest that"
                " can be saved, or has not started yet"
            )
        count = -(-size * self._abi.word // PAGE_SIZE)
        if arch.p2m_cr3:
            frames = yield from self._mapped(arch.p2m_cr3, arch.p2m_vaddr, count)
        else:
            frames = yield from self._listed(arch.pfn_to_mfn_frame_list_list, count)
        words = yield from self._words(frames)
        p2m = words[:size]
        p2m[p2m >= MACHINE_FRAMES] = NONE
        types = np.full(size, XTAB, np.uint64)
        there = np.flatnonzero(p2m != NONE)
        for first in range(0, len(there), FRAMES_AT_ONCE):
            part = there[first : first + FRAMES_AT_ONCE]
            types[part] = self._state.types(p2m[part])
            yield NEXT_TURN
        p2m[types == XTAB] = NONE
        pages = yield from pages_of_frames(p2m)
        return PvMemory(p2m, types, frames, pages)

    def _words(self, frames: Words) -> Task[Words]:
        """What lies in frames, as the guest's words."""
        parts = [np.empty(0, np.uint64)]
        for first in range(0, len(frames), FRAMES_OF_WORDS):
            parts.append(self._abi.words(self._pages.read(frames[first : first + FRAMES_OF_WORDS]).tobytes()))
            yield NEXT_TURN
        return np.concatenate(parts)

    def _listed(self, top: int, count: int) -> Task[Words]:
        """The P2M's frames, found by its tree."""
        entries = PAGE_SIZE // self._abi.word
        lists = yield from self._words(np.array([top], np.uint64))
        frames = yield from self._words(lists[: -(-count // entries)])
        return frames[:count]

    def _mapped(self, cr3: int, va: int, count: int) -> Task[Words]:
        """The P2M's frames, found by walking the page tables that map it."""
        is_64bit = self._abi.word == 8
        if va % PAGE_SIZE or va + count * PAGE_SIZE > 1 << self._abi.address_size:
            raise ToolstackError(f"domain {self._info.domid} has no table of its machine frames at {va:#x}")
        tables = np.array([cr3 >> PAGE_SHIFT if is_64bit else xen_cr3_to_pfn(cr3)], np.uint64)
        first = (va & (1 << 48 if is_64bit else 1 << 32) - 1) >> PAGE_SHIFT
        last = first + count - 1
        for level in range(4 if is_64bit else 3, 0, -1):
            shift = 9 * (level - 1)
            pages = yield from self._pages.read_all(tables)
            base = first >> shift + 9 << 9
            entries = pages.reshape(-1)[(first >> shift) - base : (last >> shift) - base + 1]
            if not (entries & PRESENT != 0).all():
                raise ToolstackError(
                    f"domain {self._info.domid} has not mapped its table of machine frames where it says"
                )
            tables = (entries & MASK) >> SHIFT
        return tables


def pages_of_frames(p2m: Words) -> Task[npt.NDArray[np.uint32]]:
    """By machine frame, one more than the page that is in it; 0: none. A frame is one page: of several that a guest says are in
    it, the first, and the others are taken out of `p2m`. Else a guest could make its file as long as it likes.
    """
    pages = np.zeros(MACHINE_FRAMES, np.uint32)  # the host gives only that part of it which is written to
    for first in range(0, len(p2m), PAGES_AT_ONCE):
        part = p2m[first : first + PAGES_AT_ONCE]
        there = np.flatnonzero(part != NONE)
        frames = part[there].astype(np.intp)
        numbers = (first + there + 1).astype(np.uint32)
        new = pages[frames] == 0
        pages[frames[new][::-1]] = numbers[new][::-1]  # from behind, so that the first one stays
        part[there[pages[frames] != numbers]] = NONE
        yield NEXT_TURN
    return pages
