"""How fast a page table is validated: by array operations on the whole page, against one entry after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from hypervisor.machine.entries import adjust_l1e
from hypervisor.machine.frame_types import L1
from hypervisor.machine.paging import PAGE_PRESENT, PAGE_RW, PAGE_USER, TABLE_ENTRIES
from hypervisor.mm.domain_memory import DomainMemory
from hypervisor.mm.page_types import PageTypes
from hypervisor.mm.validate import get_page_from_l1e, put_page_from_l1e
from hypervisor.public.types import PAGE_SHIFT, Mfn
from scripts.benchmarks.figure import Figure, Sizes, compare
from tests.inprocess import InProcess, hypervisor_in_process

MICROSECONDS: Final = 1e6
ENTRY: Final = PAGE_PRESENT | PAGE_RW | PAGE_USER


def l1_validation(sizes: Sizes) -> Iterator[Figure]:
    """A full L1 table of 512 writable entries, from the guest's frame to the checked copy, references taken."""
    with hypervisor_in_process() as machine:
        table = FullTable(machine)
        tables = max(1, sizes.calls // 10)
        yield compare(
            "l1_validation",
            "µs",
            "the same checks in a Python loop over the entries",
            lambda: table.seconds(table.whole, tables),
            lambda: table.seconds(table.entry_by_entry, max(1, tables // 5)),
            sizes.rounds,
            MICROSECONDS,
        )


class FullTable:
    """A frame of a domain that names 512 other frames of it, writable."""

    def __init__(self, machine: InProcess) -> None:
        self.types: PageTypes = machine.hv.mmu.types
        self.owner: DomainMemory = machine.build().domain.mem
        alloc = machine.hv.mmu.allocator.alloc_page
        self.l1: Mfn = alloc(self.owner)
        frames = np.array([alloc(self.owner) for _ in range(TABLE_ENTRIES)], np.uint64)
        self.entries: npt.NDArray[np.uint64] = frames << np.uint64(PAGE_SHIFT) | np.uint64(ENTRY)

    def seconds(self, validate: Callable[[], Callable[[], object]], tables: int) -> float:
        """Seconds of one validation; what it returns undoes it, and is not counted."""
        total = 0.0
        for _ in range(tables):
            self.types.contents.write_table(self.l1, self.entries)
            start = time.perf_counter()
            undo = validate()
            total += time.perf_counter() - start
            undo()
        return total / tables

    def whole(self) -> Callable[[], object]:
        """As the hypervisor does it."""
        self.types.get_page_and_type(self.l1, self.owner.domid, L1)
        return lambda: self.types.put_page_and_type(self.l1)

    def entry_by_entry(self) -> Callable[[], object]:
        """The same by the functions that check one entry."""
        copy = self.types.contents.copy_of(self.l1).tolist()
        for i, entry in enumerate(copy):
            if entry & PAGE_PRESENT:
                get_page_from_l1e(self.types, entry, self.owner, self.owner.domid)
                copy[i] = adjust_l1e(entry)
        self.types.contents.write_table(self.l1, np.array(copy, np.uint64))

        def undo() -> None:
            for entry in copy:
                put_page_from_l1e(self.types, entry)

        return undo
