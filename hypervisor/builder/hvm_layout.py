"""The memory of a PVH domain at its first instruction: which guest frame holds what.

    0 ─────────────── RAM, `nr_pages` pages
        kernel              at the physical addresses its image names
        start info          one page: hvm_start_info, the module's entry, the memory map, the command line
        ramdisk
    0xfc000000        ACPI's tables, one page                      ACPI
    0xfe700000        room for shared info: nothing is there       reserved
    0xfee00000        the local APIC                               reserved
    0xfeff8000        special pages, to 0xff000000: 4 is the store's ring, 7 the console's        reserved

Source: Xen tools/libs/guest/xg_dom_x86.c, tools/libs/light/libxl_x86.c; docs/misc/pvh.pandoc.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hypervisor.builder.pv_image import LayoutError, PvImage
from hypervisor.builder.pv_layout import Area, Room, pages_for
from hypervisor.public.memory import E820_ACPI, E820_RAM, E820_RESERVED, e820entry
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE, PAGES_PER_MIB, Pfn

MAX_PAGES: Final = 0xF000_0000 >> PAGE_SHIFT
"""RAM ends here, below the regions; none of it lies above 4 GiB yet."""
ACPI_GFN: Final = Pfn(0xFC000)
SHARED_INFO_REGION: Final = Area(Pfn(0xFE700), 256)
APIC_GFN: Final = Pfn(0xFEE00)
SPECIAL_PAGES: Final = Area(Pfn(0xFEFF8), 8)
GRANTS_GFN: Final = SPECIAL_PAGES.pfn
"""Where the toolstack shows itself the domain's grant table while it builds the domain."""
XENSTORE_GFN: Final = Pfn(SPECIAL_PAGES.pfn + 4)
CONSOLE_GFN: Final = Pfn(SPECIAL_PAGES.pfn + 7)
POPULATED: Final = (ACPI_GFN, XENSTORE_GFN, CONSOLE_GFN)
"""Guest frames outside RAM that have a page from the beginning."""


@dataclass(frozen=True, slots=True)
class HvmPlan:
    """Where everything goes. `image`: a PvImage whose addresses are physical and whose base is 0."""

    image: PvImage
    nr_pages: int
    kernel: Area
    start_info: Pfn
    ramdisk: Area | None
    ramdisk_bytes: int

    def memory_map(self) -> tuple[e820entry, ...]:
        """What the guest is told of its physical memory, from the lowest address up."""
        return memory_map(self.nr_pages)


def memory_map(nr_pages: int) -> tuple[e820entry, ...]:
    """The memory map of a domain with so many pages of RAM, from the lowest address up."""
    regions = (
        (Area(Pfn(0), nr_pages), E820_RAM),
        (Area(ACPI_GFN, 1), E820_ACPI),
        (SHARED_INFO_REGION, E820_RESERVED),
        (Area(APIC_GFN, 1), E820_RESERVED),
        (SPECIAL_PAGES, E820_RESERVED),
    )
    return tuple(
        e820entry(addr=area.pfn << PAGE_SHIFT, size=area.pages << PAGE_SHIFT, type=int(kind))
        for area, kind in regions
    )


def hvm_plan(image: PvImage, nr_pages: int, ramdisk_bytes: int = 0) -> HvmPlan:
    """Lay out a domain of `nr_pages` pages. Raises LayoutError if it does not fit."""
    if nr_pages > MAX_PAGES:
        raise LayoutError(f"a PVH domain has at most {MAX_PAGES // PAGES_PER_MIB} MiB")
    if not image.segments:
        raise LayoutError("the kernel has no loadable segment")
    first = min(segment.vaddr for segment in image.segments) & -PAGE_SIZE
    end = max(segment.end for segment in image.segments)
    if first < 0 or end > nr_pages << PAGE_SHIFT:
        raise LayoutError(
            f"the kernel's segments, from {first:#x} to {end:#x}, lie outside its {nr_pages // PAGES_PER_MIB} MiB"
        )
    if any(len(segment.data) > segment.size for segment in image.segments):
        raise LayoutError("the kernel has a segment with more bytes than memory")
    if not any(segment.vaddr <= image.entry < segment.end for segment in image.segments):
        raise LayoutError(f"the kernel's entry point {image.entry:#x} lies in none of its segments")
    room = Room(nr_pages)
    room.take(first >> PAGE_SHIFT)
    kernel = room.take(pages_for(end - first))
    start_info = room.take(1).pfn
    ramdisk = room.take(pages_for(ramdisk_bytes)) if ramdisk_bytes else None
    return HvmPlan(image, nr_pages, kernel, start_info, ramdisk, ramdisk_bytes)
