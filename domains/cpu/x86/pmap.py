"""A domain's PMAP: guest frame → the P2M's entry for it, as one array, read from the tables that the core keeps.

An entry is 0, or a machine frame's address with PAGE_PRESENT, and PAGE_RW if it may be written. What the core adds is found
when it is needed (`add`); for what it takes away or replaces, it sends FLUSH_TLB, upon which all is read anew (`load`).
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from hypervisor.machine.memory import MachineMemory
from hypervisor.machine.paging import PAGE_PRESENT, PAGE_RW, PTE_MFN_MASK
from hypervisor.public.types import PAGE_SHIFT

GFN_BITS: Final = 24
_KEPT: Final = PTE_MFN_MASK | PAGE_RW | PAGE_PRESENT
_PER_TABLE: Final = 512


class Pmap:
    """One domain's. `entries` has one for each guest frame number, and a 0 behind the last; `words` is the same memory."""

    def __init__(self, memory: MachineMemory) -> None:
        self._frames = memory.frames
        self._loaded: list[int] = []
        self.entries: npt.NDArray[np.uint64] = np.zeros((1 << GFN_BITS) + 1, np.uint64)
        self.words = self.entries.data.cast("B").cast("Q")

    def load(self, top: int) -> None:
        """Read all of the P2M whose top table lies in this frame."""
        for number in self._loaded:
            self._set(number, 0)
        self._loaded = []
        for l3, l3_table in [entry for _, table in self._present(top) for entry in self._present(table)]:
            for l2, l2_table in self._present(l3_table):
                number = l3 << 9 | l2
                self._set(number, self._frames[l2_table] & np.uint64(_KEPT))
                self._loaded.append(number)

    def _present(self, table: int) -> list[tuple[int, int]]:
        """(slot, frame) of the entries of a table that are present."""
        entries = self._frames[table]
        slots = np.nonzero(entries & np.uint64(PAGE_PRESENT))[0].tolist()
        return [(slot, (int(entries[slot]) & PTE_MFN_MASK) >> PAGE_SHIFT) for slot in slots]

    def _set(self, number: int, entries: npt.NDArray[np.uint64] | int) -> None:
        self.entries[number * _PER_TABLE : (number + 1) * _PER_TABLE] = entries

    def add(self, gfn: int, entry: int) -> None:
        """The core has put something where nothing was."""
        self.words[gfn] = entry & _KEPT
        if gfn // _PER_TABLE not in self._loaded:
            self._loaded.append(gfn // _PER_TABLE)
