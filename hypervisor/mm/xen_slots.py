"""What Xen puts into every guest's address space: L4 slots 256 to 271, overwritten when an L4 is promoted (P7).

    slot 256 ── M2P L3 ── M2P L2 ── 64 superpages of the M2P array        one for the machine, read-only, for users
    slot 260 ── window L3 ── L2 ── L1s: per vCPU 32 entries               one for each domain
                                   |14 guest GDT|2 Xen GDT|16 LDT|

Entries here have A and D set, so a CPU's walker never writes to these tables. Slots 257 to 259 and 261 to 271, which
on hardware map Xen itself, are empty: nothing of Xen is in the guests' memory.
"""

from typing import Final

import numpy as np

from hypervisor.machine.descriptor_window import (
    GDT_LDT_VCPU_PAGES,
    NR_GDT_FRAMES,
    NR_XEN_GDT_FRAMES,
    PERDOMAIN_VIRT_START,
)
from hypervisor.machine.paging import (
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_NX,
    PAGE_PRESENT,
    PAGE_PSE,
    PAGE_RW,
    PAGE_USER,
    pte,
    table_index,
)
from hypervisor.mm import layout
from hypervisor.mm.allocator import Allocator
from hypervisor.mm.contents import Contents
from hypervisor.mm.domain_memory import DomainMemory, Window
from hypervisor.mm.frame_table import ALLOCATED, VALIDATED, XEN, FrameTable
from hypervisor.mm.tables import Tables
from hypervisor.public.xen import DOMID_XEN

_RO: Final = PAGE_PRESENT | PAGE_ACCESSED | PAGE_DIRTY | PAGE_NX
_RW: Final = _RO | PAGE_RW
_TABLE: Final = PAGE_PRESENT | PAGE_ACCESSED | PAGE_DIRTY
VCPUS_PER_L1: Final = layout.ENTRIES // GDT_LDT_VCPU_PAGES

XEN_GDT: Final = {
    0xE008: 0x00AF9B000000FFFF,  # ring 0 code, 64-bit
    0xE010: 0x00CF93000000FFFF,  # ring 0 data
    0xE023: 0x00CFFB000000FFFF,  # ring 3 code, compatibility: FLAT_RING3_CS32
    0xE02B: 0x00CFF3000000FFFF,  # ring 3 data: FLAT_RING3_DS32, FLAT_RING3_SS64
    0xE033: 0x00AFFB000000FFFF,  # ring 3 code, 64-bit: FLAT_RING3_CS64
}
"""Selector -> descriptor, all with the accessed bit set."""


def build_machine(contents: Contents, frames: FrameTable) -> None:
    """Fill Xen's own frames, and give them to DOMID_XEN: readable, never writable, never a guest's table (F12)."""
    first, end = layout.M2P_L3_MFN, layout.XEN_FRAMES
    frames.owner_np[first:end] = DOMID_XEN
    frames.refs_np[first:end] = 1
    frames.tcount_np[first:end] = 1
    frames.flags_np[first:end] = ALLOCATED | XEN | VALIDATED
    contents.write_entry(layout.M2P_L3_MFN, 0, pte(layout.M2P_L2_MFN, _TABLE | PAGE_USER))
    for i in range(layout.M2P_FRAMES // 512):
        superpage = pte(layout.M2P_MFN + i * 512, _RO | PAGE_USER | PAGE_PSE)
        contents.write_entry(layout.M2P_L2_MFN, i, superpage)
    for selector, descriptor in XEN_GDT.items():
        slot = (selector >> 3) - NR_GDT_FRAMES * 512
        contents.write_entry(layout.XEN_GDT_MFN, slot, descriptor)


def build_window(allocator: Allocator, d: DomainMemory) -> Window:
    """An empty window. XenError(ENOMEM)."""
    l3 = allocator.alloc_xen_page(d, writable=False)
    l2 = allocator.alloc_xen_page(d, writable=False)
    allocator.contents.write_entry(l3, 0, pte(l2, _TABLE | PAGE_RW))
    return Window(l3, l2)


def add_vcpu(allocator: Allocator, d: DomainMemory, vcpu_id: int) -> None:
    """Room for one more vCPU in the window: an empty guest GDT, Xen's GDT, an empty LDT. XenError(ENOMEM)."""
    assert d.window is not None
    window, contents = d.window, allocator.contents
    if vcpu_id // VCPUS_PER_L1 >= len(window.l1s):
        l1 = allocator.alloc_xen_page(d, writable=False)
        contents.write_entry(window.l2, len(window.l1s), pte(l1, _TABLE | PAGE_RW))
        window.l1s.append(l1)
    for page in range(NR_GDT_FRAMES):
        clear_page(contents, window, vcpu_id, page)
    for i in range(NR_XEN_GDT_FRAMES):
        _write(contents, window, vcpu_id, NR_GDT_FRAMES + i, pte(layout.XEN_GDT_MFN + i, _RO))


def map_page(contents: Contents, window: Window, vcpu_id: int, page: int, mfn: int) -> None:
    """Show a guest's descriptor frame at page 0…13 (GDT) or 16…31 (LDT) of a vCPU's part of the window."""
    _write(contents, window, vcpu_id, page, pte(mfn, _RW))


def clear_page(contents: Contents, window: Window, vcpu_id: int, page: int) -> None:
    """Nothing there any more: zeros in the GDT, not present in the LDT."""
    _write(contents, window, vcpu_id, page, pte(layout.ZERO_MFN, _RO) if page < NR_GDT_FRAMES else 0)


def _write(contents: Contents, window: Window, vcpu_id: int, page: int, entry: int) -> None:
    l1 = window.l1s[vcpu_id // VCPUS_PER_L1]
    contents.write_entry(l1, vcpu_id % VCPUS_PER_L1 * GDT_LDT_VCPU_PAGES + page, entry)


_RO_MPT_ENTRY: Final = pte(layout.M2P_L3_MFN, _TABLE | PAGE_USER)


def install(tables: Tables, d: DomainMemory, l4: int) -> None:
    """Overwrite Xen's slots in the copy of an L4 of `d` that has just been validated (P7)."""
    entries = tables[l4].entries
    entries[layout.ROOT_PAGETABLE_FIRST_XEN_SLOT : layout.ROOT_PAGETABLE_LAST_XEN_SLOT + 1] = 0
    if not d.m2p_strict:
        entries[layout.RO_MPT_SLOT] = _RO_MPT_ENTRY
    if d.window is not None:
        slot = table_index(PERDOMAIN_VIRT_START, 4)
        entries[slot] = np.uint64(pte(d.window.l3, _TABLE | PAGE_RW))


def show_m2p(tables: Tables, l4: int, *, shown: bool) -> None:
    """With VMASST_TYPE_m2p_strict only kernel page tables show the M2P."""
    tables.write_entry(l4, layout.RO_MPT_SLOT, _RO_MPT_ENTRY if shown else 0)
