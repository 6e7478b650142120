"""A walker of page tables that tells of every entry that it reads: a guest's own tables, and the P2M below them if there is one.

Nothing is kept between two reads, as in a CPU without caches for its walks.
"""

from __future__ import annotations

from typing import NamedTuple

from hypervisor.machine.memory import MachineMemory
from hypervisor.machine.paging import FORMATS, PAGE_PRESENT, PTE_MFN_MASK, PV64
from hypervisor.public.types import PAGE_SIZE


class Reference(NamedTuple):
    """One entry that was read: `table` and `level`: whose; `of`: what was looked for; `at`: its machine address."""

    table: str
    level: int
    of: str
    at: int
    entry: int


class _NotPresent(Exception):
    """An entry leads nowhere."""


class TableWalk:
    """`p2m`: the address of the P2M's top table; None: the guest's tables hold machine addresses."""

    def __init__(self, memory: MachineMemory, p2m: int | None = None) -> None:
        self._memory, self._p2m = memory, p2m
        self.references: list[Reference] = []

    def machine_address(self, root: int, levels: int, va: int) -> int | None:
        """Where `va` lies, by the guest's tables below `root`. None: an entry on the way is not present."""
        try:
            return self._walk(root, levels, va)
        except _NotPresent:
            return None

    def _walk(self, root: int, levels: int, va: int) -> int:
        table, paging = root, FORMATS[levels]
        for level in range(levels, 0, -1):
            of = f"L{level} table"
            at = self._machine(table + paging.index(va, level) * paging.entry_size, of)
            table = self._read("guest", level, of, at)
        return self._machine(table | va % PAGE_SIZE, "page")

    def _machine(self, guest_physical: int, of: str) -> int:
        if self._p2m is None:
            return guest_physical
        table = self._p2m
        for level in range(PV64.levels, 0, -1):
            table = self._read("P2M", level, of, table + PV64.index(guest_physical, level) * PV64.entry_size)
        return table | guest_physical % PAGE_SIZE

    def _read(self, table: str, level: int, of: str, at: int) -> int:
        """The address that the entry at `at` holds."""
        entry = int.from_bytes(self._memory.read(at, PV64.entry_size), "little")
        self.references.append(Reference(table, level, of, at, entry))
        if not entry & PAGE_PRESENT:
            raise _NotPresent
        return entry & PTE_MFN_MASK
