"""Traces: every store to certain frames of the guest's is an exit, so that what was made of their contents is never stale.

The descriptor tables that the CPU is shown are traced; so are, if asked for, the guest's page tables, as VMware's ESX does, where
hvm/shadow_paging alone compares them when the guest flushes.

    store ─► page fault ─┬─► MOV: done here, and what it changed is looked at
                         ├─► REP: a page is filled, which is no table any more: what was made of it is forgotten
                         └─► else the page is opened for one instruction, done with the CPU's TF ─► #DB: closed, and looked at

A frame of which nothing is made any more is found by the next store, and let go.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from domains.cpu.x86.emulator.unicorn_library import UnicornLibrary
from domains.cpu.x86.hvm.pmap import Pmap
from domains.cpu.x86.hvm.shadow_space import ShadowSpace
from hypervisor.machine.paging import PAGE_RW, PTE_MFN_MASK
from hypervisor.public.types import PAGE_SHIFT


class Tracer:
    """One vCPU's. Frames are told by their machine addresses."""

    def __init__(self, pmap: Pmap, space: ShadowSpace, library: UnicornLibrary) -> None:
        self._pmap, self._space, self._library = pmap, space, library
        self._frames: dict[int, bool] = {}
        """And whether the P2M lets them be written."""
        self._open: list[tuple[int, int]] = []
        self.descriptors: set[int] = set()
        """Of the traced frames, those with descriptors that the CPU is shown."""
        self.descriptors_changed: Callable[[], None]

    def trace(self, address: int) -> None:
        """Stores to this frame are exits."""
        if address not in self._frames:
            self._frames[address] = self._pmap.protect(address)
            self._space.protect(address)
            self._library.tlb_flush()

    def traced(self, gpa: int) -> int | None:
        """The frame of this guest-physical address, if a store there that the guest may make is an exit."""
        address = self._pmap.entry(gpa >> PAGE_SHIFT) & PTE_MFN_MASK
        return address if self._frames.get(address) else None

    def let_go(self, address: int) -> bool:
        """If nothing is made of this frame any more, it is no longer traced."""
        if address in self.descriptors or self._space.shadows_of(address):
            return False
        del self._frames[address]
        self._pmap.permit(address)
        return True

    def unshadow(self, address: int) -> bool:
        """What was made of this frame is forgotten, and it is no longer traced; False: it has descriptors."""
        if address in self.descriptors:
            return False
        self._space.unshadow(address)
        self._library.tlb_flush()
        return self.let_go(address)

    def protect_again(self) -> None:
        """The PMAP was read anew."""
        for address in self._frames:
            self._frames[address] = self._pmap.protect(address)

    @contextmanager
    def lifted(self, address: int) -> Iterator[None]:
        """In this block the frame is as if it were not traced; no shadow made in it lets it be written afterwards."""
        self._pmap.permit(address)
        try:
            yield
        finally:
            self._pmap.protect(address)
            self._space.protect(address)

    def open(self, address: int, va: int) -> None:
        """The page of `va`, which is shadowed and leads to this frame, may be written until `close`."""
        self._space.pool.words[self._space.word(va)] |= PAGE_RW
        self._open.append((address, va))

    def close(self) -> None:
        """The stores are made: look at what they changed."""
        opened, self._open = self._open, []
        for address, va in opened:
            if self._space.entry(va) & PTE_MFN_MASK == address:
                self._space.pool.words[self._space.word(va)] &= ~PAGE_RW
            self._library.tlb_flush_page(va)
            if address in self.descriptors:
                self.descriptors_changed()
            self._space.sync_table(address)
