"""Where Xen's own things lie: in the machine's frame numbers and in every PV guest's address space.

Machine frames
    0                 never valid: a zeroed entry names nothing
    1                 M2P: L3 table          } read-only to everybody, A and D preset
    2                 M2P: L2 table          }
    3, 4              Xen's two GDT pages (FLAT_* selectors)
    5                 zeros: what a GDT shows where the guest gave no frame
    6, 7              the same two GDT pages for 32-bit guests
    1024 … 33791      the M2P array, one u64 per frame, in 2 MiB pages
    33792 … 50175     the M2P array of 32-bit guests, one u32 per frame
    50176 …           extents of domains, 1024 frames each

Virtual addresses (x86-64 PV, Xen arch/x86/include/asm/config.h)
    0xffff800000000000  L4 slot 256: M2P array, guest-readable
    0xffff820000000000  L4 slot 260: per-domain window (machine/descriptor_window.py)
    0xffff880000000000  L4 slot 272 and up: the guest's

Virtual addresses of a 32-bit guest (public/arch-x86/xen-x86_32.h)
    0xf5800000          slot 428 of the L2 in L3 slot 3, and up: M2P array of 32-bit entries, readable by the guest's kernel
"""

from typing import Final

from hypervisor.public.arch_x86 import xen_x86_32
from hypervisor.public.arch_x86.xen_x86_64 import (
    HYPERVISOR_VIRT_END,
    HYPERVISOR_VIRT_START,
    MACH2PHYS_VIRT_START,
)
from hypervisor.public.types import PAGE_SIZE

ENTRIES: Final = 512
"""Entries in a page table of any level."""

NR_FRAMES: Final = 1 << 24
"""Machine address space: 64 GiB of frame numbers."""
EXTENT_FRAMES: Final = 1024
"""Frames in one extent of a domain's memfd (4 MiB)."""

M2P_L3_MFN: Final = 1
M2P_L2_MFN: Final = 2
XEN_GDT_MFN: Final = 3
ZERO_MFN: Final = 5
COMPAT_GDT_MFN: Final = 6
M2P_MFN: Final = EXTENT_FRAMES
M2P_FRAMES: Final = NR_FRAMES * 8 // PAGE_SIZE
COMPAT_M2P_MFN: Final = M2P_MFN + M2P_FRAMES
COMPAT_M2P_FRAMES: Final = NR_FRAMES * 4 // PAGE_SIZE
XEN_FRAMES: Final = COMPAT_M2P_MFN + COMPAT_M2P_FRAMES
"""Frames below this number are Xen's own; they lie in one memfd that domains see read-only."""
INVALID_M2P_ENTRY: Final = (1 << 64) - 1
COMPAT_INVALID_M2P_ENTRY: Final = (1 << 32) - 1

ROOT_PAGETABLE_FIRST_XEN_SLOT: Final = 256
ROOT_PAGETABLE_LAST_XEN_SLOT: Final = 271
RO_MPT_VIRT_START: Final = MACH2PHYS_VIRT_START
RO_MPT_SLOT: Final = 256
COMPAT_RO_MPT_VIRT_START: Final = xen_x86_32.MACH2PHYS_VIRT_START
COMPAT_L2_PAGETABLE_FIRST_XEN_SLOT: Final = COMPAT_RO_MPT_VIRT_START >> 21 & ENTRIES - 1


def addr_ok(va: int) -> bool:
    """A guest may use this linear address: canonical and outside the hypervisor's range (U7)."""
    return (va >> 47 == 0) or (HYPERVISOR_VIRT_END <= va < 1 << 64)


def compat_addr_ok(va: int) -> bool:
    """The same for a 32-bit guest, whose last addresses are the hypervisor's."""
    return va < xen_x86_32.HYPERVISOR_VIRT_START


def range_ok(va: int, size: int) -> bool:
    """All of `size` bytes at `va` are the guest's to use: no wrap, nothing of the hypervisor's (H2)."""
    last = va + max(size, 1) - 1
    return addr_ok(va) and addr_ok(last) and (va < HYPERVISOR_VIRT_START) == (last < HYPERVISOR_VIRT_START)
