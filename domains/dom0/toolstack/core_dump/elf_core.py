"""The bytes of a core dump around the domain's pages, in the order in which libxenguest writes them.

    ELF header | section headers | .note.Xen | .xen_prstatus | .xen_shared_info | padding to a page
    .xen_pages: one page each                                                                       written by dump.py
    .xen_p2m (PV: pfn and machine frame) or .xen_pfn (PVH: pfn), as many entries as pages | .shstrtab

There are no program headers: `crash` reads the sections, gdb does not.

Source: Xen docs/misc/dump-core-format.txt, tools/libs/guest/xg_core.c.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from hypervisor.public.arch_x86.xen import vcpu_guest_context
from hypervisor.public.types import PAGE_SIZE

XC_CORE_MAGIC: Final = 0xF00FEBED
XC_CORE_MAGIC_HVM: Final = 0xF00FEBEE
XEN_ELFNOTE_DUMPCORE_NONE: Final = 0x2000000
XEN_ELFNOTE_DUMPCORE_HEADER: Final = 0x2000001
XEN_ELFNOTE_DUMPCORE_XEN_VERSION: Final = 0x2000002
XEN_ELFNOTE_DUMPCORE_FORMAT_VERSION: Final = 0x2000003
FORMAT_VERSION: Final = 1
"""Major version 0 in the upper half, minor version 1."""

ET_CORE, EM_X86_64, EV_CURRENT = 4, 62, 1
SHT_NULL, SHT_PROGBITS, SHT_STRTAB, SHT_NOTE = 0, 1, 3, 7
EHDR: Final = struct.Struct("<16sHHIQQQIHHHHHH")
SHDR: Final = struct.Struct("<IIQQQQIIQQ")
IDENT: Final = bytes((0x7F, *b"ELF", 2, 1, EV_CURRENT, 0)).ljust(16, b"\0")
"""ELFCLASS64, little-endian, System V."""


class About(NamedTuple):
    """What is known before the pages are: `contexts`: a vcpu_guest_context for each vCPU, `shared_info`: that page, or nothing;
    `xen_version`: the descriptor of that note.
    """

    translated: bool
    contexts: list[bytes]
    shared_info: bytes
    xen_version: bytes


class Section(NamedTuple):
    """One section; `size` in bytes."""

    name: str
    type: int
    size: int
    align: int
    entry: int


class Core(NamedTuple):
    """What comes before the pages, the frames in the order of their pages, and what comes after them."""

    before: bytes
    frames: npt.NDArray[np.uint64]
    after: bytes


def core_of(about: About, pfns: npt.NDArray[np.uint64], mfns: npt.NDArray[np.uint64]) -> Core:
    """The file around the pages of these numbers, in whatever order; a translated domain's frames are named by `pfns`, others'
    by `mfns`. It takes a while where there are many.
    """
    order = np.argsort(pfns, kind="stable")
    pfns, mfns, count = pfns[order], mfns[order], len(pfns)
    notes = notes_of(about, count)
    status = b"".join(context.ljust(vcpu_guest_context.sizeof, b"\0") for context in about.contexts)
    numbers = (pfns if about.translated else np.stack((pfns, mfns), axis=1)).astype("<u8").tobytes()
    head = [
        Section(".note.Xen", SHT_NOTE, len(notes), 0, 0),
        Section(".xen_prstatus", SHT_PROGBITS, len(status), 16, vcpu_guest_context.sizeof),
    ]
    if about.shared_info:
        head.append(Section(".xen_shared_info", SHT_PROGBITS, PAGE_SIZE, 8, PAGE_SIZE))
    tail = [
        Section(".xen_pages", SHT_PROGBITS, count * PAGE_SIZE, PAGE_SIZE, PAGE_SIZE),
        Section(".xen_pfn" if about.translated else ".xen_p2m", SHT_PROGBITS, len(numbers), 8, 8 if about.translated else 16),
    ]  # fmt: skip
    names = b"\0" + b"".join(
        name.encode() + b"\0" for name in (".shstrtab", *(one.name for one in head + tail))
    )
    headers = headers_of(head, tail, names)
    before = headers + notes + status + about.shared_info
    before = before.ljust(-(-len(before) // PAGE_SIZE) * PAGE_SIZE, b"\0")
    return Core(before, pfns if about.translated else mfns, numbers + names)


def headers_of(head: list[Section], tail: list[Section], names: bytes) -> bytes:
    """The ELF header and the section headers: none, the names', and those of `head` and of `tail`, which begins at a page."""
    number = 2 + len(head) + len(tail)
    offset = EHDR.size + number * SHDR.size
    rows = []
    for one in head:
        rows.append(header_of(one, names, offset))
        offset += one.size
    offset = -(-offset // PAGE_SIZE) * PAGE_SIZE
    for one in tail:
        rows.append(header_of(one, names, offset))
        offset += one.size
    strings = header_of(Section(".shstrtab", SHT_STRTAB, len(names), 0, 0), names, offset)
    ehdr = EHDR.pack(
        IDENT, ET_CORE, EM_X86_64, EV_CURRENT, 0, 0, EHDR.size, 0, EHDR.size, 56, 0, SHDR.size, number, 1
    )
    return b"".join((ehdr, bytes(SHDR.size), strings, *rows))


def header_of(one: Section, names: bytes, offset: int) -> bytes:
    """A section's header."""
    name = names.index(b"\0" + one.name.encode() + b"\0") + 1
    return SHDR.pack(name, one.type, 0, 0, offset, one.size, 0, 0, one.align, one.entry)


def notes_of(about: About, pages: int) -> bytes:
    """The section of notes."""
    magic = XC_CORE_MAGIC_HVM if about.translated else XC_CORE_MAGIC
    header = struct.pack("<4Q", magic, len(about.contexts), pages, PAGE_SIZE)
    return b"".join(
        (
            note(XEN_ELFNOTE_DUMPCORE_NONE, b""),
            note(XEN_ELFNOTE_DUMPCORE_HEADER, header),
            note(XEN_ELFNOTE_DUMPCORE_XEN_VERSION, about.xen_version),
            note(XEN_ELFNOTE_DUMPCORE_FORMAT_VERSION, struct.pack("<Q", FORMAT_VERSION)),
        )
    )


def note(kind: int, content: bytes) -> bytes:
    """A note of Xen's; the content is a whole number of words."""
    return struct.pack("<III4s", 4, len(content), kind, b"Xen\0") + content
