"""The kernel's memory: pages of its own, and frames of others mapped into its address space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hypervisor.public.types import DomId, Mfn, Pfn, VAddr


class Page(NamedTuple):
    """One page of this domain: where the kernel sees it, its number in the domain and in the machine."""

    va: VAddr
    pfn: Pfn
    mfn: Mfn


class PageAllocator:
    """Free pages of the pseudo-physical memory, mapped at `virt_base + pfn * 4096`."""

    def alloc_page(self) -> Page:
        """A zeroed page, mapped writable; XenError(ENOMEM) when none is left."""
        raise NotImplementedError

    def free_page(self, page: Page) -> None:
        """Give a page back; nobody else may still have it mapped or granted."""
        raise NotImplementedError

    def phys_to_machine(self, pfn: Pfn) -> Mfn:
        """The P2M list's entry, from guest memory."""
        raise NotImplementedError

    def page_at(self, va: VAddr) -> Page:
        """The page of the kernel's linear mapping that holds `va`."""
        raise NotImplementedError

    def map_frames(self, domid: DomId, mfns: Sequence[Mfn], writable: bool = True) -> VAddr:
        """Map frames of `domid` (privilege over it is needed) side by side; the address of the first.
        XenError.
        """
        raise NotImplementedError

    def unmap(self, va: VAddr) -> None:
        """Undo one map_frames by the address it returned."""
        raise NotImplementedError
