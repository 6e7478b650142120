"""What Xen puts into every PV guest's address space, overwritten when a table is promoted (P7): L4 slots 256 to 271.

    slot 256 ── M2P L3 ── M2P L2 ── 64 superpages of the M2P array        one for the machine, read-only, for users
    slot 260 ── window L3 ── L2 ── L1s: per vCPU 32 entries               one for each domain
                                   |14 guest GDT|2 Xen GDT|16 LDT|

A 32-bit guest has no L4. The CPU finds its L3 in slot 0 of an L4 of Xen's, one for each vCPU, which has the window in slot 260 as
any other. The M2P, in its 32-bit form, is in the slots from 428 on of the L2 that the last of the L3's four entries names; the
other 508 slots of the L3, which the CPU could see, are cleared.

Entries here have A and D set, so a CPU's walker never writes to these tables. Slots 257 to 259 and 261 to 271, which
on hardware map Xen itself, are empty: nothing of Xen is in the guests' memory.
"""

from collections.abc import Callable
from typing import Final

import numpy as np

from hypervisor.machine.descriptor_window import (
    GDT_LDT_VCPU_PAGES,
    NR_GDT_FRAMES,
    NR_XEN_GDT_FRAMES,
    PERDOMAIN_VIRT_START,
)
from hypervisor.machine.frame_types import ALLOCATED, L3, L4, PAE_XEN_L2, VALIDATED, XEN
from hypervisor.machine.paging import (
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_NX,
    PAGE_PRESENT,
    PAGE_PSE,
    PAGE_RW,
    PAGE_USER,
    TABLE_ENTRIES,
    pte,
    table_index,
)
from hypervisor.mm import layout
from hypervisor.mm.allocator import Allocator
from hypervisor.mm.contents import Contents
from hypervisor.mm.domain_memory import DomainMemory, Window
from hypervisor.mm.frame_table import FrameTable
from hypervisor.mm.pv_rules import PV32_RULES
from hypervisor.mm.tables import Tables
from hypervisor.public.errno import XenError
from hypervisor.public.types import Mfn
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


COMPAT_GDT: Final = {
    0xE008: 0x00AF9B000000FFFF,  # ring 0 code, 64-bit
    0xE010: 0x00CF93000000FFFF,  # ring 0 data
    0xE019: 0x00CFBB000000FFFF,  # ring 1 code: FLAT_RING1_CS
    0xE021: 0x00CFB3000000FFFF,  # ring 1 data: FLAT_RING1_DS
    0xE02B: 0x00CFFB000000FFFF,  # ring 3 code: FLAT_RING3_CS
    0xE033: 0x00CFF3000000FFFF,  # ring 3 data: FLAT_RING3_DS
}
"""The same for 32-bit guests: no 64-bit code that they could jump to."""


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
    for gdt, descriptors in ((layout.XEN_GDT_MFN, XEN_GDT), (layout.COMPAT_GDT_MFN, COMPAT_GDT)):
        for selector, descriptor in descriptors.items():
            contents.write_entry(gdt, (selector >> 3) - NR_GDT_FRAMES * TABLE_ENTRIES, descriptor)


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
    _show_xen_gdt(contents, window, vcpu_id, layout.XEN_GDT_MFN)


def _show_xen_gdt(contents: Contents, window: Window, vcpu_id: int, first: int) -> None:
    for i in range(NR_XEN_GDT_FRAMES):
        _write(contents, window, vcpu_id, NR_GDT_FRAMES + i, pte(first + i, _RO))


def switch_to_compat(allocator: Allocator, d: DomainMemory) -> None:
    """From now on `d`, which has no memory yet, is a 32-bit guest. XenError(ENOMEM): it is as before."""
    assert d.window is not None
    contents = allocator.contents
    made: list[Mfn] = []
    try:
        for _ in d.vcpus:
            made.append(allocator.alloc_xen_page(d, writable=False))
    except XenError:
        for mfn in made:
            allocator.free_xen_page(mfn)
        raise
    for v, l4 in zip(d.vcpus, made, strict=True):
        v.compat_l4 = l4
        contents.write_entry(l4, table_index(PERDOMAIN_VIRT_START, 4), pte(d.window.l3, _TABLE | PAGE_RW))
        _show_xen_gdt(contents, d.window, v.vcpu_id, layout.COMPAT_GDT_MFN)
    d.rules = PV32_RULES


def show_l3(contents: Contents, compat_l4: int, l3: int | None) -> None:
    """A 32-bit guest's vCPU runs on this L3; None: on none."""
    contents.write_entry(compat_l4, 0, 0 if l3 is None else pte(l3, _TABLE | PAGE_RW | PAGE_USER))


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


def install(tables: Tables, d: DomainMemory, mfn: int, pgt: int) -> None:
    """Overwrite Xen's slots in the copy of a table of `d` that has just been validated (P7)."""
    INSTALL[pgt](tables, d, mfn)


def _install_in_l4(tables: Tables, d: DomainMemory, l4: int) -> None:
    entries = tables[l4].entries
    entries[layout.ROOT_PAGETABLE_FIRST_XEN_SLOT : layout.ROOT_PAGETABLE_LAST_XEN_SLOT + 1] = 0
    if not d.m2p_strict:
        entries[layout.RO_MPT_SLOT] = _RO_MPT_ENTRY
    if d.window is not None:
        slot = table_index(PERDOMAIN_VIRT_START, 4)
        entries[slot] = np.uint64(pte(d.window.l3, _TABLE | PAGE_RW))


def _install_in_pae_l3(tables: Tables, _d: DomainMemory, l3: int) -> None:
    """The CPU, in long mode, takes all of it for a table."""
    slots = PV32_RULES.xen_slots[L3]
    tables[l3].entries[slots.start : slots.stop] = 0


def _install_in_pae_l2(tables: Tables, _d: DomainMemory, l2: int) -> None:
    slots = PV32_RULES.xen_slots[PAE_XEN_L2]
    entries = tables[l2].entries
    entries[slots.start : slots.stop] = 0
    for i in range(layout.COMPAT_M2P_FRAMES // TABLE_ENTRIES):
        superpage = pte(layout.COMPAT_M2P_MFN + i * TABLE_ENTRIES, _RO | PAGE_PSE)
        entries[slots.start + i] = np.uint64(superpage)


INSTALL: Final[dict[int, Callable[[Tables, DomainMemory, int], None]]] = {
    L4: _install_in_l4,
    L3: _install_in_pae_l3,
    PAE_XEN_L2: _install_in_pae_l2,
}
"""By the type of a table that has slots of Xen's."""


def show_m2p(tables: Tables, l4: int, *, shown: bool) -> None:
    """With VMASST_TYPE_m2p_strict only kernel page tables show the M2P."""
    tables.write_entry(l4, layout.RO_MPT_SLOT, _RO_MPT_ENTRY if shown else 0)
