"""Traces: every store to certain frames of the guest's is an exit, so that what was made of their contents is never stale.

The descriptor tables that the CPU is shown are traced; so are, if asked for, the guest's page tables, as VMware's ESX does, where
hvm/shadow_paging alone compares them when the guest flushes.

    store ─► page fault ─┬─► MOV: done here, and what it changed is looked at
                         └─► else the page is opened for one instruction, done with the CPU's TF ─► #DB: closed, and looked at

A frame of which nothing is made any more is found by the next store, and let go.
"""

from collections.abc import Callable

from domains.cpu.x86.emulator.unicorn_library import UnicornLibrary
from domains.cpu.x86.hvm.pmap import Pmap
from domains.cpu.x86.hvm.shadow_space import ShadowSpace
from hypervisor.machine.paging import PAGE_RW, PTE_MFN_MASK
from hypervisor.public.types import PAGE_SHIFT


class Tracer:
    """One vCPU's. Frames are told by their machine addresses."""

    def __init__(self, pmap: Pmap, space: ShadowSpace, library: UnicornLibrary) -> None:
        self._pmap, self._space, self._library = pmap, space, library
        self._frames: set[int] = set()
        self._open: list[tuple[int, int]] = []
        self.descriptors: set[int] = set()
        """Of the traced frames, those with descriptors that the CPU is shown."""
        self.descriptors_changed: Callable[[], None]

    def trace(self, address: int) -> None:
        """Stores to this frame are exits."""
        if address not in self._frames:
            self._frames.add(address)
            self._pmap.permit(address, write=False)
            self._space.protect(address)
            self._library.tlb_flush()

    def holds(self, gpa: int) -> int | None:
        """The frame of this guest-physical address, if it is traced and something is still made of it."""
        address = self._pmap.entry(gpa >> PAGE_SHIFT) & PTE_MFN_MASK
        if address not in self._frames:
            return None
        if address in self.descriptors or self._space.shadows_of(address):
            return address
        self._frames.discard(address)
        self._pmap.permit(address, write=True)
        return None

    def traced(self, gpa: int) -> bool:
        """Whether stores there are exits, for whatever reason was once."""
        return self._pmap.entry(gpa >> PAGE_SHIFT) & PTE_MFN_MASK in self._frames

    def protect_again(self) -> None:
        """The PMAP was read anew."""
        for address in self._frames:
            self._pmap.permit(address, write=False)

    def opened(self, word: int, va: int) -> None:
        """The shadow entry `word` of the page of `va` may be used for stores until `close`."""
        self._space.pool.words[word] |= PAGE_RW
        self._open.append((word, va))

    def close(self) -> None:
        """The store is made: look at what it changed."""
        opened, self._open = self._open, []
        words = self._space.pool.words
        for word, va in opened:
            address = words[word] & PTE_MFN_MASK
            words[word] &= ~PAGE_RW
            self._library.tlb_flush_page(va)
            self.stored(address)

    def stored(self, address: int) -> None:
        """Something was stored to this frame."""
        if address in self.descriptors:
            self.descriptors_changed()
        self._space.sync_table(address)
