"""Where a vCPU's descriptor tables lie in its linear address space: a contract between the core, which fills these pages
with frames of the guest, and the process that runs the vCPU, whose GDTR and LDTR point at them.

    PERDOMAIN_VIRT_START, L4 slot 260
        + 128 KiB * vCPU   ┌────────────────────┬────────────┬─────────────────────────┐
                           │ 14 pages of GDT:   │ 2 pages:   │ 16 pages of LDT,        │
                           │ the guest's frames │ Xen's own  │ filled at their first use│
                           └────────────────────┴────────────┴─────────────────────────┘
                           page 0               14           16                       32

Source: Xen arch/x86/include/asm/config.h.
"""

from typing import Final

from hypervisor.public.arch_x86.xen import FIRST_RESERVED_GDT_PAGE
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE

PERDOMAIN_VIRT_START: Final = 0xFFFF_8200_0000_0000
DESCRIPTORS_PER_PAGE: Final = PAGE_SIZE // 8

NR_GDT_FRAMES: Final = FIRST_RESERVED_GDT_PAGE
"""Frames of GDT that are the guest's; the entries behind them are Xen's."""
NR_XEN_GDT_FRAMES: Final = 2
LDT_FIRST_PAGE: Final = 16
NR_LDT_FRAMES: Final = 16
MAX_LDT_ENTRIES: Final = NR_LDT_FRAMES * DESCRIPTORS_PER_PAGE
GDT_LDT_VCPU_PAGES: Final = LDT_FIRST_PAGE + NR_LDT_FRAMES
"""Pages of the window that belong to one vCPU."""
VCPU_WINDOW: Final = GDT_LDT_VCPU_PAGES << PAGE_SHIFT
"""The same in bytes."""
LDT_OFFSET: Final = LDT_FIRST_PAGE << PAGE_SHIFT
"""From the start of a vCPU's part to its LDT, in bytes."""


COMPAT_KERNEL_RPL: Final = 1
"""The ring of a 32-bit guest's kernel."""


def guest_selector(selector: int, rpl: int) -> int:
    """A selector as a guest may load it whose kernel is in ring `rpl`: never with more privilege (D4)."""
    return selector if selector & 3 >= rpl else selector & ~3 | rpl


def gdt_virt_start(vcpu_id: int) -> int:
    """Linear address of a vCPU's GDT."""
    return PERDOMAIN_VIRT_START + vcpu_id * VCPU_WINDOW


def ldt_virt_start(vcpu_id: int) -> int:
    """Linear address where a vCPU's LDT is shown."""
    return gdt_virt_start(vcpu_id) + LDT_OFFSET
