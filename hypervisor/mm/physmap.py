"""What is where in a translated domain's physical memory: the one place that changes a P2M (mm/p2m.py).

Each entry holds a general reference and a writable type reference on its frame, as a PV guest's writable L1 entry does:
so a frame that is in a P2M is never freed, and never a page table. The M2P has the guest frame number of each frame that is in a
P2M, and a frame is in at most one place (XSA-378's aliases cannot arise). The entries of grants that the domain maps are apart:
the M2P knows nothing of them, they hold a type reference only if they may write, and they go by an unmap alone.
Differences from Xen, on purpose: Xen counts on the frame being the domain's; an entry here counts.
Source: Xen arch/x86/mm/p2m.c.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from hypervisor.machine.frame_types import VALIDATED, WRITABLE
from hypervisor.machine.paging import PAGE_RW, pte, pte_mfn
from hypervisor.mm.allocator import Allocator
from hypervisor.mm.budget import COST_OF_FRAME, Budget
from hypervisor.mm.domain_memory import DomainMemory
from hypervisor.mm.layout import ENTRIES, INVALID_M2P_ENTRY
from hypervisor.mm.p2m import GFN_BITS, LEAF_FLAGS, P2M, P2M_GRANT_MAP, TABLE_FLAGS, Leaf
from hypervisor.mm.page_types import PageTypes
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.types import DomId, Mfn

POOL_FRAMES: Final = 64
PAGES_PER_POOL_FRAME: Final = 128
"""A domain's P2M may have so many tables, and one more for so many pages of the domain: Xen's paging pool."""

Gfns = npt.NDArray[np.uint64]
Mfns = npt.NDArray[np.int64]


class Physmap:
    """The P2Ms of all translated domains."""

    def __init__(self, types: PageTypes, allocator: Allocator) -> None:
        self.types = types
        self.frames = types.frames
        self.allocator = allocator
        self.contents = allocator.contents
        self.m2p = allocator.m2p

    def create(self, d: DomainMemory) -> None:
        """Make `d`, which has no frames yet, a translated domain. XenError(ENOMEM)."""
        d.p2m = P2M(self.allocator.alloc_xen_page(d, writable=False))

    def add_page(self, d: DomainMemory, gfn: int, mfn: int) -> None:
        """Show a frame of `d` at `gfn`. What was there is shown no more, and the frame nowhere else.

        XenError, and nothing changed: EINVAL (no such guest frame, not its frame), ENOMEM (the pool of tables), EPERM (a grant
        is mapped there).
        """
        leaf = self._leaf(d, gfn)
        _require_no_grant(d, gfn)
        self.types.get_page_and_type(mfn, d.domid, WRITABLE)
        old = self.m2p.get(mfn)
        if old != INVALID_M2P_ENTRY and _p2m(d).mfn(old) == mfn:
            self.remove_page(d, old)
        if leaf[gfn & 511]:
            self.remove_page(d, gfn)
        self._write(d, gfn, leaf, pte(mfn, LEAF_FLAGS))
        self.m2p.set(mfn, gfn)

    def remove_page(self, d: DomainMemory, gfn: int) -> None:
        """Nothing is at `gfn` any more; its frame stays the domain's. XenError: EINVAL (nothing was), EPERM (a grant is)."""
        p2m = _p2m(d)
        _require_no_grant(d, gfn)
        mfn = p2m.mfn(gfn)
        if mfn is None:
            raise XenError(Errno.EINVAL, f"d{d.domid} has nothing at guest frame {gfn:#x}")
        self._write(d, gfn, p2m.leaves[gfn >> 9], 0)
        self.m2p.invalidate(mfn)
        self.types.put_page_and_type(mfn)
        self.types.flush(d)

    def add_grant(self, d: DomainMemory, gfn: int, mfn: int, granter: DomId, *, readonly: bool) -> None:
        """Map a granted frame, which the caller holds references on, in the place of what is at `gfn`.

        XenError, and nothing changed: as add_page.
        """
        leaf = self._leaf(d, gfn)
        _require_no_grant(d, gfn)
        if readonly:
            self.frames.get_page(mfn, granter)
        else:
            self.types.get_page_and_type(mfn, granter, WRITABLE)
        if leaf[gfn & 511]:
            self.remove_page(d, gfn)
        flags = LEAF_FLAGS & ~PAGE_RW if readonly else LEAF_FLAGS
        self._write(d, gfn, leaf, pte(mfn, flags | P2M_GRANT_MAP))

    def remove_grant(self, d: DomainMemory, gfn: int, mfn: int) -> None:
        """The grant of that frame is mapped at `gfn` no more. XenError(EINVAL): it is not there (G8)."""
        p2m = _p2m(d)
        if p2m.granted(gfn) != mfn:
            raise XenError(Errno.EINVAL, f"d{d.domid} has no grant of {mfn:#x} at guest frame {gfn:#x}")
        entry = p2m.entry(gfn)
        self._write(d, gfn, p2m.leaves[gfn >> 9], 0)
        self._put(entry)
        self.types.flush(d)

    def _put(self, entry: int) -> None:
        """Drop what an entry holds."""
        if entry & PAGE_RW:
            self.types.put_page_and_type(pte_mfn(entry))
        else:
            self.frames.put_page(pte_mfn(entry))

    def make_room(self, d: DomainMemory, gfns: Gfns) -> bool:
        """Have the tables for these guest frames. False: they are not distinct and all empty. XenError(EINVAL, ENOMEM)."""
        for number in np.unique(gfns >> np.uint64(9)).tolist():
            self._leaf(d, number << 9)
        leaves = _p2m(d).leaves
        return len(np.unique(gfns)) == len(gfns) and not any(
            int(leaves[gfn >> 9][gfn & 511]) for gfn in gfns.tolist()
        )

    def add_new_pages(self, d: DomainMemory, gfns: Gfns, mfns: Mfns) -> None:
        """add_page for frames that have just been allocated, at guest frames that `make_room` was asked for."""
        frames, p2m = self.frames, _p2m(d)
        frames.refs_np[mfns] += 1
        frames.type_np[mfns] = WRITABLE
        frames.tcount_np[mfns] = 1
        frames.flags_np[mfns] |= VALIDATED
        entries = mfns.astype(np.uint64) << np.uint64(12) | np.uint64(LEAF_FLAGS)
        numbers = gfns >> np.uint64(9)
        for number in np.unique(numbers).tolist():
            here = numbers == number
            slots = (gfns[here] & np.uint64(511)).astype(np.intp)
            p2m.leaves[number][slots] = entries[here]
            self.contents.write_entries(p2m.tables[1, number], slots, entries[here])
        p2m.max_gfn = max(p2m.max_gfn, int(gfns.max()))
        self.m2p.set_many(mfns, gfns)

    def drop(self, d: DomainMemory, budget: Budget) -> None:
        """A dying domain's P2M lets go of all frames, and its tables are free. Restart: not yet done."""
        p2m = d.p2m
        if p2m is None:
            return
        while p2m.leaves:
            _, leaf = p2m.leaves.popitem()
            entries = leaf[leaf != 0].tolist()
            for entry in entries:
                if not entry & P2M_GRANT_MAP:
                    self.m2p.invalidate(pte_mfn(entry))
                self._put(entry)
            budget.spend(COST_OF_FRAME * (len(entries) + 1))
            budget.check()
        while p2m.tables:
            self.allocator.free_xen_page(p2m.tables.popitem()[1])
        self.allocator.free_xen_page(p2m.top)
        d.p2m = None

    # --- tables --------------------------------------------------------------------------------------

    def _leaf(self, d: DomainMemory, gfn: int) -> Leaf:
        """The 512 entries that `gfn` is one of, with tables for them. XenError(EINVAL, ENOMEM)."""
        p2m = _p2m(d)
        leaf = p2m.leaves.get(gfn >> 9)
        if leaf is not None:
            return leaf
        if gfn >> GFN_BITS:
            raise XenError(Errno.EINVAL, f"there is no guest frame {gfn:#x}")
        parent = p2m.top
        for level in (3, 2, 1):
            key = (level, gfn >> 9 * level)
            table = p2m.tables.get(key)
            if table is None:
                table = self._new_table(d, p2m)
                p2m.tables[key] = table
                self.contents.write_entry(parent, gfn >> 9 * level & 511, pte(table, TABLE_FLAGS))
            parent = table
        return p2m.leaves.setdefault(gfn >> 9, np.zeros(ENTRIES, np.uint64))

    def _new_table(self, d: DomainMemory, p2m: P2M) -> Mfn:
        if d.dying or len(p2m.tables) >= POOL_FRAMES + d.max_pages // PAGES_PER_POOL_FRAME:
            raise XenError(Errno.ENOMEM, f"d{d.domid}'s P2M has {len(p2m.tables)} tables")
        return self.allocator.alloc_xen_page(d, writable=False)

    def _write(self, d: DomainMemory, gfn: int, leaf: Leaf, entry: int) -> None:
        p2m = _p2m(d)
        leaf[gfn & 511] = entry
        self.contents.write_entry(p2m.tables[1, gfn >> 9], gfn & 511, entry)
        p2m.max_gfn = max(p2m.max_gfn, gfn)


def _require_no_grant(d: DomainMemory, gfn: int) -> None:
    if _p2m(d).granted(gfn) is not None:
        raise XenError(
            Errno.EPERM, f"d{d.domid} has a grant mapped at guest frame {gfn:#x}: it goes by an unmap"
        )


def _p2m(d: DomainMemory) -> P2M:
    assert d.p2m is not None, f"d{d.domid} is not translated"
    return d.p2m
