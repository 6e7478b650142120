"""Which page table a vCPU runs on: the kernel's and, beside it, the user's (X3, X4). A 32-bit guest has one for both, an L3,
which Xen's own L4 shows the CPU.

The new table is held before the old one is let go; what of the old one cannot be dropped at once is left on the
vCPU's old_table. Source: Xen arch/x86/mm.c, new_guest_cr3.
"""

from hypervisor.mm import xen_slots
from hypervisor.mm.budget import Budget, Portion, Restart
from hypervisor.mm.descriptors import Descriptors
from hypervisor.mm.domain_memory import VcpuMemory
from hypervisor.mm.page_types import PageTypes
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.types import Mfn


class BasePointers:
    """CR3 of vCPUs."""

    def __init__(self, types: PageTypes, descriptors: Descriptors) -> None:
        self.types = types
        self.descriptors = descriptors

    def new_baseptr(self, v: VcpuMemory, mfn: int, portion: Portion) -> None:
        """Run on another top table (X3). XenError: nothing changed. Restart: ask again; the same value is a no-op then."""
        self.run_on(v, mfn, portion)
        v.cpu.load_cr3(Mfn(mfn) if v.compat_l4 is None else v.compat_l4)

    def run_on(self, v: VcpuMemory, mfn: int, portion: Portion) -> None:
        """The same for a CPU that has loaded the table already."""
        if v.cr3 != mfn:
            self.types.get_page_and_type(mfn, v.domain.domid, v.domain.rules.top, portion)
            self.descriptors.drop_ldt_pages(v)
            if v.compat_l4 is not None:
                xen_slots.show_l3(self.types.contents, v.compat_l4, mfn)
            elif not v.domain.m2p_strict:
                xen_slots.show_m2p(self.types.tables, mfn, shown=True)
            old, v.cr3 = v.cr3, Mfn(mfn)
            self._drop(old, portion)
        v.walks.clear()

    def new_user_baseptr(self, v: VcpuMemory, mfn: int, portion: Portion) -> None:
        """The L4 for user mode; 0: none (X4). XenError, Restart as in new_baseptr."""
        new = Mfn(mfn) if mfn else None
        if v.user_cr3 == new:
            return
        if new is not None:
            if v.compat_l4 is not None:
                raise XenError(Errno.EINVAL, "X4: a 32-bit guest has one page table for both its halves")
            self.types.get_page_and_type(new, v.domain.domid, v.domain.rules.top, portion)
            if v.domain.m2p_strict:
                xen_slots.show_m2p(self.types.tables, new, shown=False)
        old, v.user_cr3 = v.user_cr3, new
        v.cpu.load_user_cr3(new)
        self._drop(old, portion)

    def set_base_pointers(self, v: VcpuMemory, l4: int, user_l4: int, budget: Budget) -> None:
        """The first CR3s of a vCPU that does not run yet; 0: no user table (D6). Restart: ask again.

        XenError: neither is its own. What had been taken goes with the vCPU's next operation, or its end.
        """
        portion = Portion(v, budget)
        self.types.finish_old_table(portion)
        self.new_baseptr(v, l4, portion)
        try:
            self.new_user_baseptr(v, user_l4, portion)
        except XenError:
            if v.old_table is None and v.cr3 is not None:
                self.types.park(v, v.cr3, partial=False)
                v.cr3 = None
            raise

    def drop_both(self, v: VcpuMemory, portion: Portion) -> None:
        """The vCPU will not run again (K2). Restart: not yet done."""
        self.types.finish_old_table(portion)
        old, v.cr3 = v.cr3, None
        if v.compat_l4 is not None:
            xen_slots.show_l3(self.types.contents, v.compat_l4, None)
        self._drop(old, portion)
        self.types.finish_old_table(portion)
        old, v.user_cr3 = v.user_cr3, None
        self._drop(old, portion)
        self.types.finish_old_table(portion)

    def _drop(self, mfn: Mfn | None, portion: Portion) -> None:
        """Drop the references of a former base; what is left of it parks, and Restart is raised."""
        if mfn is None:
            return
        try:
            self.types.put_page_and_type(mfn, portion)
        except Restart:
            self.types.park(portion.vcpu, mfn, partial=True)
            raise
