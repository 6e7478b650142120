"""A walk through an HVM guest's own page tables: what its linear address leads to, as its CPU would find it.

Where the tables begin and what form they have is what the domain's process says (mailbox, `guest_paging`); each table and the
page itself are guest frames, found in the P2M. Whatever the tables say, a walk ends at a frame of the domain or is refused.
The guest's kernel asks: the user bit is not looked at; a write needs the RW bit, as with CR0.WP.
Source: Xen arch/x86/mm/guest_walk.c; Intel SDM vol. 3A §4.3-4.5.
"""

from typing import Final

from hypervisor.machine.paging import (
    FORMATS,
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_PRESENT,
    PAGE_PSE,
    PAGE_RW,
    PTE_MFN_MASK,
)
from hypervisor.mm.contents import Contents
from hypervisor.mm.domain_memory import VcpuMemory
from hypervisor.mm.p2m import P2M
from hypervisor.public.types import U32

_LARGEST_PAGE: Final = {2: 22, 3: 21, 4: 30}
"""The highest level at which an entry may be a page: 1 GiB in long mode."""
_PAE_CR3: Final = 0xFFFF_FFE0
_CR3: Final = PTE_MFN_MASK


def hvm_walk(contents: Contents, v: VcpuMemory, va: int, *, write: bool) -> int | None:
    """The machine address of `va`, with A and D set in the guest's entries as its CPU would; None: not mapped, or not so."""
    p2m = v.domain.p2m
    if p2m is None:
        return None
    cr3, mode = v.guest_paging()
    if mode not in FORMATS:
        return _machine(p2m, va) if not mode and va <= U32 else None
    if mode != 4 and va > U32:
        return None
    return _walk(contents, p2m, va, cr3 & (_PAE_CR3 if mode == 3 else _CR3), mode, write=write)


def _walk(contents: Contents, p2m: P2M, va: int, table: int, mode: int, *, write: bool) -> int | None:
    """`table`: the top table's guest physical address."""
    paging, entries = FORMATS[mode], []
    size = paging.entry_size
    for shift, mask in zip(paging.shifts, paging.masks, strict=True):
        at = _machine(p2m, table + (va >> shift & mask) * size)
        if at is None:
            return None
        entry = int.from_bytes(contents.octets[at : at + size], "little")
        top_of_pae = mode == 3 and shift == 30
        if not entry & PAGE_PRESENT or (write and not entry & PAGE_RW and not top_of_pae):
            return None
        if not top_of_pae:
            entries.append(at)
        leaf = shift == 12 or bool(entry & PAGE_PSE and shift <= _LARGEST_PAGE[mode])
        frame = entry & (PTE_MFN_MASK if size == 8 else 0xFFFF_F000)
        if leaf:
            inside = (1 << shift) - 1
            found = _machine(p2m, frame & ~inside | va & inside)
            if found is not None:
                _mark(contents, entries, write=write)
            return found
        table = frame
    return None


def _machine(p2m: P2M, gpa: int) -> int | None:
    """The machine address of a guest physical one."""
    mfn = p2m.mfn(gpa >> 12)
    return None if mfn is None else mfn << 12 | gpa & 4095


def _mark(contents: Contents, entries: list[int], *, write: bool) -> None:
    """A in every entry used, D in the last one of a write: both lie in an entry's first byte."""
    for at in entries:
        contents.octets[at] |= PAGE_ACCESSED
    if write:
        contents.octets[entries[-1]] |= PAGE_DIRTY
