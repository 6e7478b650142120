"""The format of x86-64 page tables (Intel SDM vol. 3A §4.5): bits of an entry and how an address is split.

 63 62     52 51                        12 11 9  8  7  6 5 4   3   2  1 0
+--+--------+-----------------------------+----+--+---+-+-+---+---+--+--+-+
|NX| AVAIL  |     machine frame number    |AVL | G|PSE|D|A|PCD|PWT|US|RW|P|
+--+--------+-----------------------------+----+--+---+-+-+---+---+--+--+-+

 47      39 38      30 29      21 20      12 11          0
+----------+----------+----------+----------+-------------+
| L4 index | L3 index | L2 index | L1 index |   offset    |
+----------+----------+----------+----------+-------------+
"""

from __future__ import annotations

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

L1_SHIFT, L2_SHIFT, L3_SHIFT, L4_SHIFT = 12, 21, 30, 39
TABLE_ENTRIES: Final = 512

PFEC_PRESENT: Final = 1 << 0
PFEC_WRITE: Final = 1 << 1
PFEC_USER: Final = 1 << 2
PFEC_RESERVED: Final = 1 << 3
PFEC_FETCH: Final = 1 << 4


def pte(mfn: int, flags: int) -> int:
    """An entry that names frame `mfn` with the bits `flags`."""
    return mfn << 12 | flags


def pte_mfn(entry: int) -> int:
    """The frame that an entry names."""
    return (entry & PTE_MFN_MASK) >> 12


def table_index(va: int, level: int) -> int:
    """The slot that `va` selects in a table of `level` (1…4)."""
    return va >> (12 + 9 * (level - 1)) & 511


def is_canonical(va: int) -> bool:
    """Bits 63…47 all equal (48-bit virtual addresses)."""
    return va >> 47 in (0, 0x1FFFF)
