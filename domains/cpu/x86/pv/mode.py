"""What Xen's entry code asks of a guest's ABI: the seam between what happens to a guest and how its registers show it.

A guest has two halves, its kernel and its user space. How they are told apart, what a hypercall's registers are, what an
page table is called in CR3: each ABI (64-bit PV, 32-bit PV) answers in a class of its own. How an exception's frame is made is in
a function of each (bounce, pv32_bounce).
"""

from typing import Protocol


class Mode(Protocol):
    """One vCPU's half that runs, and its page tables. Tables are named by their top frame; user table 0: none."""

    efer: int
    """What the guest reads of EFER."""
    hidden_msrs: frozenset[int]
    """Registers that this guest does not have."""
    inactive_gs: int
    """The GS base of the half that does not run, where SWAPGS would find it."""

    @property
    def in_kernel(self) -> bool:
        """The guest's kernel runs now, not its user space."""

    def load_kernel_table(self, l4: int) -> None:
        """A new page table for the kernel (LOAD_CR3)."""

    def load_user_table(self, l4: int) -> None:
        """The page table for the next return to user space (LOAD_USER_CR3)."""

    def cr3(self) -> int:
        """What the guest's kernel reads of CR3."""

    def table_in(self, cr3: int) -> int:
        """The frame of the page table that the guest's kernel means by this value for CR3."""

    def hypercall(self) -> tuple[int, tuple[int, ...]]:
        """The number and the arguments in the registers, for a hypercall that the guest makes now."""

    def set_result(self, value: int) -> None:
        """A hypercall's result, where the guest looks for it."""
