"""Checked access to the bytes of an ELF file, of 32 or 64 bits.

A file is data from a stranger: every offset and count is checked against the file's length before it is used, and whatever is
wrong ends in a ToolstackError of one line. Headers of both widths have the same fields. Source: System V ABI, "Object Files".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Final

from domains.dom0.toolstack.errors import ToolstackError
from hypervisor.public.layout import Struct, u16, u32, u64

ELFCLASS32: Final = 1
ELFCLASS64: Final = 2
ELFDATA2LSB: Final = 1
EM_386: Final = 3
EM_X86_64: Final = 62
ET_EXEC: Final = 2
ET_DYN: Final = 3
PT_LOAD: Final = 1
PT_NOTE: Final = 4
SHT_NOTE: Final = 7

MAX_HEADERS: Final = 4096
"""Program or section headers of one file."""


class Elf64_Ehdr(Struct, size=64):
    """The file's header."""

    e_ident: Annotated[bytes, 16]
    e_type: u16
    e_machine: u16
    e_version: u32
    e_entry: u64
    e_phoff: u64
    e_shoff: u64
    e_flags: u32
    e_ehsize: u16
    e_phentsize: u16
    e_phnum: u16
    e_shentsize: u16
    e_shnum: u16
    e_shstrndx: u16


class Elf64_Phdr(Struct, size=56):
    """One segment."""

    p_type: u32
    p_flags: u32
    p_offset: u64
    p_vaddr: u64
    p_paddr: u64
    p_filesz: u64
    p_memsz: u64
    p_align: u64


class Elf64_Shdr(Struct, size=64):
    """One section."""

    sh_name: u32
    sh_type: u32
    sh_flags: u64
    sh_addr: u64
    sh_offset: u64
    sh_size: u64
    sh_link: u32
    sh_info: u32
    sh_addralign: u64
    sh_entsize: u64


class Elf32_Ehdr(Struct, size=52):
    """The header of a 32-bit file."""

    e_ident: Annotated[bytes, 16]
    e_type: u16
    e_machine: u16
    e_version: u32
    e_entry: u32
    e_phoff: u32
    e_shoff: u32
    e_flags: u32
    e_ehsize: u16
    e_phentsize: u16
    e_phnum: u16
    e_shentsize: u16
    e_shnum: u16
    e_shstrndx: u16


class Elf32_Phdr(Struct, size=32):
    """One segment of a 32-bit file."""

    p_type: u32
    p_offset: u32
    p_vaddr: u32
    p_paddr: u32
    p_filesz: u32
    p_memsz: u32
    p_flags: u32
    p_align: u32


class Elf32_Shdr(Struct, size=40):
    """One section of a 32-bit file."""

    sh_name: u32
    sh_type: u32
    sh_flags: u32
    sh_addr: u32
    sh_offset: u32
    sh_size: u32
    sh_link: u32
    sh_info: u32
    sh_addralign: u32
    sh_entsize: u32


@dataclass(frozen=True)
class Form:
    """What files of one width are made of. 64-bit code comes in 32-bit files, too: a PVH kernel begins with 32-bit code."""

    header: type[Elf32_Ehdr] | type[Elf64_Ehdr]
    segment: type[Elf32_Phdr] | type[Elf64_Phdr]
    section: type[Elf32_Shdr] | type[Elf64_Shdr]
    machines: tuple[int, ...]
    name: str


FORMS: Final = {
    ELFCLASS32: Form(Elf32_Ehdr, Elf32_Phdr, Elf32_Shdr, (EM_386, EM_X86_64), "x86"),
    ELFCLASS64: Form(Elf64_Ehdr, Elf64_Phdr, Elf64_Shdr, (EM_X86_64,), "x86-64"),
}


class ElfFile:
    """Checked access to one file's bytes. Every method raises ToolstackError for what does not fit
    together.
    """

    def __init__(self, data: bytes, name: str) -> None:
        self._data = memoryview(data)
        self._name = name
        width, order = self.bytes_at(4, 2, "header")
        if width not in FORMS:
            raise self.refused("an ELF file of neither 32 nor 64 bits")
        self.is_32bit = width == ELFCLASS32
        self._form = form = FORMS[width]
        self.header = form.header.unpack(self.bytes_at(0, form.header.sizeof, "header"))
        if order != ELFDATA2LSB or self.header.e_machine not in form.machines:
            raise self.refused(f"a {32 if self.is_32bit else 64}-bit file, not for {form.name}")
        if self.header.e_type not in (ET_EXEC, ET_DYN):
            raise self.refused("not an executable")

    def segments(self) -> list[Any]:
        """The program headers: Elf32_Phdr or Elf64_Phdr."""
        header, kind = self.header, self._form.segment
        rows = self._rows(header.e_phoff, header.e_phnum, header.e_phentsize, kind, "program headers")
        return [kind.unpack(row) for row in rows]

    def sections(self) -> list[Any]:
        """The section headers, Elf32_Shdr or Elf64_Shdr; none if the file was stripped of them."""
        header, kind = self.header, self._form.section
        if header.e_shoff == 0:
            return []
        rows = self._rows(header.e_shoff, header.e_shnum, header.e_shentsize, kind, "section headers")
        return [kind.unpack(row) for row in rows]

    def section_named(self, name: bytes) -> memoryview | None:
        """The bytes of a section, or None if there is none of that name."""
        sections = self.sections()
        if self.header.e_shstrndx >= len(sections):
            return None
        names = sections[self.header.e_shstrndx]
        strings = bytes(self.bytes_at(names.sh_offset, names.sh_size, "section names"))
        for section in sections:
            if strings.startswith(name + b"\0", section.sh_name):
                return self.bytes_at(section.sh_offset, section.sh_size, name.decode())
        return None

    def bytes_at(self, offset: int, size: int, what: str) -> memoryview:
        """A part of the file. ToolstackError, which names `what`: the file is shorter."""
        if offset + size > len(self._data):
            raise self.refused(f"it has its {what} beyond the end of the file")
        return self._data[offset : offset + size]

    def bytes_from(self, offset: int) -> memoryview:
        """All of the file from there on."""
        return self._data[offset:]

    def refused(self, reason: str) -> ToolstackError:
        """The error to raise: it names the kernel."""
        return ToolstackError(f"kernel {self._name}: {reason}")

    def _rows(
        self, offset: int, count: int, size: int, kind: type[Struct], what: str
    ) -> Iterator[memoryview]:
        if count > MAX_HEADERS:
            raise self.refused(f"{count} {what}")
        if count and size < kind.sizeof:
            raise self.refused(f"its {what} are {size} bytes long")
        table = self.bytes_at(offset, count * size, what)
        return (table[i * size : i * size + kind.sizeof] for i in range(count))
