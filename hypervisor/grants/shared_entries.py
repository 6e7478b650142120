"""A grant table's entries as they lie in the frames that the granter and Xen share.

    entry (8 bytes):   flags u16 │ domid u16 │ frame u32           512 to a frame

The granter writes its entries; Xen alone sets and clears GTF_reading and GTF_writing, and only by an atomic
operation on the flags or on the head (flags and domid, 32 bits), for both may write at once. Where the host
has no atomics (machine/atomic.py gave None), or the granter's own read-modify-write is not one, the granter
must be off its CPU; the caller has seen to that (GrantTable.may_write).

Nothing read here is believed twice: a caller takes one head, checks it, and exchanges it for the new one
(G2).
"""

from __future__ import annotations

from typing import Final

from hypervisor.machine.atomic import Atomics
from hypervisor.machine.memory import MachineMemory
from hypervisor.public.grant_table import grant_entry_v1
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE, GrantRef, Mfn

ENTRIES_PER_FRAME: Final = PAGE_SIZE // grant_entry_v1.sizeof
_ENTRY: Final = grant_entry_v1.sizeof
_FRAME_OFFSET: Final = grant_entry_v1.offsetof("frame")


class SharedEntries:
    """The entries of one table. References are in range: the table has checked them (G1)."""

    def __init__(self, memory: MachineMemory, atomics: Atomics | None) -> None:
        self._memory = memory
        self._atomics = atomics
        self.frames: list[Mfn] = []

    def __len__(self) -> int:
        return len(self.frames) * ENTRIES_PER_FRAME

    def _maddr(self, ref: int) -> int:
        mfn = self.frames[ref // ENTRIES_PER_FRAME]
        return (mfn << PAGE_SHIFT) + ref % ENTRIES_PER_FRAME * _ENTRY

    def head(self, ref: GrantRef) -> int:
        """flags | domid << 16, read at once."""
        return int.from_bytes(self._memory.read(self._maddr(ref), 4), "little")

    def frame(self, ref: GrantRef) -> Mfn:
        """The frame number that the entry holds now."""
        return Mfn(int.from_bytes(self._memory.read(self._maddr(ref) + _FRAME_OFFSET, 4), "little"))

    def set_frame(self, ref: GrantRef, mfn: Mfn) -> None:
        """Tell the granter which frame it got (GNTTABOP_transfer)."""
        self._memory.write(self._maddr(ref) + _FRAME_OFFSET, mfn.to_bytes(4, "little"))

    def compare_exchange_head(self, ref: GrantRef, expected: int, new: int) -> int:
        """Write `new` if the head is `expected`; returns what was there."""
        maddr = self._maddr(ref)
        if self._atomics is not None:
            return self._atomics.compare_exchange_32(self._memory.base + maddr, expected, new)
        seen = self.head(ref)
        if seen == expected:
            self._memory.write(maddr, new.to_bytes(4, "little"))
        return seen

    def clear_flags(self, ref: GrantRef, flags: int) -> None:
        """Clear these flags, and touch nothing else of the entry."""
        maddr = self._maddr(ref)
        if self._atomics is not None:
            self._atomics.and_16(self._memory.base + maddr, ~flags & 0xFFFF)
        else:
            self._memory.write(maddr, (self.head(ref) & 0xFFFF & ~flags).to_bytes(2, "little"))

    def set_flags(self, ref: GrantRef, flags: int) -> None:
        """Set these flags, and touch nothing else of the entry."""
        maddr = self._maddr(ref)
        if self._atomics is not None:
            self._atomics.or_16(self._memory.base + maddr, flags)
        else:
            self._memory.write(maddr, (self.head(ref) & 0xFFFF | flags).to_bytes(2, "little"))

    def swap(self, a: GrantRef, b: GrantRef) -> None:
        """Exchange two entries whole; the granter itself asks, so it is not writing them."""
        at_a, at_b = self._maddr(a), self._maddr(b)
        entry_a, entry_b = self._memory.read(at_a, _ENTRY), self._memory.read(at_b, _ENTRY)
        self._memory.write(at_a, entry_b)
        self._memory.write(at_b, entry_a)
