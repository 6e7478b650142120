"""A PV domain's memory at its first instruction, checked by walking the page tables that the layout made."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypervisor.builder.pv_contents import StartOfDay, contents, native_context
from hypervisor.builder.pv_image import LayoutError, PvImage, Segment
from hypervisor.builder.pv_layout import ALIGNMENT, PADDING, Plan, plan
from hypervisor.machine.paging import PAGE_PRESENT, PAGE_RW, pte_mfn, table_index
from hypervisor.public.types import PAGE_SIZE, MAddr, Port, VAddr
from hypervisor.public.xen import SIF_MOD_START_PFN, start_info

LINUX_BASE = VAddr(0xFFFF_FFFF_8000_0000)
LINUX_P2M = VAddr(0x80_0000_0000)
MIB = 256


def image(**more: object) -> PvImage:
    segments = [
        Segment(VAddr(LINUX_BASE + 0x1000), b"text" * 2000, 9000),
        Segment(VAddr(LINUX_BASE + 0x5010), b"data", 0x3000),
    ]
    return PvImage(segments, LINUX_BASE, VAddr(LINUX_BASE + 0x1000), **more)  # type: ignore[arg-type]


class Built:
    """A domain's pages put into an array of frames, in scrambled order as on a real machine."""

    def __init__(self, layout: Plan, ramdisk: bytes = b"") -> None:
        self.plan = layout
        order = np.random.default_rng(7).permutation(layout.nr_pages).astype(np.uint64)
        self.p2m = order + np.uint64(1000)
        self.frames = np.zeros((layout.nr_pages + 1000, PAGE_SIZE), np.uint8)
        self.written: list[int] = []
        day = StartOfDay(MAddr(0x123000), 0, "console=hvc0", Port(1), Port(2))
        for part in contents(layout, self.p2m, day, ramdisk):
            for i, page in enumerate(part.data.reshape(-1, PAGE_SIZE)):
                self.frames[int(self.p2m[part.pfn + i])] = page
                self.written.append(part.pfn + i)

    def walk(self, va: int) -> tuple[int, bool]:
        """(mfn, writable) of an address, or KeyError."""
        mfn, writable = int(self.p2m[self.plan.top_table]), True
        for level in (4, 3, 2, 1):
            entry = int(self.frames[mfn].view(np.uint64)[table_index(va, level)])
            if not entry & PAGE_PRESENT:
                raise KeyError(va)
            mfn, writable = pte_mfn(entry), writable and bool(entry & PAGE_RW)
        return mfn, writable

    def read(self, va: int, size: int) -> bytes:
        out = b""
        while size:
            offset = va % PAGE_SIZE
            piece = min(size, PAGE_SIZE - offset)
            out += self.frames[self.walk(va)[0], offset : offset + piece].tobytes()
            va, size = va + piece, size - piece
        return out

    def start_info(self) -> start_info:
        return start_info.unpack(self.read(self.plan.vaddr(self.plan.start_info), PAGE_SIZE))


def test_the_kernel_reads_its_own_segments_through_the_initial_mapping() -> None:
    built = Built(plan(image(), 8 * MIB))
    assert built.read(LINUX_BASE + 0x1000, 8000) == b"text" * 2000
    assert built.read(LINUX_BASE + 0x1000 + 8000, 1000) == bytes(1000)
    assert built.read(LINUX_BASE + 0x5010, 4) == b"data"


def test_every_page_table_is_mapped_read_only_and_every_other_page_writable() -> None:
    built = Built(plan(image(), 16 * MIB))
    tables = {int(built.p2m[table.pfn]) for table in built.plan.tables}
    mapping = built.plan.mappings[0]
    for va in range(mapping.start, mapping.end, PAGE_SIZE):
        mfn, writable = built.walk(va)
        assert writable == (mfn not in tables)


def test_the_initial_mapping_ends_aligned_with_padding_behind_the_boot_stack() -> None:
    layout = plan(image(), 16 * MIB)
    mapping = layout.mappings[0]
    assert mapping.end % ALIGNMENT == 0
    assert mapping.end - layout.vaddr(layout.boot_stack) - PAGE_SIZE >= PADDING


def test_no_two_things_share_a_page() -> None:
    built = Built(plan(image(), 16 * MIB, 50_000), bytes(50_000))
    layout = built.plan
    special = [layout.xenstore, layout.console, layout.boot_stack]
    assert len(set(built.written)) == len(built.written)
    assert not set(special) & set(built.written)
    assert len(set(special)) == 3


def test_start_info_tells_where_everything_is() -> None:
    ramdisk = bytes(range(256)) * 40
    built = Built(plan(image(), 16 * MIB, len(ramdisk)), ramdisk)
    info = built.start_info()
    assert info.magic.rstrip(b"\0") == b"xen-3.0-x86_64"
    assert info.nr_pages == 16 * MIB
    assert info.cmd_line.rstrip(b"\0") == b"console=hvc0"
    assert built.read(info.mod_start, info.mod_len) == ramdisk
    assert built.read(info.mfn_list, 16 * MIB * 8) == built.p2m.tobytes()
    assert built.walk(info.pt_base)[0] == built.p2m[built.plan.top_table]
    assert info.nr_pt_frames == len(built.plan.tables)
    assert info.store_mfn == built.p2m[built.plan.xenstore]
    assert info.console.domU.mfn == built.p2m[built.plan.console]
    assert (info.store_evtchn, info.console.domU.evtchn) == (1, 2)


def test_a_kernel_that_asks_for_it_gets_its_p2m_outside_the_initial_mapping() -> None:
    built = Built(plan(image(p2m_base=LINUX_P2M), 64 * MIB))
    info = built.start_info()
    assert info.mfn_list == LINUX_P2M
    assert built.read(LINUX_P2M, 64 * MIB * 8) == built.p2m.tobytes()
    assert info.first_p2m_pfn == built.plan.p2m.pfn
    tables_outside = len(built.plan.tables) - info.nr_pt_frames
    assert info.nr_p2m_frames == 64 * MIB * 8 // PAGE_SIZE + tables_outside
    assert tables_outside == 3
    mapped = {built.walk(va)[0] for va in range(LINUX_BASE, built.plan.mappings[0].end, PAGE_SIZE)}
    assert not mapped & {int(built.p2m[pfn]) for pfn in range(info.first_p2m_pfn, info.first_p2m_pfn + 3)}


def test_an_unmapped_ramdisk_is_named_by_its_frame() -> None:
    built = Built(plan(image(unmapped_initrd=True), 16 * MIB, 5000), b"r" * 5000)
    info = built.start_info()
    assert info.flags & SIF_MOD_START_PFN
    assert info.mod_len == 5000
    assert built.frames[int(built.p2m[info.mod_start])].tobytes() == b"r" * PAGE_SIZE
    assert info.mod_start >= (built.plan.mappings[0].end - LINUX_BASE) // PAGE_SIZE


def test_the_first_vcpu_starts_at_the_entry_with_start_info_in_rsi() -> None:
    built = Built(plan(image(), 8 * MIB))
    context = native_context(built.plan, built.p2m)
    assert context.user_regs.rip == LINUX_BASE + 0x1000
    assert context.user_regs.rsi == built.plan.vaddr(built.plan.start_info)
    assert context.ctrlreg[3] >> 12 == built.p2m[built.plan.top_table]
    assert built.walk(context.user_regs.rsp - 8)[1]


@pytest.mark.parametrize(
    "segment",
    [
        Segment(VAddr(LINUX_BASE - PAGE_SIZE), b"", PAGE_SIZE),
        Segment(VAddr(LINUX_BASE), b"", 1 << 40),
        Segment(VAddr(LINUX_BASE), b"", 1 << 63),
        Segment(LINUX_BASE, b"12345", 4),
    ],
)
def test_segments_that_cannot_be_mapped_are_refused(segment: Segment) -> None:
    with pytest.raises(LayoutError):
        plan(PvImage([segment], LINUX_BASE, LINUX_BASE), 64 * MIB)


def test_addresses_of_the_hypervisor_are_refused_as_base() -> None:
    base = VAddr(0xFFFF_8100_0000_0000)
    with pytest.raises(LayoutError):
        plan(PvImage([Segment(base, b"x", 1)], base, base), 64 * MIB)


def test_too_little_memory_is_refused_with_the_size_that_was_given() -> None:
    with pytest.raises(LayoutError, match="2 MiB"):
        plan(image(), 2 * MIB)


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6 << 20), min_size=1, max_size=3),
    gap=st.integers(0, 1 << 20),
    ramdisk=st.integers(0, 3 << 20),
    base=st.sampled_from([LINUX_BASE, VAddr(0), VAddr(0x10_0000), VAddr(0x7F00_0000_0000)]),
)
def test_any_image_that_fits_maps_all_its_bytes(
    sizes: list[int], gap: int, ramdisk: int, base: VAddr
) -> None:
    segments, at = [], base + gap
    for size in sizes:
        segments.append(Segment(VAddr(at), b"\xa5" * min(size, 100), size))
        at += size
    built = Built(plan(PvImage(segments, base, base), 64 * MIB, ramdisk), bytes(ramdisk))
    for segment in segments:
        assert built.read(segment.vaddr, len(segment.data)) == segment.data
        built.walk(segment.end - 1)
    assert built.plan.used <= 64 * MIB
