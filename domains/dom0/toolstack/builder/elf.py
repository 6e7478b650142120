"""Kernels in ELF files: what is loaded where, and what the Xen notes ask for.

Where the notes lie differs between kernels; they are looked for in this order, as Xen's libelf does:
    1. PT_NOTE segments with notes named "Xen"                    Linux, GRUB, unikernels
    2. SHT_NOTE sections with such notes                          Mini-OS and others whose linker made no
    3. a section __xen_guest, a text KEY=VALUE,KEY=VALUE          kernels before the notes

A file is data from a stranger: every offset and count is checked against the file's length before it is
used, and whatever is wrong ends in a ToolstackError of one line. Source: System V ABI, "Object Files"; Xen
public/elfnote.h.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Final

from domains.dom0.toolstack.builder.notes import TEXTS, XenNotes, enter, notes_in
from domains.dom0.toolstack.builder.refusals import ONLY_64, multiboot_kind, what_it_is
from domains.dom0.toolstack.errors import ToolstackError
from hypervisor.builder.pv_image import PvImage, Segment
from hypervisor.public.elfnote import ElfNote
from hypervisor.public.layout import Struct, u16, u32, u64
from hypervisor.public.types import U64, VAddr

ELFCLASS64: Final = 2
ELFDATA2LSB: Final = 1
EM_X86_64: Final = 62
ET_EXEC: Final = 2
ET_DYN: Final = 3
PT_LOAD: Final = 1
PT_NOTE: Final = 4
SHT_NOTE: Final = 7

MAX_HEADERS: Final = 4096
"""Program or section headers of one file."""
MAX_NOTES: Final = 4096


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


class ElfFile:
    """Checked access to one file's bytes. Every method raises ToolstackError for what does not fit
    together.
    """

    def __init__(self, data: bytes, name: str) -> None:
        self._data = memoryview(data)
        self._name = name
        self.header = Elf64_Ehdr.unpack(self.bytes_at(0, Elf64_Ehdr.sizeof, "header"))
        ident = self.header.e_ident
        if ident[4] != ELFCLASS64:
            raise self.refused(f"{what_it_is(data)}; {ONLY_64}")
        if ident[5] != ELFDATA2LSB or self.header.e_machine != EM_X86_64:
            raise self.refused("not for x86-64")
        if self.header.e_type not in (ET_EXEC, ET_DYN):
            raise self.refused("not an executable")

    def segments(self) -> list[Elf64_Phdr]:
        """The program headers."""
        header = self.header
        rows = self._rows(header.e_phoff, header.e_phnum, header.e_phentsize, Elf64_Phdr, "program headers")
        return [Elf64_Phdr.unpack(row) for row in rows]

    def sections(self) -> list[Elf64_Shdr]:
        """The section headers; none if the file was stripped of them."""
        header = self.header
        if header.e_shoff == 0:
            return []
        rows = self._rows(header.e_shoff, header.e_shnum, header.e_shentsize, Elf64_Shdr, "section headers")
        return [Elf64_Shdr.unpack(row) for row in rows]

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


PV_NOTES: Final = frozenset(
    {ElfNote.XEN_ELFNOTE_ENTRY, ElfNote.XEN_ELFNOTE_VIRT_BASE, ElfNote.XEN_ELFNOTE_PADDR_OFFSET}
)
"""A kernel that can be a PVH guest, and has none of these, cannot be a PV guest."""


def load_elf(data: bytes, name: str) -> PvImage:
    """The image in an x86-64 ELF file with Xen notes; `name` is for messages. Raises ToolstackError."""
    elf = ElfFile(data, name)
    notes = find_notes(elf)
    if not notes and (multiboot := multiboot_kind(data)) is not None:
        raise elf.refused(f"{multiboot}; {ONLY_64}")
    if not notes:
        raise elf.refused("it has no Xen ELF notes, so it is not a Xen PV kernel")
    if ElfNote.XEN_ELFNOTE_PHYS32_ENTRY in notes.numbers and not PV_NOTES & notes.numbers.keys():
        raise elf.refused('a PVH kernel, which has no entry point for PV; type = "pvh" runs it')
    check_notes(elf, notes)
    base = notes.numbers.get(ElfNote.XEN_ELFNOTE_VIRT_BASE, 0)
    physical = notes.numbers.get(ElfNote.XEN_ELFNOTE_PADDR_OFFSET, base if notes.old_section else 0)
    segments = [
        Segment(
            VAddr((header.p_paddr + base - physical) & U64),
            elf.bytes_at(header.p_offset, header.p_filesz, "segments"),
            header.p_memsz,
        )
        for header in elf.segments()
        if header.p_type == PT_LOAD and header.p_memsz
    ]
    check_apart(elf, segments)
    entry = notes.numbers.get(ElfNote.XEN_ELFNOTE_ENTRY, elf.header.e_entry)
    if not any(segment.vaddr <= entry < segment.end for segment in segments):
        raise elf.refused(f"its entry point {entry:#x} lies in none of its segments")
    return PvImage(
        segments,
        VAddr(base),
        VAddr(entry),
        p2m_base=address(notes, ElfNote.XEN_ELFNOTE_INIT_P2M),
        unmapped_initrd=bool(notes.numbers.get(ElfNote.XEN_ELFNOTE_MOD_START_PFN, 0)),
        hypercall_page=address(notes, ElfNote.XEN_ELFNOTE_HYPERCALL_PAGE),
    )


def load_pvh_elf(data: bytes, name: str) -> PvImage:
    """The image in an x86-64 ELF file that starts in 32-bit mode without paging: its addresses are physical, its base is 0.

    Raises ToolstackError.
    """
    elf = ElfFile(data, name)
    entry = find_notes(elf).numbers.get(ElfNote.XEN_ELFNOTE_PHYS32_ENTRY)
    if entry is None:
        raise elf.refused('it has no entry point for PVH (XEN_ELFNOTE_PHYS32_ENTRY); type = "pv" may run it')
    segments = [
        Segment(
            VAddr(header.p_paddr),
            elf.bytes_at(header.p_offset, header.p_filesz, "segments"),
            header.p_memsz,
        )
        for header in elf.segments()
        if header.p_type == PT_LOAD and header.p_memsz
    ]
    check_apart(elf, segments)
    return PvImage(segments, VAddr(0), VAddr(entry))


def check_apart(elf: ElfFile, segments: list[Segment]) -> None:
    """Refuse segments that share an address: which one wins would depend on their order in the file."""
    for before, after in pairwise(sorted(segments, key=lambda segment: segment.vaddr)):
        if after.vaddr < before.end:
            raise elf.refused(f"its segments at {before.vaddr:#x} and {after.vaddr:#x} overlap")


def address(notes: XenNotes, note: ElfNote) -> VAddr | None:
    """The note as a virtual address; None: the kernel has no such note."""
    return VAddr(notes.numbers[note]) if note in notes.numbers else None


def check_notes(elf: ElfFile, notes: XenNotes) -> None:
    """Refuse kernels that were not made for this interface."""
    version = notes.texts.get(ElfNote.XEN_ELFNOTE_XEN_VERSION, "")
    if not version.startswith("xen-3.0"):
        raise elf.refused(f"made for Xen interface {version[:32]!r}, not xen-3.0")
    features = notes.texts.get(ElfNote.XEN_ELFNOTE_FEATURES, "").split("|")
    if "!auto_translated_physmap" in features:
        raise elf.refused("it needs translated memory (auto_translated_physmap), which PV does not have")


def find_notes(elf: ElfFile) -> XenNotes:
    """The Xen notes, wherever they are; empty if there are none."""
    segments = [(h.p_offset, h.p_filesz) for h in elf.segments() if h.p_type == PT_NOTE and h.p_offset]
    notes = collected(elf, segments)
    if not notes:
        notes = collected(elf, [(h.sh_offset, h.sh_size) for h in elf.sections() if h.sh_type == SHT_NOTE])
    if not notes and (text := elf.section_named(b"__xen_guest")) is not None:
        notes = old_notes(elf, bytes(text))
    return notes


def collected(elf: ElfFile, places: list[tuple[int, int]]) -> XenNotes:
    """Xen's notes in these places (offset, size) of the file. ToolstackError: there are too many."""
    notes = XenNotes()
    seen = 0
    for offset, size in places:
        for name, kind, descriptor in notes_in(elf.bytes_at(offset, size, "notes")):
            seen += 1
            if seen > MAX_NOTES:
                raise elf.refused("it has too many notes")
            if name == b"Xen":
                enter(notes, kind, bytes(descriptor))
    return notes


OLD_KEYS: Final = {
    "VIRT_BASE": ElfNote.XEN_ELFNOTE_VIRT_BASE,
    "VIRT_ENTRY": ElfNote.XEN_ELFNOTE_ENTRY,
    "ELF_PADDR_OFFSET": ElfNote.XEN_ELFNOTE_PADDR_OFFSET,
    "HYPERCALL_PAGE": ElfNote.XEN_ELFNOTE_HYPERCALL_PAGE,
    "XEN_VER": ElfNote.XEN_ELFNOTE_XEN_VERSION,
    "GUEST_OS": ElfNote.XEN_ELFNOTE_GUEST_OS,
    "LOADER": ElfNote.XEN_ELFNOTE_LOADER,
    "FEATURES": ElfNote.XEN_ELFNOTE_FEATURES,
}


def old_notes(elf: ElfFile, text: bytes) -> XenNotes:
    """What __xen_guest says; its HYPERCALL_PAGE is a page number counted from VIRT_BASE."""
    notes = XenNotes(old_section=True)
    for item in text.split(b"\0")[0].decode("ascii", "replace").split(","):
        key, _, value = item.partition("=")
        note = OLD_KEYS.get(key)
        if note in TEXTS:
            notes.texts[note] = value
        elif note is not None:
            try:
                notes.numbers[note] = int(value, 0) & U64
            except ValueError:
                raise elf.refused(f"{item[:40]!r} in __xen_guest is no number") from None
    page = notes.numbers.get(ElfNote.XEN_ELFNOTE_HYPERCALL_PAGE)
    if page is not None:
        base = notes.numbers.get(ElfNote.XEN_ELFNOTE_VIRT_BASE, 0)
        notes.numbers[ElfNote.XEN_ELFNOTE_HYPERCALL_PAGE] = base + (page << 12) & U64
    return notes
