"""update_va_mapping and the emulation of a store to a read-only L1: an entry changed by virtual address (U7, U8, P12).

Both find the L1 table by a walk of the caller's current tables, and then change one entry as mmu_update does.
"""

from typing import Final

from hypervisor.machine.frame_types import L1
from hypervisor.machine.paging import PAGE_PRESENT, PAGE_RW, pte_mfn
from hypervisor.mm.domain_memory import VcpuMemory
from hypervisor.mm.update import Updates
from hypervisor.mm.walk import Walker
from hypervisor.public.errno import Errno, XenError


class VaMapping:
    """Changes of L1 entries by the virtual address that leads to them."""

    def __init__(self, updates: Updates, walker: Walker) -> None:
        self.updates = updates
        self.walker = walker

    def update(self, v: VcpuMemory, va: int, value: int, pg_owner: int) -> None:
        """Put `value`, naming a frame of `pg_owner`, where `va` is mapped (U7). XenError: unchanged."""
        walked = self.walker.to_l1(v, va)
        frames = self.updates.frames
        if walked is None or frames.owner[walked.l1] != v.domain.domid:
            raise XenError(Errno.EINVAL, f"U7: {va:#x} has no L1 table of d{v.domain.domid}")
        if not self.updates.types.is_table(walked.l1, L1):
            raise XenError(Errno.EINVAL, f"U7: {frames.describe(walked.l1)} is no L1 table")
        self.updates.mod_l1_entry(walked.l1, va >> 12 & 511, value, v.domain, pg_owner)

    def ptwr_emulated_update(
        self, v: VcpuMemory, va: int, size: int, value: int, old: int | None = None
    ) -> bool:
        """A store of `size` bytes at `va`, where the guest maps an L1 of its own read-only (P12).

        With `old` it is a cmpxchg: False if it found another value. XenError(EFAULT): not such a store, or refused;
        the guest gets its page fault.
        """
        l1 = self._read_only_l1(v, va) if size in _MASKS and not va & (size - 1) else None
        if l1 is None:
            raise XenError(Errno.EFAULT, f"P12: {size} bytes at {va:#x} are no entry of an L1 table")
        slot, shift, mask = va >> 3 & 511, (va & 7) * 8, _MASKS[size]
        now = self.updates.tables[l1].words[slot] | self.updates.contents.accessed_dirty(l1, slot)
        if old is not None and now >> shift & mask != old & mask:
            return False
        entry = now & ~(mask << shift) | (value & mask) << shift
        if size == 4 and shift and old is None and v.domain.rules.address_size == 32:
            entry &= ~PAGE_PRESENT  # P12: the upper half comes first, and the lower one at once
        try:
            self.updates.mod_l1_entry(l1, slot, entry, v.domain, v.domain.domid)
        except XenError as refusal:
            raise XenError(Errno.EFAULT, f"P12: {refusal.reason}") from None
        return True

    def _read_only_l1(self, v: VcpuMemory, va: int) -> int | None:
        """The L1 table that `va` maps read-only, if it is the guest's own."""
        walked = self.walker.to_l1(v, va)
        entry = walked.words[va >> 12 & 511] if walked is not None else 0
        if entry & (PAGE_PRESENT | PAGE_RW) != PAGE_PRESENT:
            return None
        mfn, frames = pte_mfn(entry), self.updates.frames
        if frames.owner[mfn] != v.domain.domid or not self.updates.types.is_table(mfn, L1):
            return None
        return mfn


_MASKS: Final = {1: 0xFF, 2: 0xFFFF, 4: 0xFFFF_FFFF, 8: 0xFFFF_FFFF_FFFF_FFFF}
"""Bytes of a store -> its bits."""
