"""What is in a PV domain's pages at its first instruction: kernel, P2M, start info, page tables; and its first registers.

Arrays only, from a `Plan` and the machine frames that were allocated for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hypervisor.builder.hvm_layout import HvmPlan
from hypervisor.builder.pv_layout import Mapping, Plan, Table, pages_for, table_span
from hypervisor.machine.debug_registers import DR6_DEFAULT, DR7_DEFAULT
from hypervisor.machine.paging import (
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_PRESENT,
    PAGE_RW,
    PAGE_USER,
    TABLE_ENTRIES,
)
from hypervisor.public.abi import Abi
from hypervisor.public.arch_x86 import xen_x86_32
from hypervisor.public.arch_x86.xen import VGCF_in_kernel, VGCF_online, vcpu_guest_context
from hypervisor.public.arch_x86.xen_x86_64 import (
    FLAT_KERNEL_CS64,
    FLAT_KERNEL_DS64,
    FLAT_KERNEL_SS64,
    cpu_user_regs,
)
from hypervisor.public.compat import CompatLayout, compat_cpu_user_regs, compat_vcpu_guest_context
from hypervisor.public.layout import Struct
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE, MAddr, Mfn, Pfn, Port
from hypervisor.public.xen import (
    MAX_GUEST_CMDLINE,
    SIF_MOD_START_PFN,
    VMASST_TYPE_pae_extended_cr3,
    start_info,
    start_info_console,
    start_info_console_domU,
)

LEAF: Final = PAGE_PRESENT | PAGE_RW | PAGE_ACCESSED
"""A page of the guest's kernel; of a 64-bit guest it gets the user bit, too."""
INNER: Final = PAGE_PRESENT | PAGE_RW | PAGE_USER | PAGE_ACCESSED | PAGE_DIRTY
PAE_TOP: Final = PAGE_PRESENT
"""An entry of a table of four has no rights."""
MAGIC: Final = {64: b"xen-3.0-x86_64", 32: b"xen-3.0-x86_32p"}

RFLAGS_IF: Final = 1 << 9

Words = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]


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


def contents(plan: Plan, p2m: Words, day: StartOfDay, ramdisk: bytes | memoryview = b"") -> Iterator[Content]:
    """What to write into the domain's pages, all of which must be zero before. `p2m`: uint64[nr_pages], Mfn
    of each Pfn.

    The xenstore and console rings begin as zeros and are not in the list.
    """
    yield from kernel_contents(plan)
    if plan.ramdisk is not None:
        yield Content(plan.ramdisk.pfn, whole_pages(ramdisk, plan.ramdisk.pages))
    yield from start_of_day_contents(plan, p2m, day)


def start_of_day_contents(plan: Plan, p2m: Words, day: StartOfDay) -> Iterator[Content]:
    """The part of it that depends on the machine frames: P2M, start info, page tables. Each is made when it is asked for."""
    if p2m.shape != (plan.nr_pages,):
        raise ValueError(f"P2M of {p2m.shape} for {plan.nr_pages} pages")
    abi = plan.image.abi
    yield Content(plan.p2m.pfn, whole_pages(abi.pack_words(p2m), plan.p2m.pages))
    info = abi.layout(start_info).pack(start_info_of(plan, p2m, day))
    yield Content(plan.start_info, whole_pages(info, 1))
    for table, entries in zip(plan.tables, table_entries(plan, p2m), strict=True):
        yield Content(table.pfn, entries.view(np.uint8))


def kernel_contents(plan: Plan | HvmPlan) -> list[Content]:
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


def table_entries(plan: Plan, p2m: Words) -> Iterator[Words]:
    """The 512 entries of each table of the plan, in its order. Page tables themselves are mapped
    read-only.
    """
    read_only = np.array([table.pfn for table in plan.tables], np.uint64)
    inner = {(t.level, t.start): np.zeros(TABLE_ENTRIES, np.uint64) for t in plan.tables if t.level > 1}
    top = plan.image.paging.levels
    for table in plan.tables:
        if table.level < top:
            above = table.level + 1
            start = 0 if above == top else table.start // table_span(above) * table_span(above)
            rights = PAE_TOP if top == 3 == above else INNER
            entry = int(p2m[table.pfn]) << PAGE_SHIFT | rights
            inner[above, start][plan.image.paging.index(table.start, above)] = entry
    user = PAGE_USER if plan.image.address_size == 64 else 0
    for table in plan.tables:
        if table.level > 1:
            yield inner[table.level, table.start]
        else:
            leaves = np.zeros(TABLE_ENTRIES, np.uint64)
            for mapping in plan.mappings:
                fill_leaf(leaves, table, mapping, p2m, read_only, LEAF | user)
            yield leaves


def fill_leaf(
    entries: Words, table: Table, mapping: Mapping, p2m: Words, read_only: Words, rights: int
) -> None:
    """Enter what `mapping` has of an L1's addresses, with `rights` where they may be written."""
    first = max(mapping.start, table.start)
    last = min(mapping.end, table.start + table_span(1))
    if first >= last:
        return
    count = (last - first) >> PAGE_SHIFT
    pfn = mapping.pfn + ((first - mapping.start) >> PAGE_SHIFT)
    pfns = np.arange(pfn, pfn + count, dtype=np.uint64)
    writable = ~np.isin(pfns, read_only)
    leaf = (p2m[pfn : pfn + count] << np.uint64(PAGE_SHIFT)) | np.uint64(rights & ~PAGE_RW)
    leaf |= writable.astype(np.uint64) * np.uint64(PAGE_RW)
    index = (first - table.start) >> PAGE_SHIFT
    entries[index : index + count] = leaf


def start_info_of(plan: Plan, p2m: Words, day: StartOfDay) -> start_info:
    """The start info page's record; the console in it is as the guest's width has it."""
    outside = plan.image.p2m_base is not None
    info = start_info(
        magic=MAGIC[plan.image.address_size],
        nr_pages=plan.nr_pages,
        shared_info=day.shared_info,
        flags=day.flags,
        pt_base=plan.vaddr(plan.top_table),
        nr_pt_frames=plan.page_tables.pages,
        mfn_list=plan.image.p2m_base if outside else plan.vaddr(plan.p2m.pfn),
        cmd_line=day.cmdline.encode()[: MAX_GUEST_CMDLINE - 1],
    )
    if day.store is not None:
        info.store_mfn, info.store_evtchn = Mfn(int(p2m[plan.xenstore])), day.store
    of_domu, console = (
        record_of(plan.image.abi, kind) for kind in (start_info_console_domU, start_info_console)
    )
    info.console = console()
    if day.console is not None:
        info.console = console(domU=of_domu(mfn=int(p2m[plan.console]), evtchn=day.console))
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


def record_of(abi: Abi, kind: type[Struct]) -> Any:
    """The structure itself, as a guest of this width has it."""
    layout = abi.layout(kind)
    return layout.struct if isinstance(layout, CompatLayout) else kind


def vcpu_context(plan: Plan, p2m: Words) -> vcpu_guest_context | compat_vcpu_guest_context:
    """The first vCPU's state, in the layout of the guest's width."""
    return (native_context if plan.image.address_size == 64 else compat_context)(plan, p2m)


def compat_context(plan: Plan, p2m: Words) -> compat_vcpu_guest_context:
    """At the kernel's entry in ring 1, ESI on start info, ESP at the end of the boot stack."""
    stack = plan.vaddr(plan.boot_stack) + PAGE_SIZE
    registers = compat_cpu_user_regs(
        eip=plan.image.entry,
        esp=stack,
        esi=plan.vaddr(plan.start_info),
        eflags=RFLAGS_IF,
        cs=xen_x86_32.FLAT_KERNEL_CS,
        ss=xen_x86_32.FLAT_KERNEL_SS,
        **dict.fromkeys(("ds", "es", "fs", "gs"), xen_x86_32.FLAT_KERNEL_DS),
    )
    cr3 = xen_x86_32.xen_pfn_to_cr3(int(p2m[plan.top_table]))
    return compat_vcpu_guest_context(
        flags=VGCF_in_kernel | VGCF_online,
        user_regs=registers,
        kernel_ss=xen_x86_32.FLAT_KERNEL_SS,
        kernel_sp=stack,
        ctrlreg=(0, 0, 0, cr3, 0, 0, 0, 0),
        debugreg=(0, 0, 0, 0, 0, 0, DR6_DEFAULT, DR7_DEFAULT),
        vm_assist=int(plan.image.extended_cr3) << VMASST_TYPE_pae_extended_cr3,
    )


def native_context(plan: Plan, p2m: Words) -> vcpu_guest_context:
    """At the kernel's entry, RSI on start info, RSP at the end of the boot stack."""
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
    cr3 = int(p2m[plan.top_table]) << PAGE_SHIFT
    return vcpu_guest_context(
        flags=VGCF_in_kernel | VGCF_online,
        user_regs=registers,
        kernel_ss=FLAT_KERNEL_SS64,
        kernel_sp=stack,
        ctrlreg=(0, 0, 0, cr3, 0, 0, 0, 0),
        debugreg=(0, 0, 0, 0, 0, 0, DR6_DEFAULT, DR7_DEFAULT),
    )


def whole_pages(data: bytes | memoryview, pages: int) -> Bytes:
    """`data` with zeros up to `pages` whole pages."""
    memory = np.zeros(pages << PAGE_SHIFT, np.uint8)
    memory[: len(data)] = np.frombuffer(data, np.uint8)
    return memory
