"""What a builder must know of a PV kernel, and which addresses such a kernel may ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    """What the builder must know of a kernel. `p2m_base` is XEN_ELFNOTE_INIT_P2M, `unmapped_initrd`
    MOD_START_PFN.
    """

    segments: Sequence[Segment]
    virt_base: VAddr
    entry: VAddr
    p2m_base: VAddr | None = None
    unmapped_initrd: bool = False
    hypercall_page: VAddr | None = None


def check_image(image: PvImage) -> None:
    """Refuse addresses that cannot be mapped: below the base, in the hypervisor's range, not canonical."""
    if not image.segments:
        raise LayoutError("the kernel has no loadable segment")
    if image.virt_base % PAGE_SIZE or not usable(image.virt_base, 1):
        raise LayoutError(f"the kernel's base {image.virt_base:#x} cannot be mapped")
    for segment in image.segments:
        if segment.vaddr < image.virt_base or not usable(segment.vaddr, segment.size):
            raise LayoutError(f"the kernel's segment at {segment.vaddr:#x} cannot be mapped")
        if len(segment.data) > segment.size:
            raise LayoutError(f"the kernel's segment at {segment.vaddr:#x} has more bytes than memory")
    if image.p2m_base is not None and (
        image.p2m_base % PAGE_SIZE or image.p2m_base >= image.virt_base or not usable(image.p2m_base, 1)
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
