"""The core's own copy of every page table in use: what it walks, compares and takes references back by.

A domain's process can write to all of its memory at any time, tables included. So a table is copied once, the copy
is validated and kept (P10), and the guest's frame only shows what was recorded. Nothing is ever decided from the
frame again; the CPU's A and D bits are merged from it where a caller asks for them.

A copy exists exactly while its frame is L1…L4 and being validated, VALIDATED or PARTIAL.
"""

from __future__ import annotations

import numpy as np

from hypervisor.mm.contents import Contents, Entries, Slots


class Table:
    """One table's recorded entries: `words` for one entry, `entries` for many, over the same bytes."""

    __slots__ = ("entries", "words")

    def __init__(self, entries: Entries) -> None:
        self.entries = entries
        self.words: memoryview[int] = entries.data.cast("B").cast("Q")


class Tables:
    """Copies by frame number. `generation` counts changes that can make a remembered walk wrong (T3)."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self._tables: dict[int, Table] = {}
        self.generation = 0

    def __getitem__(self, mfn: int) -> Table:
        return self._tables[mfn]

    def __contains__(self, mfn: int) -> bool:
        return mfn in self._tables

    def __len__(self) -> int:
        return len(self._tables)

    def take_copy(self, mfn: int) -> Table:
        """The copy that is going to be validated; the only read of the guest's frame (P10)."""
        table = self._tables[mfn] = Table(self._contents.copy_of(mfn))
        return table

    def drop(self, mfn: int) -> None:
        """The frame is no table any more."""
        del self._tables[mfn]
        self.generation += 1

    def publish(self, mfn: int) -> None:
        """Show the recorded entries in the guest's frame."""
        self._contents.write_table(mfn, self._tables[mfn].entries)

    def write_entry(self, mfn: int, slot: int, entry: int) -> None:
        """Record one entry and show it, by one aligned store (P9)."""
        self._tables[mfn].words[slot] = entry
        self._contents.write_entry(mfn, slot, entry)

    def write_entries(self, mfn: int, slots: Slots, entries: Entries) -> None:
        """Record entries of distinct slots and show them."""
        self.record_entries(mfn, slots, entries)
        self._contents.write_entries(mfn, slots, entries)

    def record_entries(self, mfn: int, slots: Slots, entries: Entries) -> None:
        """Record entries of distinct slots, which the guest's frame shows already."""
        self._tables[mfn].entries[slots] = entries

    def snapshot(self) -> list[tuple[int, bytes]]:
        """(frame, its 512 recorded entries) of every table, parked ones included."""
        return [(mfn, table.entries.tobytes()) for mfn, table in sorted(self._tables.items())]

    def restore(self, record: list[tuple[int, bytes]]) -> None:
        """Have exactly the tables of a snapshot; the guests' frames are not looked at."""
        self._tables = {mfn: Table(np.frombuffer(entries, np.uint64).copy()) for mfn, entries in record}
        self.generation += 1

    def walks_changed(self) -> None:
        """An entry above L1 changed: no remembered walk is good any more (T3)."""
        self.generation += 1
