"""The P2M of a translated domain: guest frame → machine frame. State alone; physmap.py acts on it.

`leaves` is the truth, and in the core's own memory. Each entry is copied, as it changes, into page tables in AMD's nested
format, which the domain's CPU walks below the guest's own: XEN frames of the domain's memfd. The core never reads those back.

    top (L4) ── L3 ── L2 ── L1: present|RW|user|A|D and the machine frame; A and D are preset, so that no walker writes here

An entry is the domain's memory, or (P2M_GRANT_MAP, a bit that no CPU looks at) a frame of a grant that it maps, which may be
without RW. Only memory is granted, registered, or read by Xen on the guest's behalf (Xen's p2m_grant_map_rw and _ro are not RAM).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hypervisor.machine.paging import (
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_PRESENT,
    PAGE_RW,
    PAGE_USER,
    PTE_MFN_MASK,
    pte_mfn,
)
from hypervisor.public.types import PAGE_SHIFT, Mfn

GFN_BITS: Final = 24
"""Width of a guest frame number: guests have 36 bits of physical address."""
LEAF_FLAGS: Final = PAGE_PRESENT | PAGE_RW | PAGE_USER | PAGE_ACCESSED | PAGE_DIRTY
P2M_GRANT_MAP: Final = 1 << 9
TABLE_FLAGS: Final = PAGE_PRESENT | PAGE_RW | PAGE_USER | PAGE_ACCESSED

Leaf = npt.NDArray[np.uint64]
MOST_LEAVES: Final = 16
"""L1 tables of a P2M that are looked into for one batch of entries."""
_P, _GRANT_MAP, _MFN_MASK = np.uint64(PAGE_PRESENT), np.uint64(P2M_GRANT_MAP), np.uint64(PTE_MFN_MASK)
_PAGE_SHIFT, _LEAF_SHIFT, _LEAF_MASK = np.uint64(PAGE_SHIFT), np.uint64(9), np.uint64(511)


@dataclass(eq=False)
class P2M:
    """One domain's. `tables`: (level, gfn >> 9 * level) → the frame of that table, of levels 3 to 1."""

    top: Mfn
    tables: dict[tuple[int, int], Mfn] = field(default_factory=dict)
    leaves: dict[int, Leaf] = field(default_factory=dict)
    """gfn >> 9 → 512 entries as the L1 table in the frame has them."""
    max_gfn: int = 0
    """The highest guest frame that was ever there."""

    def entry(self, gfn: int) -> int:
        """What is at a guest frame number, which may be any number; 0: nothing."""
        leaf = self.leaves.get(gfn >> 9)
        return int(leaf[gfn & 511]) if leaf is not None else 0

    def mfn(self, gfn: int) -> Mfn | None:
        """The machine frame of the domain's memory there; None: there is none."""
        entry = self.entry(gfn)
        return Mfn(pte_mfn(entry)) if entry and not entry & P2M_GRANT_MAP else None

    def entries_of(self, values: Leaf) -> Leaf | None:
        """Page-table entries that name guest frames, with the machine frames of the domain's memory there; those that are not
        present stay. None: at least one has none, or they are too far apart to be looked up together.
        """
        there = values & _P != 0
        gfns = (values[there] & _MFN_MASK) >> _PAGE_SHIFT
        numbers = np.unique(gfns >> _LEAF_SHIFT).tolist()
        if len(numbers) > MOST_LEAVES:
            return None
        found = np.zeros_like(gfns)
        for number in numbers:
            leaf = self.leaves.get(number)
            if leaf is not None:
                where = gfns >> _LEAF_SHIFT == number
                found[where] = leaf[gfns[where] & _LEAF_MASK]
        if (found & (_P | _GRANT_MAP) != _P).any():
            return None
        translated = values.copy()
        translated[there] = values[there] & ~_MFN_MASK | found & _MFN_MASK
        return translated

    def granted(self, gfn: int) -> Mfn | None:
        """The machine frame of a grant that is mapped there; None: there is none."""
        entry = self.entry(gfn)
        return Mfn(pte_mfn(entry)) if entry & P2M_GRANT_MAP else None

    def snapshot(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "top": self.top,
            "max_gfn": self.max_gfn,
            "tables": [[*key, mfn] for key, mfn in self.tables.items()],
            "leaves": [[number, leaf.tobytes()] for number, leaf in self.leaves.items()],
        }

    @staticmethod
    def restored(record: dict[str, Any]) -> P2M:
        """What `snapshot` wrote down."""
        return P2M(
            record["top"],
            {(level, number): mfn for level, number, mfn in record["tables"]},
            {number: np.frombuffer(raw, np.uint64).copy() for number, raw in record["leaves"]},
            record["max_gfn"],
        )
