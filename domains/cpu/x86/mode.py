"""What Xen's entry code asks of a guest's ABI: the seam between what happens to a guest and how its registers and frames show it.

A guest has two halves, its kernel and its user space. How they are told apart, what a hypercall's registers are, what an
exception's frame looks like: each ABI (64-bit PV, and one day 32-bit PV) answers in a class of its own.
"""

from typing import NamedTuple, Protocol


class Interrupted(NamedTuple):
    """Where an exception came from, for its frame; `flags` as the guest is to see them."""

    rip: int
    cs: int
    flags: int
    rsp: int
    ss: int
    masked: bool
    """Upcalls were held back."""
    in_kernel: bool


class Mode(Protocol):
    """One vCPU's half that runs, and its page tables. Tables are named by their top frame; user table 0: none."""

    in_kernel: bool
    kernel_l4: int
    user_l4: int
    inactive_gs: int
    """The GS base of the half that does not run, where SWAPGS would find it."""
    stack_alignment: int
    """Bytes to which a frame's end on the guest's stack is rounded down."""

    def enter(self) -> None:
        """From user space to the kernel."""

    def leave(self) -> None:
        """From the kernel to user space."""

    def load_kernel_table(self, l4: int) -> None:
        """A new page table for the kernel (LOAD_CR3)."""

    def load_user_table(self, l4: int) -> None:
        """The page table for the next return to user space (LOAD_USER_CR3)."""

    def frame(self, at: Interrupted, error_code: int | None) -> bytes:
        """The frame that the guest's handler finds on its stack, lowest address first."""

    def start_handler(self, address: int, flags: int) -> None:
        """Go on at a handler of the guest's, in its kernel."""

    def hypercall(self) -> tuple[int, tuple[int, ...]]:
        """The number and the arguments in the registers, for a hypercall that the guest makes now."""

    def set_result(self, value: int) -> None:
        """A hypercall's result, where the guest looks for it."""
