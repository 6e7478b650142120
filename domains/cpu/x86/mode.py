"""Which half of the guest runs. 64-bit PV runs its kernel and its user space at CPL 3; the page table tells them apart.

Switching swaps the active and the inactive GS base, as SWAPGS does, and loads the other half's CR3 (Xen's
toggle_guest_mode). A kernel's table maps all that its user table maps, and a user page's translation is global, so entering
the kernel keeps the translations; leaving it drops them, for the kernel's pages are user pages to the CPU.
"""

from domains.cpu.x86.paging import DirectPaging
from domains.cpu.x86.registers import GS
from domains.cpu.x86.state import CpuState


class Pv64Mode:
    """`in_kernel`: the guest's kernel runs. `inactive_gs`: the GS base of the other half. L4 tables by frame; user 0: none."""

    def __init__(self, cpu: CpuState, paging: DirectPaging) -> None:
        self._cpu = cpu
        self._paging = paging
        self.in_kernel = True
        self.inactive_gs = 0
        self.kernel_l4 = 0
        self.user_l4 = 0

    def toggle(self) -> None:
        """Go from the kernel to user space or back."""
        cpu = self._cpu
        active = cpu.base(GS)
        cpu.set_base(GS, self.inactive_gs)
        self.inactive_gs = active
        self.in_kernel = not self.in_kernel
        if self.in_kernel:
            self._paging.activate(self.kernel_l4, keep=True)
        else:
            self._paging.activate(self.user_l4)

    def load_kernel_table(self, l4: int) -> None:
        """A new CR3 for the kernel (LOAD_CR3)."""
        self.kernel_l4 = l4
        if self.in_kernel:
            self._paging.activate(l4)

    def load_user_table(self, l4: int) -> None:
        """The CR3 for the next return to user space (LOAD_USER_CR3)."""
        self.user_l4 = l4
        if not self.in_kernel:
            self._paging.activate(l4)
