"""A grant table's entries as they lie in the frames that the granter and Xen share.

    version 1 (8 bytes):   flags u16 │ domid u16 │ frame u32                              512 to a frame
    version 2 (16 bytes):  flags u16 │ domid u16 │ page_off u16 │ length u16 │ frame u64  256 to a frame
                           status u16, in a status frame of its own                       2048 to a frame

The granter writes its entries; Xen alone sets and clears GTF_reading and GTF_writing. In version 1 they are two bits
of the entry's own flags, which both sides write, at the same time: Xen does so only by an atomic operation on the flags
or on the head (flags and domid, 32 bits), and so does a granter. In version 2 they are a word that Xen alone writes.

The flags are for the granter. A process whose CPU does not exchange them atomically loses marks of its own entries, and
nobody else notices: what is in use, by whom, and which frame it is stands in the table's record of it (active.py), and no
decision of Xen's reads a mark (G3).

Nothing read here is believed twice: a caller gets the one head that was checked, and what else the entry says goes by
that (G2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Final, NamedTuple

from hypervisor.grants.status import GrantRefused
from hypervisor.machine.atomic import Atomics
from hypervisor.machine.memory import MachineMemory
from hypervisor.public.grant_table import (
    GNTST_general_error,
    GTF_reading,
    GTF_sub_page,
    grant_entry_v1,
    grant_entry_v2,
    grant_entry_v2_sub_page,
    grant_status_t,
)
from hypervisor.public.layout import Struct, c_type
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE, GrantRef, Mfn

MAX_TRIES: Final = 5
"""How often a head that the granter keeps changing is tried (G2, XSA-295)."""

_STATUS: Final = c_type(grant_status_t).size
_V1_FRAME: Final = grant_entry_v1.offsetof("frame")
_V2_FRAME: Final = grant_entry_v2.offsetof("full_page.frame")

_READING, _SUB_PAGE = int(GTF_reading), int(GTF_sub_page)
Check = Callable[[int], None]
"""Asks whether a head (flags | domid << 16) allows a use. GrantRefused."""


class Granted(NamedTuple):
    """What an entry lets others use: bytes [start, start + length) of a frame. A part of it may be copied only."""

    frame: Mfn
    start: int = 0
    length: int = PAGE_SIZE
    sub_page: bool = False


class SharedEntries:
    """What both versions have in common. References are in range: the table has checked them (G1)."""

    version: ClassVar[int]
    entry: ClassVar[type[Struct]]

    def __init__(self, memory: MachineMemory, atomics: Atomics, frames: list[Mfn]) -> None:
        self._memory = memory
        self._atomics = atomics
        self.frames = frames

    def __len__(self) -> int:
        return len(self.frames) * PAGE_SIZE // self.entry.sizeof

    def maddr(self, ref: int) -> int:
        """Where an entry lies."""
        at = ref * self.entry.sizeof
        return (self.frames[at >> PAGE_SHIFT] << PAGE_SHIFT) + at % PAGE_SIZE

    def head(self, ref: GrantRef) -> int:
        """flags | domid << 16, read at once."""
        return int.from_bytes(self._memory.read(self.maddr(ref), 4), "little")

    def compare_exchange_head(self, ref: GrantRef, expected: int, new: int) -> int:
        """Write `new` if the head is `expected`; returns what was there."""
        return self._atomics.compare_exchange_32(self._memory.base + self.maddr(ref), expected, new)

    def clear_flags(self, ref: GrantRef, flags: int) -> None:
        """Clear these flags of the entry, and touch nothing else of it."""
        self._clear(self.maddr(ref), flags)

    def set_flags(self, ref: GrantRef, flags: int) -> None:
        """Set these flags of the entry, and touch nothing else of it."""
        self._set(self.maddr(ref), flags)

    def swap(self, a: GrantRef, b: GrantRef) -> None:
        """Exchange two entries whole; the granter itself asks, so it is not writing them."""
        self._swap(self.maddr(a), self.maddr(b), self.entry.sizeof)

    # --- what differs --------------------------------------------------------------------------------

    def frame(self, ref: GrantRef) -> Mfn:
        """The frame number that the entry holds now."""
        raise NotImplementedError

    def set_frame(self, ref: GrantRef, mfn: Mfn) -> None:
        """Tell the granter which frame it got (GNTTABOP_transfer)."""
        raise NotImplementedError

    def granted(self, ref: GrantRef, head: int) -> Granted:
        """What the entry grants, by the head that was checked."""
        raise NotImplementedError

    def announce(self, ref: GrantRef, flags: int, check: Check) -> int:
        """Set GTF_reading, and those of `flags`, if `check` agrees; the head it agreed to (G2). GrantRefused."""
        raise NotImplementedError

    def set_status(self, ref: GrantRef, flags: int) -> None:
        """Set GTF_reading or GTF_writing or both, whatever the entry says."""
        raise NotImplementedError

    def withdraw(self, ref: GrantRef, flags: int) -> None:
        """Clear GTF_reading or GTF_writing or both, as the last use that needs them ends (G11)."""
        raise NotImplementedError

    def status(self, ref: GrantRef) -> int:
        """The word that GTF_reading and GTF_writing are in."""
        raise NotImplementedError

    # --- words ---------------------------------------------------------------------------------------

    def _clear(self, maddr: int, flags: int) -> None:
        self._atomics.and_16(self._memory.base + maddr, ~flags & 0xFFFF)

    def _set(self, maddr: int, flags: int) -> None:
        self._atomics.or_16(self._memory.base + maddr, flags)

    def _u16(self, maddr: int) -> int:
        return int.from_bytes(self._memory.read(maddr, 2), "little")

    def _swap(self, a: int, b: int, size: int) -> None:
        memory = self._memory
        entry_a, entry_b = memory.read(a, size), memory.read(b, size)
        memory.write(a, entry_b)
        memory.write(b, entry_a)


class SharedEntriesV1(SharedEntries):
    """The status is in the flags of the entry itself."""

    version = 1
    entry = grant_entry_v1

    def frame(self, ref: GrantRef) -> Mfn:
        """The 32-bit frame number of the entry."""
        return Mfn(int.from_bytes(self._memory.read(self.maddr(ref) + _V1_FRAME, 4), "little"))

    def set_frame(self, ref: GrantRef, mfn: Mfn) -> None:
        """Write the 32-bit frame number."""
        self._memory.write(self.maddr(ref) + _V1_FRAME, mfn.to_bytes(4, "little"))

    def granted(self, ref: GrantRef, head: int) -> Granted:
        """All of the frame: version 1 grants no parts."""
        return Granted(self.frame(ref))

    def announce(self, ref: GrantRef, flags: int, check: Check) -> int:
        """In one exchange with the head that was checked."""
        head = self.head(ref)
        for _ in range(MAX_TRIES):
            check(head)
            seen = self.compare_exchange_head(ref, head, head | flags | _READING)
            if seen == head:
                return head
            head = seen
        raise GrantRefused(GNTST_general_error, f"G2: entry {ref:#x} does not hold still")

    def set_status(self, ref: GrantRef, flags: int) -> None:
        """In the entry's own flags."""
        self.set_flags(ref, flags)

    def withdraw(self, ref: GrantRef, flags: int) -> None:
        """From the entry's own flags."""
        self.clear_flags(ref, flags)

    def status(self, ref: GrantRef) -> int:
        """The entry's own flags."""
        return self.head(ref) & 0xFFFF


class SharedEntriesV2(SharedEntries):
    """The status is a word of Xen's; there is one for every entry."""

    version = 2
    entry = grant_entry_v2

    def __init__(
        self, memory: MachineMemory, atomics: Atomics, frames: list[Mfn], status_frames: list[Mfn]
    ) -> None:
        super().__init__(memory, atomics, frames)
        self.status_frames = status_frames

    def frame(self, ref: GrantRef) -> Mfn:
        """The 64-bit frame number of the entry."""
        return Mfn(int.from_bytes(self._memory.read(self.maddr(ref) + _V2_FRAME, 8), "little"))

    def set_frame(self, ref: GrantRef, mfn: Mfn) -> None:
        """Write the 64-bit frame number."""
        self._memory.write(self.maddr(ref) + _V2_FRAME, mfn.to_bytes(8, "little"))

    def granted(self, ref: GrantRef, head: int) -> Granted:
        """All of the frame, or the part that a sub-page entry names."""
        if not head & _SUB_PAGE:
            return Granted(self.frame(ref))
        part = grant_entry_v2_sub_page.unpack(self._memory.read(self.maddr(ref), self.entry.sizeof))
        return Granted(Mfn(part.frame), part.page_off, part.length, sub_page=True)

    def announce(self, ref: GrantRef, flags: int, check: Check) -> int:
        """The status first, then the head again: a granter that takes its entry back looks the other way round."""
        check(self.head(ref))
        self.set_status(ref, flags | _READING)
        head = self.head(ref)
        try:
            check(head)
        except GrantRefused:
            self.withdraw(ref, flags)
            raise
        return head

    def set_status(self, ref: GrantRef, flags: int) -> None:
        """In the entry's status word, which Xen alone writes."""
        self._set(self._status_maddr(ref), flags)

    def withdraw(self, ref: GrantRef, flags: int) -> None:
        """From the entry's status word."""
        self._clear(self._status_maddr(ref), flags)

    def status(self, ref: GrantRef) -> int:
        """The entry's status word."""
        return self._u16(self._status_maddr(ref))

    def swap(self, a: GrantRef, b: GrantRef) -> None:
        """The entries, and their status words with them."""
        super().swap(a, b)
        self._swap(self._status_maddr(a), self._status_maddr(b), _STATUS)

    def _status_maddr(self, ref: int) -> int:
        frame, offset = divmod(ref * _STATUS, PAGE_SIZE)
        return (self.status_frames[frame] << PAGE_SHIFT) + offset


def nr_status_frames(nr_frames: int) -> int:
    """How many frames hold the status words of a version 2 table of `nr_frames` frames."""
    entries = nr_frames * PAGE_SIZE // grant_entry_v2.sizeof
    return -(-entries * _STATUS // PAGE_SIZE)
