"""What the engine asks of a way to give the guest its address space: the seam between Xen's entry code and paging.

    direct    the CPU walks the guest's own tables, which hold machine addresses; Xen validates their entries       direct_paging
    nested    the CPU walks the guest's tables and Xen's below them                                                 nested_paging
    shadow    the CPU walks tables that Xen derives from the guest's                                     shadow_paging
    native    the guest's tables are nobody's business: its own machine

Xen's entry code never loads CR3, drops a translation or computes an address of the emulated machine but through this.
"""

from collections import Counter
from enum import Enum
from typing import Protocol

from hypervisor.machine.memory import MachineMemory


class GuestFault(Exception):
    """Guest memory could not be accessed on the guest's behalf: `va` and the page-fault error code, without its U bit."""

    def __init__(self, va: int, error_code: int) -> None:
        super().__init__(f"page fault at {va:#x}, error code {error_code:#x}")
        self.va = va
        self.error_code = error_code


class NotMapped(Exception):
    """Below the guest's own tables there is no frame for such an access: nothing of the guest's, or a device."""

    def __init__(self, gpa: int) -> None:
        super().__init__(f"guest-physical {gpa:#x} is not mapped")
        self.gpa = gpa


class PageFault(Enum):
    """What becomes of a page fault of the guest's."""

    handled = "the tables allow the access now: it is tried again"
    forward = "it is the guest's own"
    emulate = "a store to a page table of the guest's, which Xen carries out"


class Paging(Protocol):
    """One vCPU's address space. Addresses are linear ones; accesses are made with the rights of guest code."""

    memory: MachineMemory
    counters: Counter[str]
    """How often each thing was done: activations, flushes, single pages, faults by outcome."""

    @property
    def root(self) -> int:
        """The frame of the guest's page table in force."""

    def activate(self, root: int, *, keep: bool = False) -> None:
        """Put the page table in frame `root` in force. `keep` when every present translation stays valid."""

    def fault(self, va: int, error_code: int, *, from_kernel: bool, writable_tables: bool) -> PageFault:
        """Decide on a page fault at `va`. `writable_tables`: the guest asked for its stores to page tables to be emulated."""

    def invalidate(self, va: int) -> None:
        """Forget the translation of one page."""

    def invalidate_all(self) -> None:
        """Forget every translation."""

    def invalidate_code(self, mfn: int, nr_frames: int = 1) -> None:
        """Forget what was translated from the code in these machine frames."""

    def translate(self, va: int, *, write: bool = False, fetch: bool = False) -> int:
        """The machine address of `va`. Raises GuestFault."""

    def physical(self, maddr: int) -> int:
        """Where machine address `maddr` lies for the emulated CPU."""

    def read(self, va: int, size: int, *, fetch: bool = False) -> bytes:
        """Copy from the guest. Raises GuestFault at the first byte that cannot be read."""

    def write(self, va: int, data: bytes) -> None:
        """Copy to the guest. Raises GuestFault before anything is written on the page that faults."""

    def levels(self, va: int) -> list[tuple[int, int]]:
        """The walk of `va` for a crash report: (level, entry), from the top down to the last one that is present."""
