"""What a kernel is that cannot run here: 32-bit ELF files and multiboot kernels, looked at only to say so.

    ELF32    header   e_machine u16 @18, e_phoff u32 @28, e_shoff u32 @32, e_phentsize u16 @42, e_phnum u16 @44,
                      e_shentsize u16 @46, e_shnum u16 @48
             segment  p_type u32 @0, p_offset u32 @4, p_filesz u32 @16
             section  sh_type u32 @4, sh_offset u32 @16, sh_size u32 @20
Whatever does not fit together is passed over. Source: System V ABI, "Object Files"; the Multiboot specifications.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import islice
from typing import Final

from domains.dom0.toolstack.builder.notes import XenNotes, enter, notes_in
from hypervisor.public.elfnote import ElfNote

ONLY_64: Final = "only x86-64 PV and PVH kernels run here"
EM_386: Final = 3
PT_NOTE: Final = 4
SHT_NOTE: Final = 7
MAX_HEADERS: Final = 256
MAX_NOTES: Final = 256
MULTIBOOT: Final = ((0x1BADB002, 8192, "multiboot"), (0xE85250D6, 32768, "multiboot2"))
"""(magic, in how many bytes from the beginning it must lie, name)"""


def what_it_is(data: bytes) -> str:
    """What the 32-bit ELF file `data` is, in a few words."""
    notes = notes_of(data)
    if len(data) >= 20 and struct.unpack_from("<H", data, 18)[0] != EM_386:
        return "a 32-bit file, not for x86"
    if ElfNote.XEN_ELFNOTE_PHYS32_ENTRY in notes.numbers:
        return "an HVM or PVH kernel, which starts in 32-bit mode without paging"
    if notes or b"XEN_VER=xen-" in data:
        pae = notes.texts.get(ElfNote.XEN_ELFNOTE_PAE_MODE, "yes")
        return "a 32-bit PV kernel without PAE" if pae == "no" else "a 32-bit PV kernel (PAE)"
    return multiboot_kind(data) or "a 32-bit program without Xen notes"


def multiboot_kind(data: bytes) -> str | None:
    """Which multiboot header the file has; None if it has none."""
    for magic, within, name in MULTIBOOT:
        at = data.find(struct.pack("<I", magic), 0, within)
        if at >= 0 and at % 4 == 0:
            return f"a {name} kernel, made for bare hardware or HVM"
    return None


def notes_of(data: bytes) -> XenNotes:
    """The Xen notes of a 32-bit ELF file."""
    notes = XenNotes()
    for offset, size in places(data):
        for name, kind, descriptor in islice(notes_in(memoryview(data)[offset : offset + size]), MAX_NOTES):
            if name == b"Xen":
                enter(notes, kind, bytes(descriptor))
    return notes


def places(data: bytes) -> Iterator[tuple[int, int]]:
    """(offset, size) of the segments and sections that hold notes."""
    if len(data) < 52:
        return
    segments, sections = struct.unpack_from("<II", data, 28)
    segment_size, nr_segments, section_size, nr_sections = struct.unpack_from("<4H", data, 42)
    for n in range(min(nr_segments, MAX_HEADERS)):
        at = segments + n * segment_size
        if at + 20 <= len(data) and struct.unpack_from("<I", data, at)[0] == PT_NOTE:
            offset, size = struct.unpack_from("<I8xI", data, at + 4)
            yield offset, size
    for n in range(min(nr_sections, MAX_HEADERS)):
        at = sections + n * section_size
        if at + 24 <= len(data) and struct.unpack_from("<I", data, at + 4)[0] == SHT_NOTE:
            offset, size = struct.unpack_from("<II", data, at + 16)
            yield offset, size
