"""A domain's PMAP: guest frame → the P2M's entry for it, as arrays, read from the tables that the core keeps.

An entry is 0, or a machine frame's address with PAGE_PRESENT, and PAGE_RW if it may be written. What the core adds is found
when it is needed (`add`); for what it takes away or replaces, it sends FLUSH_TLB, upon which all is read anew (`load`).

    gfn >> 9 ──index──► row: the 512 entries of an L1 table of the P2M; row 0 is that of none
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from hypervisor.machine.memory import MachineMemory
from hypervisor.machine.paging import PAGE_PRESENT, PAGE_RW, PTE_MFN_MASK
from hypervisor.public.types import PAGE_SHIFT

GFN_BITS: Final = 24
ROW_SHIFT: Final = 9
_NR_ROWS: Final = 1 << GFN_BITS - ROW_SHIFT
_KEPT: Final = PTE_MFN_MASK | PAGE_RW | PAGE_PRESENT
_PER_ROW: Final = 1 << ROW_SHIFT

Entries = npt.NDArray[np.uint64]


class Pmap:
    """One domain's."""

    def __init__(self, memory: MachineMemory) -> None:
        self._frames = memory.frames
        self._index = np.zeros(_NR_ROWS + 1, np.int32)
        self._rows: Entries = np.zeros((1, _PER_ROW), np.uint64)

    def load(self, top: int) -> None:
        """Read all of the P2M whose top table lies in this frame."""
        tables = [
            (l3 << ROW_SHIFT | l2, l1_table)
            for _, l3_table in self._present(top)
            for l3, l2_table in self._present(l3_table)
            for l2, l1_table in self._present(l2_table)
        ]
        self._index[:] = 0
        self._rows = np.zeros((len(tables) + 1, _PER_ROW), np.uint64)
        for row, (number, table) in enumerate(tables, 1):
            self._index[number] = row
            self._rows[row] = self._frames[table] & np.uint64(_KEPT)

    def entry(self, gfn: int) -> int:
        """The entry of one guest frame number, which may be any number."""
        number = gfn >> ROW_SHIFT
        return int(self._rows[self._index[number], gfn & _PER_ROW - 1]) if number < _NR_ROWS else 0

    def entries(self, gfns: Entries) -> Entries:
        """Those of many guest frame numbers, which may be any numbers."""
        numbers = np.minimum(gfns >> np.uint64(ROW_SHIFT), np.uint64(_NR_ROWS))
        found: Entries = self._rows[self._index[numbers], gfns & np.uint64(_PER_ROW - 1)]
        return found

    def span(self, gfn: int) -> Entries:
        """Those of the 512 guest frames of which this is the first."""
        found: Entries = self._rows[self._index[min(gfn >> ROW_SHIFT, _NR_ROWS)]]
        return found

    def add(self, gfn: int, entry: int) -> None:
        """The core has put something where nothing was."""
        number = gfn >> ROW_SHIFT
        if not self._index[number]:
            self._index[number] = len(self._rows)
            self._rows = np.vstack([self._rows, np.zeros((1, _PER_ROW), np.uint64)])
        self._rows[self._index[number], gfn & _PER_ROW - 1] = entry & _KEPT

    def protect(self, address: int) -> bool:
        """As far as this process cares, the frame at this machine address may not be written; whether it might before."""
        there = self._rows & np.uint64(PTE_MFN_MASK | PAGE_PRESENT) == np.uint64(address | PAGE_PRESENT)
        rows = self._rows[there]
        self._rows[there] = rows & ~np.uint64(PAGE_RW)
        return bool(np.any(rows & np.uint64(PAGE_RW)))

    def permit(self, address: int) -> None:
        """It may be written again."""
        there = self._rows & np.uint64(PTE_MFN_MASK | PAGE_PRESENT) == np.uint64(address | PAGE_PRESENT)
        self._rows[there] |= np.uint64(PAGE_RW)

    def _present(self, table: int) -> list[tuple[int, int]]:
        """(slot, frame) of the entries of a table that are present."""
        entries = self._frames[table]
        slots = np.nonzero(entries & np.uint64(PAGE_PRESENT))[0].tolist()
        return [(slot, (int(entries[slot]) & PTE_MFN_MASK) >> PAGE_SHIFT) for slot in slots]
