"""What is particular to 32-bit x86: flat selectors, the hypervisor's address range, page directories above 4 GiB.

    0x00000000  the guest's
    0xF5800000  HYPERVISOR_VIRT_START = MACH2PHYS_VIRT_START
                machine-to-physical table, read-only to guests: one u32 per machine frame
    0xFFFFFFFF

The structures of a 32-bit guest are in public/compat.py. Source: Xen public/arch-x86/xen-x86_32.h.
"""

from typing import Final

from hypervisor.public.types import VAddr

FLAT_RING1_CS: Final = 0xE019
FLAT_RING1_DS: Final = 0xE021
FLAT_RING1_SS: Final = 0xE021
FLAT_RING3_CS: Final = 0xE02B
FLAT_RING3_DS: Final = 0xE033
FLAT_RING3_SS: Final = 0xE033
FLAT_KERNEL_CS: Final = FLAT_RING1_CS
FLAT_KERNEL_DS: Final = FLAT_RING1_DS
FLAT_KERNEL_SS: Final = FLAT_RING1_SS
FLAT_USER_CS: Final = FLAT_RING3_CS
FLAT_USER_DS: Final = FLAT_RING3_DS
FLAT_USER_SS: Final = FLAT_RING3_SS

HYPERVISOR_VIRT_START: Final = VAddr(0xF580_0000)
MACH2PHYS_VIRT_START: Final = VAddr(0xF580_0000)
MACH2PHYS_VIRT_END: Final = VAddr(0xF680_0000)
"""Of the smallest table, which old guests take for its size; XENMEM_machphys_mapping tells the real one."""

_U32: Final = (1 << 32) - 1


def xen_pfn_to_cr3(pfn: int) -> int:
    """A page directory's frame as a 32-bit CR3 holds it: the upper bits of a number above 4 GiB go to the bottom."""
    return (pfn << 12 | pfn >> 20) & _U32


def xen_cr3_to_pfn(cr3: int) -> int:
    """The frame that a 32-bit CR3 names."""
    return (cr3 >> 12 | cr3 << 20) & _U32
