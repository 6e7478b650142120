"""Kernels in ELF files: what is loaded where, and what the Xen notes ask for.

Where the notes lie differs between kernels; they are looked for in this order, as Xen's libelf does:
    1. PT_NOTE segments with notes named "Xen"                    Linux, GRUB, unikernels
    2. SHT_NOTE sections with such notes                          Mini-OS and others whose linker made no
    3. a section __xen_guest, a text KEY=VALUE,KEY=VALUE          kernels before the notes

Whatever is wrong with a file (elf_file.py) ends in a ToolstackError of one line. Source: Xen public/elfnote.h.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from domains.dom0.toolstack.builder.bsd_symtab import symbols_behind
from domains.dom0.toolstack.builder.elf_file import PT_LOAD, PT_NOTE, SHT_NOTE, ElfFile
from domains.dom0.toolstack.builder.notes import TEXTS, XenNotes, enter, notes_in
from domains.dom0.toolstack.builder.refusals import ONLY_PAE, pv32_kind, without_notes
from hypervisor.builder.pv_image import PvImage, Segment
from hypervisor.public.elfnote import ElfNote
from hypervisor.public.types import U32, U64, VAddr

MAX_NOTES: Final = 4096


PV_NOTES: Final = frozenset(
    {ElfNote.XEN_ELFNOTE_ENTRY, ElfNote.XEN_ELFNOTE_VIRT_BASE, ElfNote.XEN_ELFNOTE_PADDR_OFFSET}
)
"""A kernel that can be a PVH guest, and has none of these, cannot be a PV guest."""


def load_elf(data: bytes, name: str) -> PvImage:
    """The image in an ELF file of either width with Xen notes; `name` is for messages. Raises ToolstackError."""
    elf = ElfFile(data, name)
    notes = find_notes(elf)
    if not notes:
        raise elf.refused(f"{without_notes(data)}, so it is not a Xen PV kernel")
    if ElfNote.XEN_ELFNOTE_PHYS32_ENTRY in notes.numbers and not PV_NOTES & notes.numbers.keys():
        raise elf.refused('a PVH kernel, which has no entry point for PV; type = "pvh" runs it')
    if elf.is_32bit:
        check_pae(elf, notes)
    check_notes(elf, notes)
    limit = U32 if elf.is_32bit else U64
    base = notes.numbers.get(ElfNote.XEN_ELFNOTE_VIRT_BASE, 0)
    physical = notes.numbers.get(ElfNote.XEN_ELFNOTE_PADDR_OFFSET, base if notes.old_section else 0)
    segments = [
        Segment(
            VAddr((header.p_paddr + base - physical) & limit),
            elf.bytes_at(header.p_offset, header.p_filesz, "segments"),
            header.p_memsz,
        )
        for header in elf.segments()
        if header.p_type == PT_LOAD and header.p_memsz
    ]
    check_apart(elf, segments)
    if segments and notes.texts.get(ElfNote.XEN_ELFNOTE_BSD_SYMTAB) == "yes":
        symbols = symbols_behind(elf, max(segment.end for segment in segments))
        segments += [symbols] if symbols is not None else []
    entry = notes.numbers.get(ElfNote.XEN_ELFNOTE_ENTRY, elf.header.e_entry)
    if not any(segment.vaddr <= entry < segment.end for segment in segments):
        raise elf.refused(f"its entry point {entry:#x} lies in none of its segments")
    return PvImage(
        segments,
        VAddr(base),
        VAddr(entry),
        p2m_base=None if elf.is_32bit else address(notes, ElfNote.XEN_ELFNOTE_INIT_P2M),
        unmapped_initrd=bool(notes.numbers.get(ElfNote.XEN_ELFNOTE_MOD_START_PFN, 0)),
        hypercall_page=address(notes, ElfNote.XEN_ELFNOTE_HYPERCALL_PAGE),
        address_size=32 if elf.is_32bit else 64,
        extended_cr3=takes_extended_cr3(notes),
    )


def takes_extended_cr3(notes: XenNotes) -> bool:
    """Whether a 32-bit kernel knows page directories above 4 GiB, which "yes" means in an ELF note, and not in __xen_guest."""
    pae = notes.texts.get(ElfNote.XEN_ELFNOTE_PAE_MODE, "")
    return "[extended-cr3]" in pae if notes.old_section else pae == "yes" or "bimodal" in pae


def check_pae(elf: ElfFile, notes: XenNotes) -> None:
    """Refuse a 32-bit kernel that does not say that it takes page tables of three levels; "bimodal" ones take either."""
    pae = notes.texts.get(ElfNote.XEN_ELFNOTE_PAE_MODE, "")
    if not pae.startswith("yes") and "bimodal" not in pae:
        raise elf.refused(f"{pv32_kind(notes)}; {ONLY_PAE}")


def load_pvh_elf(data: bytes, name: str) -> PvImage:
    """The image in an ELF file of either width that starts in 32-bit mode without paging: its addresses are physical, its base
    is 0. Raises ToolstackError.
    """
    elf = ElfFile(data, name)
    notes = find_notes(elf)
    if not notes:
        raise elf.refused(f"{without_notes(data)}, so it is not a PVH kernel")
    entry = notes.numbers.get(ElfNote.XEN_ELFNOTE_PHYS32_ENTRY)
    if entry is None:
        kind = pv32_kind(notes) if elf.is_32bit else "a 64-bit PV kernel"
        raise elf.refused(f"{kind}, which has no entry point for PVH (XEN_ELFNOTE_PHYS32_ENTRY)")
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
        elf.bytes_at(offset, size, "notes")
        for name, kind, descriptor in notes_in(elf.bytes_from(offset), size):
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
    "PAE": ElfNote.XEN_ELFNOTE_PAE_MODE,
    "BSD_SYMTAB": ElfNote.XEN_ELFNOTE_BSD_SYMTAB,
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
