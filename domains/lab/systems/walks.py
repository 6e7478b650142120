"""The way of a linear address through the tables in force, as lines for a trace."""

from __future__ import annotations

from typing import Final

from domains.cpu.x86.hvm.paging import HvmPaging
from domains.cpu.x86.hvm.shadow_paging import ShadowPaging
from domains.cpu.x86.paging import NotMapped, Paging
from domains.lab.trace import Entry
from hypervisor.machine.paging import (
    FORMATS,
    PAE,
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_PRESENT,
    PAGE_PSE,
    PAGE_RW,
    PAGE_USER,
    PTE_MFN_MASK,
    PagingFormat,
)
from hypervisor.public.types import PAGE_SHIFT

BITS: Final = (
    (PAGE_RW, "RW"),
    (PAGE_USER, "US"),
    (PAGE_ACCESSED, "A"),
    (PAGE_DIRTY, "D"),
    (PAGE_PSE, "PSE"),
)
"""Of an entry that is present, by the names of the processor's manual."""


def in_words(entry: int) -> str:
    """An entry of a page table: the address that it holds, and its bits."""
    if not entry & PAGE_PRESENT:
        return f"{entry:#x} not present" if entry else "0"
    return " ".join([hex(entry & PTE_MFN_MASK), "P", *(name for bit, name in BITS if entry & bit)])


def guest_entries(paging: Paging, va: int, table: PagingFormat, whose: str) -> list[Entry]:
    """The guest's own tables, from its top one down to the first entry that is not present."""
    return [
        Entry(f"{whose} L{level}[{table.index(va, level)}]", in_words(entry))
        for level, entry in paging.levels(va)
        if level <= table.levels
    ]


def hvm_entries(paging: HvmPaging, va: int) -> list[Entry]:
    """A kernel's that knows of no hypervisor, and what is below them: nothing, shadows, or the P2M."""
    count = paging.level_count
    if not count:
        return []
    found = guest_entries(paging, va, FORMATS[count], "guest")
    if isinstance(paging, ShadowPaging):
        return [*found, Entry(f"shadow L1[{PAE.index(va, 1)}]", in_words(paging.shadow(va)))]
    return found


def p2m_entry(paging: HvmPaging, va: int) -> list[Entry]:
    """Where the machine has the page that the guest's tables give this address, if they give one."""
    steps = paging.walk(va, paging.level_count)
    if not steps or not steps[-1].entry & PAGE_PRESENT:
        return []
    gpa = paging.leads_to(steps[-1], va, paging.level_count)
    try:
        machine = paging.machine(gpa)
    except NotMapped:
        return []
    return [Entry(f"P2M[{gpa >> PAGE_SHIFT:#x}]", hex(machine >> PAGE_SHIFT << PAGE_SHIFT))]
