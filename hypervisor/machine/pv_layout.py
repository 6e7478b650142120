"""The memory of a PV domain at its first instruction: which page holds what, and what is in it.

Owns the layout and its contents, as numbers and arrays only: whoever builds a domain (the core builds Dom0,
Dom0's toolstack all others) asks `plan` where things go, allocates the frames, and writes what `contents`
returns. Source: Xen public/xen.h, "Start-of-day memory layout", and what Xen's libxenguest makes of it.

    virt_base + 0          pfn 0
        kernel             at the addresses its image names
        ramdisk            unless the kernel takes it unmapped
        P2M list           unless the kernel wants it at p2m_base
        start info         one page
        xenstore ring      one page
        console ring       one page
        page tables        L4 first; mapped read-only
        boot stack         one page
        padding            at least 512 KiB, to the next multiple of 4 MiB
    ── end of the initial mapping ──
        ramdisk            if taken unmapped: its pfn is in start info
        P2M list           if at p2m_base, its page tables after it
        free memory        to pfn nr_pages
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from hypervisor.machine.paging import (
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_PRESENT,
    PAGE_RW,
    PAGE_USER,
    TABLE_ENTRIES,
    table_index,
)
from hypervisor.public.arch_x86.xen import VGCF_in_kernel, VGCF_online, vcpu_guest_context
from hypervisor.public.arch_x86.xen_x86_64 import (
    FLAT_KERNEL_CS64,
    FLAT_KERNEL_DS64,
    FLAT_KERNEL_SS64,
    HYPERVISOR_VIRT_END,
    HYPERVISOR_VIRT_START,
    cpu_user_regs,
)
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE, MAddr, Mfn, Pfn, Port, VAddr
from hypervisor.public.xen import (
    MAX_GUEST_CMDLINE,
    SIF_MOD_START_PFN,
    start_info,
    start_info_console,
    start_info_console_domU,
)

PADDING: Final = 512 * 1024
"""Bytes mapped behind the boot stack, at least."""
ALIGNMENT: Final = 4 << 20
"""The initial mapping ends at a multiple of this many bytes."""
PAGES_PER_MIB: Final = 256

LEAF: Final = PAGE_PRESENT | PAGE_RW | PAGE_USER | PAGE_ACCESSED
INNER: Final = PAGE_PRESENT | PAGE_RW | PAGE_USER | PAGE_ACCESSED | PAGE_DIRTY

RFLAGS_IF: Final = 1 << 9
DR6_DEFAULT: Final = 0xFFFF0FF0
DR7_DEFAULT: Final = 0x400

Words = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]


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


@dataclass(frozen=True, slots=True)
class Area:
    """`pages` pages from `pfn` on."""

    pfn: Pfn
    pages: int

    @property
    def end(self) -> Pfn:
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
    def l4(self) -> Pfn:
        return self.page_tables.pfn

    def vaddr(self, pfn: Pfn) -> VAddr:
        """Where the initial mapping shows a page."""
        return VAddr(self.image.virt_base + (pfn << PAGE_SHIFT))


@dataclass(frozen=True, slots=True)
class StartOfDay:
    """What goes into start info besides the layout. Ports None: the domain has neither store nor console
    (Dom0).
    """

    shared_info: MAddr
    flags: int = 0
    cmdline: str = ""
    store: Port | None = None
    console: Port | None = None


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes for whole pages, from `pfn` on; uint8[n * 4096]."""

    pfn: Pfn
    data: Bytes


def plan(image: PvImage, nr_pages: int, ramdisk_bytes: int = 0) -> Plan:
    """Lay out a domain of `nr_pages` pages. Raises LayoutError if it does not fit."""
    check_image(image)
    room = Room(nr_pages)
    first = min(segment.vaddr for segment in image.segments) & -PAGE_SIZE
    room.take((first - image.virt_base) >> PAGE_SHIFT)
    kernel = room.take(pages_for(max(segment.end for segment in image.segments) - first))
    ramdisk_pages, p2m_pages = pages_for(ramdisk_bytes), pages_for(nr_pages * 8)
    ramdisk = p2m = None
    if ramdisk_pages and not image.unmapped_initrd:
        ramdisk = room.take(ramdisk_pages)
    if image.p2m_base is None:
        p2m = room.take(p2m_pages)
    info, xenstore, console = (room.take(1).pfn for _ in range(3))
    mapping, tables = initial_mapping(image.virt_base, room.next)
    page_tables = room.take(len(tables))
    boot_stack = room.take(1).pfn
    room.take(pages_in(mapping) - room.next)
    mappings = [mapping]
    if ramdisk_pages and image.unmapped_initrd:
        ramdisk = room.take(ramdisk_pages)
    if p2m is None:
        p2m = room.take(p2m_pages)
        start = image.p2m_base or VAddr(0)
        mappings.append(Mapping(start, VAddr(start + (p2m_pages << PAGE_SHIFT)), p2m.pfn))
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
        area = Area(Pfn(self.next), pages)
        self.next += pages
        if self.next > self._nr_pages:
            raise LayoutError(
                f"the kernel and its ramdisk need more than its {self._nr_pages // PAGES_PER_MIB} MiB"
            )
        return area


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


def initial_mapping(base: VAddr, tables_at: int) -> tuple[Mapping, list[Table]]:
    """The mapping from `base` on that holds its own tables (from page `tables_at`), boot stack and padding.

    More tables may need a larger mapping, which may need more tables: until nothing changes.
    """
    extra = PADDING + PAGE_SIZE
    tables: list[Table] = []
    while True:
        occupied = base + (tables_at << PAGE_SHIFT) + (len(tables) << PAGE_SHIFT) + extra
        end = -(-occupied // ALIGNMENT) * ALIGNMENT
        if not usable(base, end - base):
            raise LayoutError(
                f"the kernel at {base:#x} and its ramdisk run into addresses that are not the guest's"
            )
        mapping = Mapping(base, VAddr(end), Pfn(0))
        grown = missing_tables(mapping, [], tables_at)
        if len(grown) == len(tables):
            return mapping, grown
        tables = grown


def missing_tables(mapping: Mapping, present: Sequence[Table], pfn: int) -> list[Table]:
    """The tables that `mapping` needs besides those `present`, the topmost level first, in pages from `pfn`
    on.
    """
    have = {(table.level, table.start) for table in present}
    missing: list[Table] = []
    for level in (4, 3, 2, 1):
        span = table_span(level)
        starts = [0] if level == 4 else range(mapping.start // span * span, mapping.end, span)
        for start in starts:
            if (level, start) not in have:
                missing.append(Table(level, start, Pfn(pfn + len(missing))))
    return missing


def contents(plan: Plan, p2m: Words, day: StartOfDay, ramdisk: bytes | memoryview = b"") -> list[Content]:
    """What to write into the domain's pages, all of which must be zero before. `p2m`: uint64[nr_pages], Mfn
    of each Pfn.

    The xenstore and console rings begin as zeros and are not in the list.
    """
    if p2m.shape != (plan.nr_pages,):
        raise ValueError(f"P2M of {p2m.shape} for {plan.nr_pages} pages")
    parts = kernel_contents(plan)
    if plan.ramdisk is not None:
        parts.append(Content(plan.ramdisk.pfn, whole_pages(ramdisk, plan.ramdisk.pages)))
    parts.append(Content(plan.p2m.pfn, whole_pages(p2m.astype("<u8").tobytes(), plan.p2m.pages)))
    parts.append(Content(plan.start_info, whole_pages(start_info_of(plan, p2m, day).pack(), 1)))
    for table, entries in zip(plan.tables, table_entries(plan, p2m), strict=True):
        parts.append(Content(table.pfn, entries.view(np.uint8)))
    return parts


def kernel_contents(plan: Plan) -> list[Content]:
    """The kernel's pages that hold bytes of its image; segments may share a page."""
    base = plan.image.virt_base
    memory = np.zeros(plan.kernel.pages << PAGE_SHIFT, np.uint8)
    written = np.zeros(plan.kernel.pages, bool)
    start = base + (plan.kernel.pfn << PAGE_SHIFT)
    for segment in plan.image.segments:
        at = segment.vaddr - start
        memory[at : at + len(segment.data)] = np.frombuffer(segment.data, np.uint8)
        if len(segment.data):
            written[at >> PAGE_SHIFT : pages_for(at + len(segment.data))] = True
    edges = np.flatnonzero(np.diff(np.concatenate(([False], written, [False]))))
    return [
        Content(Pfn(plan.kernel.pfn + int(first)), memory[first << PAGE_SHIFT : last << PAGE_SHIFT])
        for first, last in edges.reshape(-1, 2)
    ]


def table_entries(plan: Plan, p2m: Words) -> list[Words]:
    """The 512 entries of each table of the plan, in its order. Page tables themselves are mapped
    read-only.
    """
    read_only = np.array([table.pfn for table in plan.tables], np.uint64)
    pages = {(table.level, table.start): np.zeros(TABLE_ENTRIES, np.uint64) for table in plan.tables}
    for table in plan.tables:
        if table.level == 1:
            for mapping in plan.mappings:
                fill_leaf(pages[1, table.start], table, mapping, p2m, read_only)
        if table.level < 4:
            above = table.level + 1
            start = 0 if above == 4 else table.start // table_span(above) * table_span(above)
            entry = int(p2m[table.pfn]) << PAGE_SHIFT | INNER
            pages[above, start][table_index(table.start, above)] = entry
    return list(pages.values())


def table_span(level: int) -> int:
    """Bytes of address space that one table of `level` covers."""
    return PAGE_SIZE << 9 * level


def fill_leaf(entries: Words, table: Table, mapping: Mapping, p2m: Words, read_only: Words) -> None:
    """Enter what `mapping` has of an L1's addresses."""
    first = max(mapping.start, table.start)
    last = min(mapping.end, table.start + table_span(1))
    if first >= last:
        return
    count = (last - first) >> PAGE_SHIFT
    pfn = mapping.pfn + ((first - mapping.start) >> PAGE_SHIFT)
    pfns = np.arange(pfn, pfn + count, dtype=np.uint64)
    writable = ~np.isin(pfns, read_only)
    leaf = (p2m[pfn : pfn + count] << np.uint64(PAGE_SHIFT)) | np.uint64(LEAF & ~PAGE_RW)
    leaf |= writable.astype(np.uint64) * np.uint64(PAGE_RW)
    index = (first - table.start) >> PAGE_SHIFT
    entries[index : index + count] = leaf


def start_info_of(plan: Plan, p2m: Words, day: StartOfDay) -> start_info:
    """The start info page's record."""
    outside = plan.image.p2m_base is not None
    info = start_info(
        magic=b"xen-3.0-x86_64",
        nr_pages=plan.nr_pages,
        shared_info=day.shared_info,
        flags=day.flags,
        pt_base=plan.vaddr(plan.l4),
        nr_pt_frames=plan.page_tables.pages,
        mfn_list=plan.image.p2m_base if outside else plan.vaddr(plan.p2m.pfn),
        cmd_line=day.cmdline.encode()[: MAX_GUEST_CMDLINE - 1],
    )
    if day.store is not None:
        info.store_mfn, info.store_evtchn = Mfn(int(p2m[plan.xenstore])), day.store
    if day.console is not None:
        ring = start_info_console_domU(mfn=int(p2m[plan.console]), evtchn=day.console)
        info.console = start_info_console(domU=ring)
    if plan.ramdisk is not None:
        info.mod_len = plan.ramdisk_bytes
        info.mod_start = plan.vaddr(plan.ramdisk.pfn)
        if plan.image.unmapped_initrd:
            info.flags |= SIF_MOD_START_PFN
            info.mod_start = plan.ramdisk.pfn
    if outside:
        tables = len(plan.tables) - plan.page_tables.pages
        info.first_p2m_pfn, info.nr_p2m_frames = plan.p2m.pfn, plan.p2m.pages + tables
    return info


def vcpu_context(plan: Plan, p2m: Words) -> vcpu_guest_context:
    """The first vCPU's state: at the kernel's entry, RSI on start info, RSP at the end of the boot stack."""
    stack = plan.vaddr(plan.boot_stack) + PAGE_SIZE
    registers = cpu_user_regs(
        rip=plan.image.entry,
        rsp=stack,
        rsi=plan.vaddr(plan.start_info),
        rflags=RFLAGS_IF,
        cs=FLAT_KERNEL_CS64,
        ss=FLAT_KERNEL_SS64,
        ds=FLAT_KERNEL_DS64,
        es=FLAT_KERNEL_DS64,
        fs=FLAT_KERNEL_DS64,
        gs=FLAT_KERNEL_DS64,
    )
    cr3 = int(p2m[plan.l4]) << PAGE_SHIFT
    return vcpu_guest_context(
        flags=VGCF_in_kernel | VGCF_online,
        user_regs=registers,
        kernel_ss=FLAT_KERNEL_SS64,
        kernel_sp=stack,
        ctrlreg=(0, 0, 0, cr3, 0, 0, 0, 0),
        debugreg=(0, 0, 0, 0, 0, 0, DR6_DEFAULT, DR7_DEFAULT),
    )


def pages_for(size: int) -> int:
    """Pages that `size` bytes take."""
    return -(-size // PAGE_SIZE)


def pages_in(mapping: Mapping) -> int:
    return (mapping.end - mapping.start) >> PAGE_SHIFT


def whole_pages(data: bytes | memoryview, pages: int) -> Bytes:
    """`data` with zeros up to `pages` whole pages."""
    memory = np.zeros(pages << PAGE_SHIFT, np.uint8)
    memory[: len(data)] = np.frombuffer(data, np.uint8)
    return memory
