"""A guest that tries to break out, and prints which error each attempt got.

Every attempt must be refused: the machine's isolation rests on these checks of the hypervisor. An attempt
that succeeds ends the guest with a crash. Rules: docs, invariants F4, F11, P3, P4, P7, G2, X1, V1.
"""

from collections.abc import Callable
from typing import Final

from domains.kernel.grants import GrantError
from domains.kernel.guest import Guest
from domains.kernel.kernel import PageFault
from domains.kernel.page_tables import READ_ONLY, READ_WRITE, TABLE_FLAGS
from hypervisor.machine.paging import PAGE_PSE, PTE_MFN_MASK, table_index
from hypervisor.public.arch_x86.xen_x86_64 import MACH2PHYS_VIRT_START
from hypervisor.public.domctl import XEN_DOMCTL_INTERFACE_VERSION, XEN_DOMCTL_pausedomain, xen_domctl
from hypervisor.public.errno import XenError
from hypervisor.public.types import PAGE_SHIFT, DomId, GrantRef, MAddr, Mfn
from hypervisor.public.xen import DOMID_SELF, MMUEXT_PIN_L1_TABLE, mmuext_op, mmuext_op_arg1

DOM0: Final = DomId(0)
XEN_FRAME: Final = Mfn(3)
"""One of Xen's own frames."""
XEN_SLOT: Final = 256
"""An L4 slot that is the hypervisor's."""


class Hostile(Guest):
    """The guest: one method an attempt."""

    def main(self) -> None:
        """Tries everything; the domain crashes if anything was allowed."""
        attempts: list[tuple[str, Callable[[], object]]] = [
            ("map my L4 writable", self.map_page_table_writable),
            ("map a frame of Dom0", self.map_foreign_frame),
            ("map a frame that is not mine", self.map_unowned_frame),
            ("map a frame of Xen", self.map_xen_frame),
            ("map a superpage", self.map_superpage),
            ("point an L4 slot of Xen's at my own table", self.replace_xen_slot),
            ("use a page that I can write as a page table", self.pin_writable_page),
            ("write the machine-to-physical table", self.write_m2p),
            ("use a grant that nobody gave me", self.forge_grant),
            ("pause Dom0", self.pause_dom0),
        ]
        broken = [name for name, attempt in attempts if not self.refused(name, attempt)]
        if broken:
            raise SystemError(f"not refused: {', '.join(broken)}")
        print(f"all {len(attempts)} attempts were refused")

    def refused(self, name: str, attempt: Callable[[], object]) -> bool:
        """Whether the hypervisor, or the CPU, said no."""
        try:
            attempt()
        except GrantError as error:
            print(f"{name}: {error.status.name}")
        except XenError as error:
            print(f"{name}: -{error.errno.name}")
        except PageFault as fault:
            print(f"{name}: {fault}")
        else:
            print(f"{name}: SUCCEEDED")
            return False
        return True

    def map_page_table_writable(self) -> None:
        """F4: a frame is never at once a page table and writable."""
        memory = self.kernel.memory
        va = memory.machine_to_virt(memory.tables.l4)
        self.kernel.hypercalls.hypercall_update_va_mapping(va, memory.tables.l4 << PAGE_SHIFT | READ_WRITE)

    def map_foreign_frame(self) -> None:
        """U2: to name another domain as the frames' owner takes privilege over it."""
        self.kernel.memory.map_frames(DOM0, [Mfn(self.kernel.memory.alloc_page().mfn ^ 1)])

    def map_unowned_frame(self) -> None:
        """F11: a frame that is not this domain's, claimed to be."""
        self.kernel.memory.map_frames(DOMID_SELF, [Mfn(self.kernel.memory.alloc_page().mfn ^ 1 << 20)])

    def map_xen_frame(self) -> None:
        """P3: the frame's owner must be the one who is named."""
        self.kernel.memory.map_frames(DOMID_SELF, [XEN_FRAME])

    def map_superpage(self) -> None:
        """P1: a PSE entry would map 2 MiB of other domains' memory past all checks (XSA-148)."""
        memory = self.kernel.memory
        table, va = memory.tables.l4, memory.machine_to_virt(memory.tables.l4)
        for level in (4, 3):
            entry = memory.tables.entry(table, table_index(va, level))
            table = Mfn((entry & PTE_MFN_MASK) >> PAGE_SHIFT)
        slot = MAddr((table << PAGE_SHIFT) + 511 * 8)
        memory.tables.update([(slot, memory.alloc_page().mfn << PAGE_SHIFT | TABLE_FLAGS | PAGE_PSE)])

    def replace_xen_slot(self) -> None:
        """P7: slots 256 to 271 of every L4 belong to the hypervisor."""
        tables = self.kernel.memory.tables
        tables.update(
            [(MAddr((tables.l4 << PAGE_SHIFT) + XEN_SLOT * 8), tables.l4 << PAGE_SHIFT | READ_ONLY)]
        )

    def pin_writable_page(self) -> None:
        """F5: a frame with a writable mapping cannot become a page table."""
        page = self.kernel.memory.alloc_page()
        op = mmuext_op(cmd=MMUEXT_PIN_L1_TABLE, arg1=mmuext_op_arg1(mfn=page.mfn))
        self.kernel.hypercalls.hypercall_mmuext_op([op])

    def write_m2p(self) -> None:
        """F12: everybody may read the table, and nobody but Xen write it."""
        self.kernel.cpu.store(MACH2PHYS_VIRT_START, bytes(8))

    def forge_grant(self) -> None:
        """G2: an entry of the granter's table must name this domain."""
        mapping = self.kernel.grants.map(DOM0, [GrantRef(8)])
        self.kernel.grants.unmap(mapping)

    def pause_dom0(self) -> None:
        """V1: domctl is for the control domain."""
        op = xen_domctl(
            cmd=XEN_DOMCTL_pausedomain, interface_version=XEN_DOMCTL_INTERFACE_VERSION, domain=DOM0
        )
        self.kernel.hypercalls.hypercall_domctl(op)
