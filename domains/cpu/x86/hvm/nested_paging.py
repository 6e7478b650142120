"""Nested paging: the CPU walks the guest's own tables, and Xen's P2M below them, which turns guest frames into machine frames.

The core keeps the P2M and shows the CPU a copy in AMD's nested format. Faults, flushes and loads of CR3 are the guest's own
affair and never come here: the CPU's control registers are the guest's, and only what is stored to CR4 is checked.
"""

from domains.cpu.x86.emulator.cpu_state import CR
from domains.cpu.x86.hvm.paging import HvmPaging
from hypervisor.public.types import PAGE_SHIFT


class NestedPaging(HvmPaging):
    """A `Paging`."""

    def enable(self, p2m: int) -> None:
        """The P2M's top table lies in this machine frame."""
        self._p2m = p2m
        self.svm.enable_nested(p2m)

    def control(self, number: int) -> int:
        """CR0, CR2, CR3 or CR4."""
        return self._cpu.q[CR + number]

    def write_control(self, number: int, value: int) -> bool:
        """The guest's store to CR4, the only one that is looked at. False: #GP."""
        self.counters[f"CR{number} write"] += 1
        if not self.may_be_cr4(value):
            return False
        self._library.update_cr4(self._cpu.env, value)
        return True

    def load_controls(self, cr0: int, cr2: int, cr3: int, cr4: int) -> None:
        """Put the guest's control registers in force."""
        for number, value in ((0, cr0), (2, cr2), (3, cr3), (4, cr4)):
            self._cpu.q[CR + number] = value

    def activate(self, root: int, *, keep: bool = False) -> None:
        """Load the guest's CR3 on Xen's account."""
        self._cpu.q[CR + 3] = root << PAGE_SHIFT
        if not keep:
            self.invalidate_all()
