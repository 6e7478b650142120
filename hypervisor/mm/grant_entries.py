"""L1 entries that a grant map writes and an unmap takes away (G8, G9).

The entry holds references of its own, as every L1 entry does; they go with it, however it goes. The grant's own
references are the grant table's matter. Source: Xen arch/x86/pv/grant_table.c.
"""

from hypervisor.machine.entries import PAGE_GNTTAB
from hypervisor.machine.frame_types import L1, WRITABLE
from hypervisor.machine.paging import (
    PAGE_ACCESSED,
    PAGE_AVAIL,
    PAGE_DIRTY,
    PAGE_NX,
    PAGE_PRESENT,
    PAGE_RW,
    PAGE_USER,
    pte,
    pte_mfn,
)
from hypervisor.mm.domain_memory import VcpuMemory
from hypervisor.mm.page_types import PageTypes
from hypervisor.mm.update import exchange_l1e
from hypervisor.mm.validate import put_page_from_l1e
from hypervisor.mm.walk import Walker
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.grant_table import (
    GNTMAP_application_map,
    GNTMAP_contains_pte,
    GNTMAP_guest_avail_mask,
    GNTMAP_readonly,
)

_CONTAINS_PTE = int(GNTMAP_contains_pte)
_APPLICATION_MAP = int(GNTMAP_application_map)
_READONLY = int(GNTMAP_readonly)
_AVAIL = int(GNTMAP_guest_avail_mask)


class GrantEntries:
    """Entries of grants in the L1 tables of the mapping domain."""

    def __init__(self, types: PageTypes, walker: Walker) -> None:
        self.types = types
        self.walker = walker

    def create(self, v: VcpuMemory, addr: int, mfn: int, flags: int) -> None:
        """Map a granted frame, which the caller holds references on. XenError(EINVAL): nothing changed."""
        l1, slot = self._find(v, addr, flags)
        entry = v.domain.rules.adjust_l1e(pte_of_grant(mfn, flags))
        frames = self.types.frames
        if frames.refs[mfn] >= frames.max_refs:
            raise XenError(Errno.EINVAL, f"F7: {frames.describe(mfn)} has too many references")
        if entry & PAGE_RW:
            self.types.get_type(mfn, WRITABLE)
        frames.refs[mfn] += 1
        exchange_l1e(self.types, l1, slot, entry)

    def destroy(self, v: VcpuMemory, addr: int, mfn: int, flags: int) -> None:
        """Clear the entry, which must still map that frame in that way (G8). XenError(EINVAL)."""
        self._replace(v, addr, mfn, flags, 0)

    def replace(self, v: VcpuMemory, addr: int, mfn: int, new_addr: int, flags: int) -> None:
        """Move the entry at virtual address `new_addr` to where the grant is mapped. XenError(EINVAL).

        As on Xen the entry at `new_addr` is taken first and dropped if the grant's entry does not match.
        """
        if flags & _CONTAINS_PTE:
            raise XenError(Errno.EINVAL, "G8: only a grant mapped by address can be replaced")
        l1, slot = self._find(v, new_addr, 0)
        moved = self.types.tables[l1].words[slot]
        self.types.tables.write_entry(l1, slot, 0)
        try:
            self._replace(v, addr, mfn, flags, moved)
        except BaseException:
            put_page_from_l1e(self.types, moved)
            raise

    def _replace(self, v: VcpuMemory, addr: int, mfn: int, flags: int, new: int) -> None:
        l1, slot = self._find(v, addr, flags)
        old = self.types.tables[l1].words[slot]
        wanted = v.domain.rules.adjust_l1e(pte_of_grant(mfn, flags))
        if pte_mfn(old) != mfn or (old ^ wanted) & (PAGE_PRESENT | PAGE_RW):
            raise XenError(Errno.EINVAL, f"G8: entry {old:#x} at {addr:#x} does not match grant {wanted:#x}")
        self.types.tables.write_entry(l1, slot, new)
        put_page_from_l1e(self.types, old)

    def _find(self, v: VcpuMemory, addr: int, flags: int) -> tuple[int, int]:
        """(table, slot) of the entry, in a validated L1 of the mapper's own (G9). XenError(EINVAL)."""
        if flags & _CONTAINS_PTE:
            if addr & 7:
                raise XenError(Errno.EINVAL, f"G9: entry at {addr:#x} is not aligned (XSA-227)")
            l1, slot = addr >> 12, addr >> 3 & 511
        else:
            walked = self.walker.to_l1(v, addr)
            if walked is None:
                raise XenError(Errno.EINVAL, f"G9: {addr:#x} has no L1 table")
            l1, slot = walked.l1, addr >> 12 & 511
        frames = self.types.frames
        if not 0 <= l1 < frames.top or frames.owner[l1] != v.domain.domid:
            raise XenError(Errno.EINVAL, f"G9: frame {l1:#x} is not d{v.domain.domid}'s")
        if not self.types.is_table(l1, L1):
            raise XenError(Errno.EINVAL, f"G9: {frames.describe(l1)} is no L1 table")
        return l1, slot


def pte_of_grant(mfn: int, flags: int) -> int:
    """The L1 entry of a mapping with GNTMAP_* `flags`, before it is adjusted."""
    bits = PAGE_PRESENT | PAGE_ACCESSED | PAGE_DIRTY | PAGE_NX | PAGE_GNTTAB
    if flags & _APPLICATION_MAP:
        bits |= PAGE_USER
    if not flags & _READONLY:
        bits |= PAGE_RW
    bits |= (flags & _AVAIL) >> 16 << 9 & PAGE_AVAIL
    return pte(mfn, bits)
