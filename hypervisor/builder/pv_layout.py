"""The memory of a PV domain at its first instruction: which page holds what.

Numbers only: whoever builds a domain (the core builds Dom0, Dom0's toolstack all others) asks `plan` where things go,
allocates the frames, and writes what `pv_contents.contents` returns.
Source: Xen public/xen.h, "Start-of-day memory layout", and what Xen's libxenguest makes of it.

    virt_base + 0          pfn 0
        kernel             at the addresses its image names
        ramdisk            unless the kernel takes it unmapped
        P2M list           unless the kernel wants it at p2m_base
        start info         one page
        xenstore ring      one page
        console ring       one page
        page tables        the top one first; mapped read-only
        boot stack         one page
        padding            at least 512 KiB, to the next multiple of 4 MiB
    ── end of the initial mapping ──
        ramdisk            if taken unmapped: its pfn is in start info
        P2M list           if at p2m_base, its page tables after it
        free memory        to pfn nr_pages

A 32-bit guest has three levels of tables (PAE). Its L3 always names an L2 for the last GiB, where Xen shows the M2P.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hypervisor.builder.pv_image import LayoutError, PvImage, check_image
from hypervisor.machine.paging import PV64, PagingFormat
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE, PAGES_PER_MIB, Pfn, VAddr

PADDING: Final = 512 * 1024
"""Bytes mapped behind the boot stack, at least."""
LAST_GIB: Final = 3 << 30
ALIGNMENT: Final = 4 << 20
"""The initial mapping ends at a multiple of this many bytes."""


@dataclass(frozen=True, slots=True)
class Area:
    """`pages` pages from `pfn` on."""

    pfn: Pfn
    pages: int

    @property
    def end(self) -> Pfn:
        """The page behind its last one."""
        return Pfn(self.pfn + self.pages)


@dataclass(frozen=True, slots=True)
class Mapping:
    """Virtual addresses [start, end) on pages from `pfn` on; both bounds are page-aligned."""

    start: VAddr
    end: VAddr
    pfn: Pfn


@dataclass(frozen=True, slots=True)
class Table:
    """A page table: at `level` (1 is L1), for the addresses from `start` on, in page `pfn`."""

    level: int
    start: int
    pfn: Pfn


@dataclass(frozen=True, slots=True)
class Plan:
    """Where everything goes. Nothing here depends on machine frames."""

    image: PvImage
    nr_pages: int
    kernel: Area
    ramdisk: Area | None
    ramdisk_bytes: int
    p2m: Area
    start_info: Pfn
    xenstore: Pfn
    console: Pfn
    boot_stack: Pfn
    page_tables: Area
    mappings: tuple[Mapping, ...]
    tables: tuple[Table, ...]
    used: int
    """Pages from 0 on that hold something or lie in the initial mapping."""

    @property
    def top_table(self) -> Pfn:
        """The page that holds the first L4 table, of a 32-bit guest the L3: the first of the page tables."""
        return self.page_tables.pfn

    def vaddr(self, pfn: Pfn) -> VAddr:
        """Where the initial mapping shows a page."""
        return VAddr(self.image.virt_base + (pfn << PAGE_SHIFT))


def plan(image: PvImage, nr_pages: int, ramdisk_bytes: int = 0) -> Plan:
    """Lay out a domain of `nr_pages` pages. Raises LayoutError if it does not fit."""
    check_image(image)
    room = Room(nr_pages)
    first = min(segment.vaddr for segment in image.segments) & -PAGE_SIZE
    room.take((first - image.virt_base) >> PAGE_SHIFT)
    kernel = room.take(pages_for(max(segment.end for segment in image.segments) - first))
    ramdisk_pages, p2m_pages = pages_for(ramdisk_bytes), pages_for(nr_pages * image.abi.word)
    ramdisk = p2m = None
    if ramdisk_pages and not image.unmapped_initrd:
        ramdisk = room.take(ramdisk_pages)
    if image.p2m_base is None:
        p2m = room.take(p2m_pages)
    info, xenstore, console = (room.take(1).pfn for _ in range(3))
    mapping, tables = initial_mapping(image, room.next)
    page_tables = room.take(len(tables))
    boot_stack = room.take(1).pfn
    room.take(pages_in(mapping) - room.next)
    mappings = [mapping]
    if ramdisk_pages and image.unmapped_initrd:
        ramdisk = room.take(ramdisk_pages)
    if p2m is None:
        p2m = room.take(p2m_pages)
        start = image.p2m_base or VAddr(0)
        end = VAddr(start + (p2m_pages << PAGE_SHIFT))
        if end > mapping.start or not image.usable(start, end - start):
            raise LayoutError(
                f"the P2M list, from {start:#x} to {end:#x} as the kernel wants it, cannot be mapped"
            )
        mappings.append(Mapping(start, end, p2m.pfn))
        outside = missing_tables(mappings[1], tables, room.next)
        room.take(len(outside))
        tables = [*tables, *outside]
    return Plan(
        image, nr_pages, kernel, ramdisk, ramdisk_bytes, p2m, info, xenstore, console, boot_stack,
        page_tables, tuple(mappings), tuple(tables), room.next,
    )  # fmt: skip


class Room:
    """The domain's pages, handed out upwards."""

    def __init__(self, nr_pages: int) -> None:
        self.next = 0
        self._nr_pages = nr_pages

    def take(self, pages: int) -> Area:
        """The next `pages` pages. LayoutError when the domain has not so many."""
        area = Area(Pfn(self.next), pages)
        self.next += pages
        if self.next > self._nr_pages:
            raise LayoutError(
                f"the kernel and its ramdisk need more than its {self._nr_pages // PAGES_PER_MIB} MiB; give it more"
            )
        return area


def initial_mapping(image: PvImage, tables_at: int) -> tuple[Mapping, list[Table]]:
    """The mapping from the image's base on that holds its own tables (from page `tables_at`), boot stack and padding.

    More tables may need a larger mapping, which may need more tables: until nothing changes.
    """
    base, extra = image.virt_base, PADDING + PAGE_SIZE
    tables: list[Table] = []
    while True:
        occupied = base + (tables_at << PAGE_SHIFT) + (len(tables) << PAGE_SHIFT) + extra
        end = -(-occupied // ALIGNMENT) * ALIGNMENT
        if not image.usable(base, end - base):
            raise LayoutError(
                f"the kernel at {base:#x} and its ramdisk run into addresses that are not the guest's"
            )
        mapping = Mapping(base, VAddr(end), Pfn(0))
        grown = missing_tables(mapping, [], tables_at, image.paging)
        if len(grown) == len(tables):
            return mapping, grown
        tables = grown


def missing_tables(
    mapping: Mapping, present: Sequence[Table], pfn: int, paging: PagingFormat = PV64
) -> list[Table]:
    """The tables that `mapping` needs besides those `present`, the topmost level first, in pages from `pfn`
    on.
    """
    have = {(table.level, table.start) for table in present}
    missing: list[Table] = []
    for level in range(paging.levels, 0, -1):
        span = table_span(level)
        starts = (
            {0} if level == paging.levels else set(range(mapping.start // span * span, mapping.end, span))
        )
        if paging.levels == 3 and level == 2:
            starts.add(LAST_GIB)
        for start in sorted(starts):
            if (level, start) not in have:
                missing.append(Table(level, start, Pfn(pfn + len(missing))))
    return missing


def table_span(level: int) -> int:
    """Bytes of address space that one table of `level` covers."""
    return PAGE_SIZE << 9 * level


def pages_for(size: int) -> int:
    """Pages that `size` bytes take."""
    return -(-size // PAGE_SIZE)


def pages_in(mapping: Mapping) -> int:
    """How many pages the range covers; its ends are page-aligned."""
    return (mapping.end - mapping.start) >> PAGE_SHIFT
