"""The format of x86 page tables (Intel SDM vol. 3A §4.3–4.5): bits of an entry, and how an address is split.

PAE and 64-bit entries look alike:

 63 62     52 51                        12 11 9  8  7  6 5 4   3   2  1 0
+--+--------+-----------------------------+----+--+---+-+-+---+---+--+--+-+
|NX| AVAIL  |     machine frame number    |AVL | G|PSE|D|A|PCD|PWT|US|RW|P|
+--+--------+-----------------------------+----+--+---+-+-+---+---+--+--+-+

How many levels there are, and which bits of an address index the table of each, is what a PagingFormat says. PV64:

 47      39 38      30 29      21 20      12 11          0
+----------+----------+----------+----------+-------------+
| L4 index | L3 index | L2 index | L1 index |   offset    |
+----------+----------+----------+----------+-------------+
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PAGE_PRESENT: Final = 1 << 0
PAGE_RW: Final = 1 << 1
PAGE_USER: Final = 1 << 2
PAGE_PWT: Final = 1 << 3
PAGE_PCD: Final = 1 << 4
PAGE_ACCESSED: Final = 1 << 5
PAGE_DIRTY: Final = 1 << 6
PAGE_PSE: Final = 1 << 7
PAGE_PAT: Final = 1 << 7
PAGE_GLOBAL: Final = 1 << 8
PAGE_AVAIL: Final = 7 << 9
PAGE_AVAIL_HIGH: Final = 0x7FF << 52
PAGE_NX: Final = 1 << 63

PTE_MFN_MASK: Final = ((1 << 40) - 1) << 12
"""The frame number's bits of an entry, in place."""

TABLE_ENTRIES: Final = 512

PFEC_PRESENT: Final = 1 << 0
PFEC_WRITE: Final = 1 << 1
PFEC_USER: Final = 1 << 2
PFEC_RESERVED: Final = 1 << 3
PFEC_FETCH: Final = 1 << 4


@dataclass(frozen=True)
class PagingFormat:
    """One kind of page tables, as the CPU walks them and as Xen validates them.

    A walk starts at the top level; `shifts` and `masks` have one number a level, from the top down.
    """

    shifts: tuple[int, ...]
    """The lowest bit of an address that indexes the table of each level."""
    masks: tuple[int, ...]
    """The largest index of each level's table: its entries, less one."""
    entry_size: int
    """Bytes of an entry."""
    superpage_shift: int
    """At this level, and no other, an entry with PSE is a leaf: it maps 1 << superpage_shift bytes."""

    @property
    def levels(self) -> int:
        """How many tables a walk goes through."""
        return len(self.shifts)

    @property
    def upper(self) -> tuple[tuple[int, int], ...]:
        """(shift, mask) of the levels above L1, from the top down."""
        return tuple(zip(self.shifts[:-1], self.masks[:-1], strict=True))

    @property
    def l1_span_shift(self) -> int:
        """One L1 table maps 1 << l1_span_shift bytes."""
        return self.shifts[-2]

    @property
    def table_shift(self) -> int:
        """A frame holds 1 << table_shift entries."""
        return 12 - (self.entry_size.bit_length() - 1)

    def index(self, va: int, level: int) -> int:
        """The slot that `va` selects in a table of `level`, which is 1 for the leaves."""
        return va >> self.shifts[-level] & self.masks[-level]


PV64: Final = PagingFormat(shifts=(39, 30, 21, 12), masks=(511,) * 4, entry_size=8, superpage_shift=21)
"""Four levels of 64-bit entries: 64-bit PV guests."""
PAE: Final = PagingFormat(shifts=(30, 21, 12), masks=(3, 511, 511), entry_size=8, superpage_shift=21)
"""Three levels of 64-bit entries, of which the top one has four."""
TWO_LEVEL: Final = PagingFormat(shifts=(22, 12), masks=(1023, 1023), entry_size=4, superpage_shift=22)
"""Two levels of 32-bit entries."""
FORMATS: Final = {paging.levels: paging for paging in (TWO_LEVEL, PAE, PV64)}
"""All of them, by their levels: an HVM guest changes between them."""


def pte(mfn: int, flags: int) -> int:
    """An entry that names frame `mfn` with the bits `flags`."""
    return mfn << 12 | flags


def pte_mfn(entry: int) -> int:
    """The frame that an entry names."""
    return (entry & PTE_MFN_MASK) >> 12


def table_index(va: int, level: int) -> int:
    """PV64.index: the slot that `va` selects in a table of `level` (1…4)."""
    return PV64.index(va, level)


def is_canonical(va: int) -> bool:
    """Bits 63…47 all equal (48-bit virtual addresses)."""
    return va >> 47 in (0, 0x1FFFF)
