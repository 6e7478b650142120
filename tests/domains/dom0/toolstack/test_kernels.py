"""Kernels in files: ELF in its three layouts, bzImages in all packings, and files that are damaged or
hostile.
"""

import bz2
import gzip
import io
import lzma
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from elftools.elf.elffile import ELFFile
from hypothesis import given, settings
from hypothesis import strategies as st
from lz4.block import compress  # type: ignore[attr-defined]  # it is lz4.block's, by a star import

from domains.dom0.toolstack.builder.elf import load_elf
from domains.dom0.toolstack.builder.elf_file import FORMS
from domains.dom0.toolstack.builder.image import load_kernel, load_ramdisk, python_image
from domains.dom0.toolstack.errors import ToolstackError
from hypervisor.builder.pv_image import LayoutError, PvImage
from hypervisor.builder.pv_layout import plan
from hypervisor.public.elfnote import ElfNote
from tests.domains.dom0.toolstack.bzimage_files import bzimage
from tests.domains.dom0.toolstack.elf_files import (
    BASE,
    LINUX_NOTES,
    OLD_TEXT,
    PVH_LINUX,
    SHT_NOTE,
    SHT_PROGBITS,
    elf,
    elf32,
    note,
)

LINUX = elf(note_segment=LINUX_NOTES)
NEEDS_HVM = b"!auto_translated_physmap".ljust(41, b"\0")


def pack_lz4(data: bytes) -> bytes:
    """lz4's legacy format, with Linux' length behind it."""
    blocks = [data[i : i + (8 << 20)] for i in range(0, len(data), 8 << 20)]
    packed = [compress(block, store_size=False) for block in blocks]
    rows = b"".join(struct.pack("<I", len(block)) + block for block in packed)
    return b"\x02\x21\x4c\x18" + rows + struct.pack("<I", len(data))


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "none": lambda data: data,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lambda data: lzma.compress(data, lzma.FORMAT_XZ, lzma.CHECK_CRC32),
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "lz4": pack_lz4,
    "zstd": lambda data: zstandard.ZstdCompressor().compress(data),
}


def loaded(folder: Path, data: bytes, memory: int = 128) -> PvImage:
    """The kernel in a file with these bytes, for a domain of `memory` MiB."""
    path = folder / "kernel"
    path.write_bytes(data)
    return load_kernel(str(path), memory)


def refusal(work: Callable[[], object]) -> str:
    with pytest.raises(ToolstackError) as caught:
        work()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_linux_notes_say_where_and_how_it_starts() -> None:
    image = load_elf(LINUX, "vmlinux")
    assert image.virt_base == BASE
    assert image.entry == BASE + 0x20_0180
    assert image.p2m_base == 0x80_0000_0000
    assert image.unmapped_initrd
    assert image.hypercall_page == BASE + 0x20_1000
    (segment,) = image.segments
    assert (segment.vaddr, bytes(segment.data), segment.size) == (BASE + 0x20_0000, b"code" * 100, 0x3000)


def test_notes_in_a_section_alone_are_found() -> None:
    image = load_elf(elf(sections={".note.Xen": (SHT_NOTE, LINUX_NOTES)}), "mini-os")
    assert image.virt_base == BASE
    assert image.entry == BASE + 0x20_0180


def test_the_old_text_section_counts_physical_addresses_from_its_base() -> None:
    segments = [(BASE + 0x20_0000, BASE + 0x20_0000, b"old", 0x2000)]
    image = load_elf(elf(segments=segments, sections={"__xen_guest": (SHT_PROGBITS, OLD_TEXT)}), "old")
    assert image.segments[0].vaddr == BASE + 0x20_0000
    assert image.hypercall_page == BASE + 0x20_1000
    assert image.p2m_base is None


def test_a_kernel_without_virtual_base_lies_at_its_physical_addresses() -> None:
    notes = note(ElfNote.XEN_ELFNOTE_XEN_VERSION, "xen-3.0") + note(ElfNote.XEN_ELFNOTE_LOADER, "generic")
    image = load_elf(
        elf(segments=[(0, 0x10_0000, b"x", 0x1000)], note_segment=notes, entry=0x10_0000), "mini"
    )
    assert (image.virt_base, image.segments[0].vaddr) == (0, 0x10_0000)


def test_notes_of_others_are_passed_over() -> None:
    other = note(1, 0x1234, b"GNU\0") + note(0xF000, 5)
    assert load_elf(elf(note_segment=other + LINUX_NOTES), "k").virt_base == BASE


def test_segments_are_those_that_elftools_reads() -> None:
    """An independent reader agrees on what is loaded."""
    rows = [(BASE + i * 0x10_0000, i * 0x10_0000, bytes([i]) * 1000, 0x2000) for i in range(2, 6)]
    data = elf(segments=rows, note_segment=LINUX_NOTES, entry=BASE + 0x20_0000)
    read = ELFFile(io.BytesIO(data)).iter_segments("PT_LOAD")
    expected = [(row["p_paddr"] + BASE, row.data(), row["p_memsz"]) for row in read]
    assert [(s.vaddr, bytes(s.data), s.size) for s in load_elf(data, "k").segments] == expected


@pytest.mark.parametrize("packer", PACKERS)
def test_every_packing_of_a_bzimage_gives_the_same_kernel(packer: str, tmp_path: Path) -> None:
    image = loaded(tmp_path, bzimage(PACKERS[packer](LINUX)))
    assert image.entry == BASE + 0x20_0180
    assert bytes(image.segments[0].data) == b"code" * 100


def test_a_packed_elf_file_is_a_kernel_too(tmp_path: Path) -> None:
    assert loaded(tmp_path, gzip.compress(LINUX)).virt_base == BASE


@pytest.mark.parametrize("packer", [name for name in PACKERS if name != "none"])
def test_a_damaged_payload_is_refused(packer: str, tmp_path: Path) -> None:
    packed = bytearray(PACKERS[packer](LINUX * 50))
    message = refusal(lambda: loaded(tmp_path, bzimage(bytes(packed[: len(packed) // 2]))))
    assert str(tmp_path) in message


@pytest.mark.slow
@pytest.mark.parametrize("packer", [name for name in PACKERS if name != "none"])
def test_a_payload_larger_than_its_domain_is_refused(packer: str, tmp_path: Path) -> None:
    large = bzimage(PACKERS[packer](bytes(40 << 20)))
    assert "more than 32 MiB" in refusal(lambda: loaded(tmp_path, large, 32))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "0 bytes"),
        (b"#!/bin/sh\n", "neither an ELF file nor a bzImage"),
        (b"\x7fELF", "header"),
        (elf(), "no Xen ELF notes"),
        (elf(note_segment=LINUX_NOTES, e_machine=3), "not for x86-64"),
        (
            elf(note_segment=LINUX_NOTES, e_ident=b"\x7fELF\1\1\1".ljust(16, b"\0"), e_machine=40),
            "32-bit file, not for x86",
        ),
        (elf32(note(ElfNote.XEN_ELFNOTE_PHYS32_ENTRY, 0x100000)), "a PVH kernel"),
        (elf32(LINUX_NOTES), "a 32-bit PV kernel without PAE; 32-bit PV kernels run here with PAE alone"),
        (elf32(LINUX_NOTES + note(ElfNote.XEN_ELFNOTE_PAE_MODE, "no")), "a 32-bit PV kernel without PAE"),
        (elf32(LINUX_NOTES, in_section=True), "a 32-bit PV kernel without PAE"),
        (elf32(b"", after=b"\x02\xb0\xad\x1b"), "a multiboot kernel"),
        (elf32(b""), "no Xen ELF notes"),
        (elf32(LINUX_NOTES, e_machine=40), "not for x86"),
        (elf(note_segment=note(ElfNote.XEN_ELFNOTE_PHYS32_ENTRY, 0x100000)), "a PVH kernel"),
        (elf(note_segment=PVH_LINUX), "a PVH kernel"),
        (elf(segments=[(BASE, 0, b"\xd6\x50\x52\xe8", 4096)], entry=BASE), "a multiboot2 kernel"),
        (elf(note_segment=LINUX_NOTES, e_type=1), "not an executable"),
        (elf(note_segment=LINUX_NOTES, e_phoff=1 << 60), "beyond the end"),
        (elf(note_segment=LINUX_NOTES, e_phnum=0xFFFF), "program headers"),
        (elf(note_segment=LINUX_NOTES, e_phentsize=1), "1 bytes long"),
        (elf(note_segment=LINUX_NOTES.replace(b"xen-3.0", b"xen-2.0")), "xen-2.0"),
        (elf(note_segment=LINUX_NOTES + note(ElfNote.XEN_ELFNOTE_ENTRY, 5)), "entry point"),
        (
            elf(note_segment=LINUX_NOTES.replace(b"!writable_page_tables|pae_pgdir_above_4gb", NEEDS_HVM)),
            "auto_translated",
        ),
        (bzimage(b"\xde\xad\xbe\xef" * 10), "unknown way"),
        (bzimage(LINUX)[:2000], "beyond the end"),
    ],
)
def test_what_is_no_pv_kernel_is_refused_in_one_line(data: bytes, why: str, tmp_path: Path) -> None:
    assert why in refusal(lambda: loaded(tmp_path, data))


def test_files_that_are_not_there_are_told_by_their_path(tmp_path: Path) -> None:
    missing = str(tmp_path / "nothing")
    assert missing in refusal(lambda: load_kernel(missing, 8))
    assert missing in refusal(lambda: load_ramdisk(missing))
    assert str(tmp_path) in refusal(lambda: load_kernel(str(tmp_path), 8))
    os.mkfifo(tmp_path / "pipe")
    assert "regular" in refusal(lambda: load_kernel(str(tmp_path / "pipe"), 8))
    assert "nothing.py" in refusal(lambda: python_image(f"{missing}.py:Class"))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(LINUX) - 1), st.integers(0, 255)), min_size=1, max_size=12))
def test_a_file_with_any_bytes_changed_is_laid_out_or_refused(changes: list[tuple[int, int]]) -> None:
    data = bytearray(LINUX)
    for at, value in changes:
        data[at] = value
    try:
        plan(load_elf(bytes(data), "fuzzed"), 16 * 256)
    except (ToolstackError, LayoutError) as error:
        message = str(error)
    else:
        message = "laid out"
    assert len(message.splitlines()) == 1


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_behind_an_elf_magic_are_refused(tail: bytes) -> None:
    assert refusal(lambda: load_elf(b"\x7fELF\2\1\1" + tail, "noise"))


COMPAT_NOTES = b"".join(
    [
        note(ElfNote.XEN_ELFNOTE_XEN_VERSION, "xen-3.0"),
        note(ElfNote.XEN_ELFNOTE_VIRT_BASE, 0xC000_0000),
        note(ElfNote.XEN_ELFNOTE_ENTRY, 0xC010_0000),
        note(ElfNote.XEN_ELFNOTE_PAE_MODE, "yes"),
    ]
)
COMPAT_SEGMENTS = [(0, 0x10_0000, b"code" * 100, 0x3000)]


def test_a_32_bit_pv_kernel_is_laid_out_on_three_levels_of_tables() -> None:
    image = load_elf(elf(bits=32, note_segment=COMPAT_NOTES, segments=COMPAT_SEGMENTS, entry=0), "narrow")
    assert (image.address_size, image.extended_cr3, image.segments[0].vaddr) == (32, True, 0xC010_0000)
    layout = plan(image, 16 * 256)
    assert {table.level for table in layout.tables} == {1, 2, 3}
    assert [t.start for t in layout.tables if t.level == 2] == [0xC000_0000]


def test_a_32_bit_kernel_in_the_hypervisors_addresses_is_refused() -> None:
    notes = COMPAT_NOTES.replace(struct.pack("<Q", 0xC000_0000), struct.pack("<Q", 0xF580_0000))
    notes = notes.replace(struct.pack("<Q", 0xC010_0000), struct.pack("<Q", 0xF590_0000))
    image = load_elf(elf(bits=32, note_segment=notes, segments=COMPAT_SEGMENTS, entry=0), "narrow")
    with pytest.raises(LayoutError, match="cannot be mapped"):
        plan(image, 16 * 256)


def test_the_last_note_may_end_behind_its_segment_and_the_file() -> None:
    """So it does in Debian's grub-i386-xen.bin, whose PAE note was not seen."""
    notes = COMPAT_NOTES.removesuffix(note(ElfNote.XEN_ELFNOTE_PAE_MODE, "yes"))
    last = struct.pack("<III", 4, 12, int(ElfNote.XEN_ELFNOTE_PAE_MODE)) + b"Xen\0yes\0"
    data = elf(bits=32, note_segment=notes + last, segments=COMPAT_SEGMENTS, entry=0)
    assert load_elf(data[: data.index(last) + len(last)], "cut").address_size == 32


def test_symbols_come_behind_a_kernel_that_asks_for_them() -> None:
    """As a file of their own, with three section headers and zeros between (XSA-194)."""
    sections = {".symtab": (2, b"s" * 40), ".strtab": (3, b"n" * 30)}
    notes = LINUX_NOTES + note(ElfNote.XEN_ELFNOTE_BSD_SYMTAB, "yes")
    data = bytearray(elf(note_segment=notes, sections=sections))
    shoff = FORMS[2].header.unpack(data).e_shoff
    struct.pack_into("<I", data, shoff + 64 + 40, 2)  # the symbols' sh_link
    kernel, symbols = load_elf(bytes(data), "netbsd").segments
    assert symbols.vaddr == kernel.end
    raw = bytes(symbols.data)
    inner = raw[4:]
    assert int.from_bytes(raw[:4], "little") == len(inner)
    header = FORMS[2].header.unpack(inner)
    assert (header.e_shoff, header.e_shnum, header.e_phnum) == (64, 3, 0)
    none, symtab, strtab = (FORMS[2].section.unpack(inner, 64 * (1 + i)) for i in range(3))
    assert (none.sh_type, symtab.sh_link) == (0, 2)
    assert inner[symtab.sh_offset :][: symtab.sh_size] == b"s" * 40
    assert inner[strtab.sh_offset :][: strtab.sh_size] == b"n" * 30
    assert not any(inner[64 + 3 * 64 : symtab.sh_offset])
