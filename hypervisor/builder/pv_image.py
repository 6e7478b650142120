"""What a builder must know of a PV kernel, and which addresses such a kernel may ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hypervisor.machine.paging import PAE, PV64, PagingFormat
from hypervisor.public.abi import COMPAT, NATIVE, Abi
from hypervisor.public.arch_x86 import xen_x86_32
from hypervisor.public.arch_x86.xen_x86_64 import HYPERVISOR_VIRT_END, HYPERVISOR_VIRT_START
from hypervisor.public.types import PAGE_SIZE, VAddr


class LayoutError(Exception):
    """The image cannot be laid out in that much memory; the text is one line for the domain's owner."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of the kernel: `data` at `vaddr`, zeros after it up to `size` bytes."""

    vaddr: VAddr
    data: bytes | memoryview
    size: int

    @property
    def end(self) -> int:
        """The virtual address behind its last byte."""
        return self.vaddr + self.size


@dataclass(frozen=True, slots=True)
class PvImage:
    """What the builder must know of a kernel. `p2m_base` is XEN_ELFNOTE_INIT_P2M, `unmapped_initrd` MOD_START_PFN.

    `address_size`: 64 or 32. `extended_cr3`: a 32-bit kernel takes page directories above 4 GiB.
    """

    segments: Sequence[Segment]
    virt_base: VAddr
    entry: VAddr
    p2m_base: VAddr | None = None
    unmapped_initrd: bool = False
    hypercall_page: VAddr | None = None
    address_size: int = 64
    extended_cr3: bool = False

    @property
    def abi(self) -> Abi:
        """How the kernel lays out what it shares with Xen."""
        return NATIVE if self.address_size == 64 else COMPAT

    @property
    def paging(self) -> PagingFormat:
        """The page tables that it starts on."""
        return PV64 if self.address_size == 64 else PAE

    def usable(self, start: int, size: int) -> bool:
        """Whether [start, start + size) is the guest's."""
        return (usable if self.address_size == 64 else compat_usable)(start, size)


def check_image(image: PvImage) -> None:
    """Refuse addresses that cannot be mapped: below the base, in the hypervisor's range, not canonical."""
    if not image.segments:
        raise LayoutError("the kernel has no loadable segment")
    if image.virt_base % PAGE_SIZE or not image.usable(image.virt_base, 1):
        raise LayoutError(f"the kernel's base {image.virt_base:#x} cannot be mapped")
    for segment in image.segments:
        if segment.vaddr < image.virt_base or not image.usable(segment.vaddr, segment.size):
            raise LayoutError(f"the kernel's segment at {segment.vaddr:#x} cannot be mapped")
        if len(segment.data) > segment.size:
            raise LayoutError(f"the kernel's segment at {segment.vaddr:#x} has more bytes than memory")
    if image.p2m_base is not None and (
        image.p2m_base % PAGE_SIZE or image.p2m_base >= image.virt_base or not image.usable(image.p2m_base, 1)
    ):
        raise LayoutError(f"the kernel's P2M base {image.p2m_base:#x} cannot be mapped")


def usable(start: int, size: int) -> bool:
    """Whether [start, start + size) is canonical and the guest's."""
    end = start + size
    if end <= 1 << 47:
        return start >= 0
    if start < HYPERVISOR_VIRT_START or end > 1 << 64:
        return False
    return start >= HYPERVISOR_VIRT_END


def compat_usable(start: int, size: int) -> bool:
    """The same for a 32-bit guest."""
    return start >= 0 and start + size <= xen_x86_32.HYPERVISOR_VIRT_START
