"""A format of page tables splits an address without gap or overlap, and both walkers go by it alone."""

import os

import pytest

from domains.cpu.page_walk import PageWalk, Translation, WalkFault
from hypervisor.machine.memory import MachineMemory, create_memfd
from hypervisor.machine.paging import (
    PAE,
    PAGE_PRESENT,
    PAGE_PSE,
    PAGE_RW,
    PAGE_USER,
    PV64,
    TWO_LEVEL,
    PagingFormat,
    pte,
)

RW = PAGE_PRESENT | PAGE_RW | PAGE_USER
FORMATS = [PV64, PAE, TWO_LEVEL]


@pytest.mark.parametrize("paging", FORMATS)
def test_every_bit_of_an_address_is_in_one_index_or_in_the_offset(paging: PagingFormat) -> None:
    bits = [(1 << paging.shifts[-1]) - 1, *(m << s for s, m in zip(paging.shifts, paging.masks, strict=True))]
    assert sum(bits) == 0xFFFF_FFFF_FFFF if paging is PV64 else sum(bits) == 0xFFFF_FFFF
    va = 0x1234_5678_9ABC & sum(bits)
    parts = [paging.index(va, level) << paging.shifts[-level] for level in range(1, paging.levels + 1)]
    assert sum(parts) | va & 4095 == va
    assert all(mask < 1 << paging.table_shift for mask in paging.masks)


@pytest.mark.parametrize("paging", FORMATS)
def test_a_cpu_walks_tables_of_each_format(paging: PagingFormat) -> None:
    memory = MachineMemory()
    fd = create_memfd("tables", 8)
    memory.map(fd, 0, 8, 0)
    os.close(fd)
    va, target, words = 0x4030_5123, 7, memory.octets.cast("I" if paging.entry_size == 4 else "Q")
    for level in range(paging.levels, 0, -1):  # frame `level` is the table of that level; 7 is the page
        slot = level << paging.table_shift | paging.index(va, level)
        words[slot] = pte(level - 1 if level > 1 else target, RW)
    walk = PageWalk(memory, paging)
    found = walk.translate(paging.levels, va, write=True)
    assert isinstance(found, Translation)
    assert found.mfn == target
    assert [level for level, _ in walk.levels(paging.levels, va)] == list(range(paging.levels, 0, -1))
    assert isinstance(walk.translate(paging.levels, va ^ 1 << 12), WalkFault)
    words[2 << paging.table_shift | paging.index(va, 2)] = pte(0, RW | PAGE_PSE)
    large = walk.translate(paging.levels, va)
    assert isinstance(large, Translation)
    assert large.mfn == (va & (1 << paging.superpage_shift) - 1) >> 12
