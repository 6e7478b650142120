"""What every way of paging does alike here: machine memory is the emulated CPU's physical memory, from address 0 on.

Guest memory is read and written on Xen's behalf page by page, where `translate` of the way at hand says that each lies.
"""

from collections import Counter
from typing import Final

from domains.cpu.x86.emulator.cpu_state import CpuState
from domains.cpu.x86.emulator.unicorn_library import UnicornLibrary
from domains.cpu.x86.registers import U64
from hypervisor.machine.memory import MachineMemory
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE

PAGE_OFFSET: Final = PAGE_SIZE - 1


class MachinePaging:
    """A `Paging`, but for the guest's tables."""

    def __init__(self, memory: MachineMemory, cpu: CpuState, library: UnicornLibrary) -> None:
        self.memory = memory
        self.counters: Counter[str] = Counter()
        self._octets = memory.octets
        self._cpu = cpu
        self._library = library

    def translate(self, va: int, *, write: bool = False, fetch: bool = False) -> int:
        """The machine address of `va`. Raises GuestFault."""
        raise NotImplementedError

    def invalidate(self, va: int) -> None:
        """Forget the translation of one page."""
        self.counters["single page"] += 1
        self._library.tlb_flush_page(va)

    def invalidate_all(self) -> None:
        """Forget every translation."""
        self.counters["flushed"] += 1
        self._library.tlb_flush()

    def invalidate_code(self, mfn: int, nr_frames: int = 1) -> None:
        """The frames were written from outside: what was translated from them goes."""
        self._library.invalidate_code(self.physical(mfn << PAGE_SHIFT), nr_frames * PAGE_SIZE)

    def physical(self, maddr: int) -> int:
        """The same: all machine memory is mapped for the emulated CPU, from address 0."""
        return maddr

    def read(self, va: int, size: int, *, fetch: bool = False) -> bytes:
        """Copy from the guest. Raises at the first byte that cannot be read what `translate` raises."""
        at = self.translate(va, fetch=fetch)
        first = PAGE_SIZE - (va & PAGE_OFFSET)
        if size <= first:
            return self._octets[at : at + size].tobytes()
        return self._octets[at : at + first].tobytes() + self.read(
            va + first & U64, size - first, fetch=fetch
        )

    def write(self, va: int, data: bytes) -> None:
        """Copy to the guest. Raises what `translate` raises before anything is written on the page that faults."""
        at = self.translate(va, write=True)
        first = PAGE_SIZE - (va & PAGE_OFFSET)
        if len(data) <= first:
            self._octets[at : at + len(data)] = data
        else:
            self._octets[at : at + first] = data[:first]
            self.write(va + first & U64, data[first:])
