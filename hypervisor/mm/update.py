"""One entry of a validated page table is changed: check the new, take its references, write, drop the old (P8, P9).

Above L1 the old entry's table is dropped through the vCPU's old_table, for that can take long and may be the table
being changed. Source: Xen arch/x86/mm.c, mod_l1_entry … mod_l4_entry, do_mmu_update.
"""

from hypervisor.machine.entries import L1_DISALLOW, NOT_FASTPATH
from hypervisor.machine.frame_types import L1, LEVELS, PARTIAL, VALIDATED, WRITABLE
from hypervisor.machine.paging import PAGE_PRESENT, PTE_MFN_MASK, pte, pte_mfn
from hypervisor.mm.budget import Portion
from hypervisor.mm.domain_memory import DomainMemory
from hypervisor.mm.page_types import PageTypes
from hypervisor.mm.pv_rules import NO_SLOTS
from hypervisor.mm.validate import get_page_from_l1e, get_page_from_upper, put_page_from_l1e
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.types import DomId


class Updates:
    """Changes to tables and to plain frames by machine address."""

    def __init__(self, types: PageTypes) -> None:
        self.types = types
        self.frames = types.frames
        self.tables = types.tables
        self.contents = types.contents

    def pt_update(
        self,
        maddr: int,
        value: int,
        pt_owner: DomainMemory,
        pg_owner: int,
        portion: Portion,
        *,
        preserve_ad: bool,
    ) -> None:
        """One MMU_NORMAL_PT_UPDATE of the 8 bytes at `maddr` (U3). XenError; Restart: nothing changed, ask again.

        A table is changed as its type says; a writable or unused frame is just written. Any other is refused.
        """
        frames = self.frames
        mfn, slot = maddr >> 12, maddr >> 3 & 511
        frames.get_page(mfn, pt_owner.domid)
        try:
            pgt = frames.type[mfn]
            if not frames.tcount[mfn] or pgt == WRITABLE:
                self._plain_write(mfn, slot, value)
            elif not frames.flags[mfn] & VALIDATED or frames.flags[mfn] & PARTIAL or not LEVELS[pgt]:
                raise XenError(Errno.EINVAL, f"U3: {frames.describe(mfn)} cannot be written")
            elif pgt == L1:
                self.mod_l1_entry(mfn, slot, value, pt_owner, pg_owner, preserve_ad=preserve_ad)
            elif pg_owner != pt_owner.domid:
                raise XenError(Errno.EINVAL, f"P4: foreign frame above L1 in {frames.describe(mfn)}")
            else:
                if self._mod_upper_entry(mfn, slot, value, pt_owner, portion, preserve_ad=preserve_ad):
                    self.types.flush(pt_owner)
        finally:
            frames.put_page(mfn)

    def _plain_write(self, mfn: int, slot: int, value: int) -> None:
        self.types.get_type(mfn, WRITABLE)
        try:
            self.contents.write_entry(mfn, slot, value)
        finally:
            self.types.put_type(mfn)

    def mod_l1_entry(
        self,
        l1: int,
        slot: int,
        value: int,
        pt_owner: DomainMemory,
        pg_owner: int,
        *,
        preserve_ad: bool = False,
    ) -> None:
        """Put `value`, naming a frame of `pg_owner`, into a validated L1 of `pt_owner`. XenError: unchanged."""
        old = self.tables[l1].words[slot]
        new = value
        if value & PAGE_PRESENT:
            if pg_owner != pt_owner.domid:
                value = self._translated(value, pg_owner)
            if value & L1_DISALLOW:
                raise XenError(Errno.EINVAL, f"P1: bits {value & L1_DISALLOW:#x} in L1 entry {value:#x}")
            new = pt_owner.rules.adjust_l1e(value)
            if not (old ^ new) & NOT_FASTPATH:
                self._write(l1, slot, new, preserve_ad=preserve_ad)
                return
            get_page_from_l1e(self.types, new, pt_owner, pg_owner)
        if preserve_ad:
            new |= self.contents.accessed_dirty(l1, slot)
        exchange_l1e(self.types, l1, slot, new)

    def take_over_l1_entry(self, l1: int, slot: int, value: int, d: DomainMemory) -> None:
        """Record an entry that stands in a validated L1 of `d` already (mm/posted.py). XenError: not permitted, not recorded."""
        table = self.tables[l1].words
        old = table[slot]
        new = value
        if value & PAGE_PRESENT:
            if value & L1_DISALLOW:
                raise XenError(Errno.EINVAL, f"P1: bits {value & L1_DISALLOW:#x} in L1 entry {value:#x}")
            new = d.rules.adjust_l1e(value)
            if not (old ^ new) & NOT_FASTPATH:
                table[slot] = new
                return
            get_page_from_l1e(self.types, new, d, d.domid)
        table[slot] = new
        put_page_from_l1e(self.types, old)

    def _translated(self, value: int, pg_owner: int) -> int:
        """An entry that names a frame of another domain: a translated one's by its guest frame number. XenError(EINVAL)."""
        owner = self.types.domains.get(DomId(pg_owner))
        if owner is None or owner.p2m is None:
            return value
        mfn = owner.p2m.mfn(pte_mfn(value))
        if mfn is None:
            raise XenError(Errno.EINVAL, f"d{pg_owner} has nothing at guest frame {pte_mfn(value):#x}")
        return pte(mfn, value & ~PTE_MFN_MASK)

    def _mod_upper_entry(
        self,
        mfn: int,
        slot: int,
        value: int,
        pt_owner: DomainMemory,
        portion: Portion,
        *,
        preserve_ad: bool,
    ) -> bool:
        """Put `value` into a validated L2, L3 or L4 (P4, P7, XSA-148). XenError, Restart: unchanged.

        True if the old entry was present, so that a CPU may have remembered it.
        """
        rules, pgt = pt_owner.rules, self.frames.type[mfn]
        level = LEVELS[pgt]
        if slot in rules.fixed_slots.get(pgt, NO_SLOTS):
            raise XenError(Errno.EINVAL, f"P7: slot {slot} of {self.frames.describe(mfn)} is Xen's")
        old = self.tables[mfn].words[slot]
        new = value
        if value & PAGE_PRESENT:
            if wrong := value & rules.disallowed(level):
                raise XenError(Errno.EINVAL, f"P1: bits {wrong:#x} in L{level} entry {value:#x}")
            new = rules.adjust_upper(value, level)
            if not (old ^ new) & NOT_FASTPATH:
                self._write(mfn, slot, new, preserve_ad=preserve_ad)
                self.tables.walks_changed()
                return True
            get_page_from_upper(self.types, new, mfn, slot, level, portion, partial_set=False, retain=False)
        try:
            self._write(mfn, slot, new, preserve_ad=preserve_ad)
        except BaseException:
            self._drop_later(portion, new, mfn)
            raise
        self.tables.walks_changed()
        self._drop_later(portion, old, mfn)
        return bool(old & PAGE_PRESENT)

    def _drop_later(self, portion: Portion, entry: int, parent: int) -> None:
        """What an entry of `parent` above L1 holds goes through old_table; a self-reference holds nothing (P11)."""
        if entry & PAGE_PRESENT and pte_mfn(entry) != parent:
            self.types.park(portion.vcpu, pte_mfn(entry), partial=False, parent=parent)

    def _write(self, mfn: int, slot: int, entry: int, *, preserve_ad: bool) -> None:
        if preserve_ad:
            entry |= self.contents.accessed_dirty(mfn, slot)
        self.tables.write_entry(mfn, slot, entry)


def exchange_l1e(types: PageTypes, l1: int, slot: int, new: int) -> None:
    """Write an L1 entry for which the caller holds references, and drop the old one's.

    The references are the entry's from here on: whatever is raised before it is written, they are dropped (P9).
    """
    old = types.tables[l1].words[slot]
    try:
        types.tables.write_entry(l1, slot, new)
    except BaseException:
        put_page_from_l1e(types, new)
        raise
    put_page_from_l1e(types, old)
