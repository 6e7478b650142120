"""A guest that pages on demand, as Barham et al. 2003, §3.3 describes it.

Part of its address space is reserved and not mapped. The first touch of a page is a page fault: Xen hands it
to the handler that the guest registered, which takes a free frame, asks Xen to map it (update_va_mapping),
and returns; the access is tried again and finds memory. Reads and writes then cost nothing more.
"""

from typing import Final

from domains.kernel.guest import Guest
from domains.kernel.kernel import PageFault
from domains.kernel.memory import Page
from domains.kernel.page_tables import READ_WRITE
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE, VAddr
from hypervisor.public.xen import UVMF_INVLPG

PAGES: Final = 600
"""Pages of the region: more than one L1 maps."""
STEP: Final = 7
"""Every seventh page is touched."""


class DemandPaging(Guest):
    """The guest: it reserves PAGES pages and touches some of them."""

    def main(self) -> None:
        """Touches, reads back, and at last faults where nothing is reserved."""
        kernel = self.kernel
        self.start = kernel.memory.area.alloc(PAGES)
        self.present: dict[int, Page] = {}
        kernel.on_page_fault(self.page_fault)
        touched = list(range(0, PAGES, STEP))
        for page in touched:
            kernel.cpu.store(self.start + page * PAGE_SIZE, page.to_bytes(8, "little"))
        for page in touched:
            value = int.from_bytes(kernel.cpu.load(self.start + page * PAGE_SIZE, 8), "little")
            if value != page:
                raise SystemError(f"page {page} holds {value}")
        print(f"{len(touched)} of {PAGES} pages touched, {len(self.present)} page faults, all contents right")
        self.fault_outside()

    def page_fault(self, fault: PageFault) -> None:
        """Make the page that was missing; what lies outside the region is a fault of the program."""
        page = (fault.va - self.start) >> PAGE_SHIFT
        if not 0 <= page < PAGES:
            raise fault
        memory = self.kernel.memory
        frame = memory.alloc_page()
        va = VAddr(fault.va & -PAGE_SIZE)
        memory.tables.ensure_l1(va)
        self.kernel.hypercalls.hypercall_update_va_mapping(
            va, frame.mfn << PAGE_SHIFT | READ_WRITE, UVMF_INVLPG
        )
        self.present[page] = frame

    def fault_outside(self) -> None:
        """The handler refuses an address that is nobody's; the program that touched it sees the fault."""
        try:
            self.kernel.cpu.load(0x1000, 8)
        except PageFault as fault:
            print(f"{fault}: refused, as it should be")
