"""A kernel's symbols behind its end, where it asks for them by XEN_ELFNOTE_BSD_SYMTAB: NetBSD's debugger reads them there.

    end of the kernel, aligned
      +0    bytes that follow, u32
      +4    ELF header         of the file, with the section headers at +64 and no segments
      +68   section headers    none, the symbols, their names: with the offsets that they have here, from the ELF header on
      +260  symbols, then their names, each aligned

Whatever is between is zero (XSA-194). A file without a symbol table gets nothing. Source: Xen common/libelf/libelf-loader.c.
"""

from __future__ import annotations

from typing import Any, Final

from domains.dom0.toolstack.builder.elf_file import ElfFile
from hypervisor.builder.pv_image import Segment
from hypervisor.public.types import VAddr

SHT_SYMTAB: Final = 2
SHT_STRTAB: Final = 3
EV_CURRENT: Final = 1
SIZE: Final = 4
"""Bytes of the first number."""
SECTIONS_AT: Final = 64
"""From the ELF header: as in a 64-bit file, in either width."""
HEADERS: Final = SIZE + SECTIONS_AT + 3 * 64
"""Room for the headers of either width."""


def symbols_behind(elf: ElfFile, end: int) -> Segment | None:
    """What comes behind a kernel that ends at virtual address `end`. Raises ToolstackError."""
    sections = elf.sections()
    symbols = next((section for section in sections if section.sh_type == SHT_SYMTAB), None)
    if symbols is None or symbols.sh_link >= len(sections) or sections[symbols.sh_link].sh_type != SHT_STRTAB:
        return None
    names = sections[symbols.sh_link]
    symbols_data = elf.bytes_at(symbols.sh_offset, symbols.sh_size, "symbols")
    names_data = elf.bytes_at(names.sh_offset, names.sh_size, "symbols' names")
    word = 4 if elf.is_32bit else 8
    start = aligned(end, word)
    symbols_at = aligned(start + HEADERS, word) - start
    names_at = aligned(symbols_at + symbols.sh_size, word)
    raw = bytearray(names_at + names.sh_size)
    raw[:SIZE] = (len(raw) - SIZE).to_bytes(SIZE, "little")
    put(raw, SIZE, header_of(elf).pack())
    at = SIZE + SECTIONS_AT + symbols.sizeof
    put(raw, at, replaced(symbols, sh_offset=symbols_at - SIZE, sh_link=2).pack())
    put(raw, at + symbols.sizeof, replaced(names, sh_offset=names_at - SIZE).pack())
    put(raw, symbols_at, symbols_data)
    put(raw, names_at, names_data)
    return Segment(VAddr(start), bytes(raw), len(raw))


def header_of(elf: ElfFile) -> Any:
    """The file's header, for three sections and no segment."""
    header = elf.header
    section = elf.sections()[0]
    return replaced(
        header,
        e_version=EV_CURRENT,
        e_ehsize=header.sizeof,
        e_shoff=SECTIONS_AT,
        e_shentsize=section.sizeof,
        e_shnum=3,
        **dict.fromkeys(("e_phoff", "e_phentsize", "e_phnum", "e_shstrndx"), 0),
    )


def replaced(record: Any, **changed: int) -> Any:
    """A structure with some fields changed."""
    return type(record)(**(vars(record) | changed))


def put(raw: bytearray, at: int, data: bytes | memoryview) -> None:
    """Overwrite some bytes."""
    raw[at : at + len(data)] = data


def aligned(address: int, word: int) -> int:
    """The next address that a word may have."""
    return (address + word - 1) & -word
