"""The one file of memory management that touches machine memory itself.

Every frame number that comes here was checked against the frame table by the caller and has a reference: it is
mapped. What is read from a guest's frame is a value to be checked, copied once (P10).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hypervisor.machine.memory import MachineMemory
from hypervisor.machine.paging import PAGE_ACCESSED, PAGE_DIRTY

AD = PAGE_ACCESSED | PAGE_DIRTY

Entries = npt.NDArray[np.uint64]
Slots = npt.NDArray[np.intp]


class Contents:
    """Frames as the guests' CPUs see them."""

    def __init__(self, memory: MachineMemory) -> None:
        self.memory = memory
        self.octets = memory.octets
        self.words: memoryview[int] = memory.octets.cast("Q")

    def copy_of(self, mfn: int) -> Entries:
        """A private copy of the frame's 512 words."""
        copy: Entries = self.memory.frames[mfn].copy()
        return copy

    def write_table(self, mfn: int, entries: Entries) -> None:
        """Fill a frame with 512 entries."""
        self.memory.frames[mfn] = entries

    def write_entries(self, mfn: int, slots: Slots, entries: Entries) -> None:
        """Write entries of distinct slots of a frame."""
        self.memory.frames[mfn][slots] = entries

    def write_entry(self, mfn: int, slot: int, entry: int) -> None:
        """One aligned store of 8 bytes (P9)."""
        self.words[mfn << 9 | slot] = entry

    def accessed_dirty(self, mfn: int, slot: int) -> int:
        """The A and D bits that the CPU's walker left; nothing else of the live entry is believed."""
        return self.words[mfn << 9 | slot] & AD

    def mark(self, mfn: int, slot: int, bits: int) -> None:
        """Set A or D as the CPU's walker would."""
        self.words[mfn << 9 | slot] |= bits

    def read(self, maddr: int, size: int) -> bytes:
        """`size` bytes at a machine address."""
        return bytes(self.octets[maddr : maddr + size])

    def write(self, maddr: int, data: bytes | memoryview) -> None:
        """Store bytes at a machine address."""
        self.octets[maddr : maddr + len(data)] = data

    def read_word(self, maddr: int) -> int:
        """The 8 bytes at an aligned machine address."""
        return self.words[maddr >> 3]

    def write_word(self, maddr: int, value: int) -> None:
        """Store 8 bytes at an aligned machine address, at once."""
        self.words[maddr >> 3] = value

    def clear(self, mfn: int) -> None:
        """Zero a frame."""
        self.memory.frames[mfn] = 0

    def copy(self, to: int, source: int) -> None:
        """Copy frame `source` into frame `to`."""
        self.memory.frames[to] = self.memory.frames[source]
