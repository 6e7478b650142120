"""Makes ELF files as linkers do, so that each property of the loader can be put to the test by itself."""

from __future__ import annotations

import struct

from domains.dom0.toolstack.builder.elf_file import FORMS, Elf64_Shdr
from hypervisor.public.elfnote import ElfNote

BASE = 0xFFFF_FFFF_8000_0000
PT_LOAD, PT_NOTE, SHT_NOTE, SHT_PROGBITS = 1, 4, 7, 1


def note(kind: int, value: int | str, name: bytes = b"Xen\0") -> bytes:
    """One note; numbers take 8 bytes."""
    descriptor = value.encode() + b"\0" if isinstance(value, str) else struct.pack("<Q", value)
    padding = bytes(-len(descriptor) % 4)
    return (
        struct.pack("<III", len(name), len(descriptor), kind)
        + name
        + bytes(-len(name) % 4)
        + descriptor
        + padding
    )


LINUX_NOTES = b"".join(
    [
        note(ElfNote.XEN_ELFNOTE_GUEST_OS, "linux"),
        note(ElfNote.XEN_ELFNOTE_XEN_VERSION, "xen-3.0"),
        note(ElfNote.XEN_ELFNOTE_VIRT_BASE, BASE),
        note(ElfNote.XEN_ELFNOTE_INIT_P2M, 0x80_0000_0000),
        note(ElfNote.XEN_ELFNOTE_ENTRY, BASE + 0x20_0180),
        note(ElfNote.XEN_ELFNOTE_HYPERCALL_PAGE, BASE + 0x20_1000),
        note(ElfNote.XEN_ELFNOTE_MOD_START_PFN, 1),
        note(ElfNote.XEN_ELFNOTE_FEATURES, "!writable_page_tables|pae_pgdir_above_4gb"),
    ]
)
OLD_TEXT = b"GUEST_OS=mine,XEN_VER=xen-3.0,VIRT_BASE=0xffffffff80000000,HYPERCALL_PAGE=0x201,LOADER=generic\0"


def add_sections(body: bytearray, body_at: int, sections: dict[str, tuple[int, bytes]]) -> list[Elf64_Shdr]:
    """Append the sections and the table of their names to `body`, which the file has at `body_at`; the headers."""
    names = b"\0"
    table = [Elf64_Shdr()]
    for name, (kind, data) in sections.items():
        table.append(
            Elf64_Shdr(sh_name=len(names), sh_type=kind, sh_offset=body_at + len(body), sh_size=len(data))
        )
        names += name.encode() + b"\0"
        body += data
    table.append(Elf64_Shdr(sh_offset=body_at + len(body), sh_size=len(names)))
    body += names
    return table


def elf(
    *,
    segments: list[tuple[int, int, bytes, int]] | None = None,
    note_segment: bytes = b"",
    sections: dict[str, tuple[int, bytes]] | None = None,
    entry: int = BASE + 0x20_0000,
    bits: int = 64,
    **header: int | bytes,
) -> bytes:
    """A file with PT_LOAD segments (vaddr, paddr, data, memsz), a PT_NOTE segment and (with 64 bits) named sections (type,
    data).
    """
    form = FORMS[bits // 32]
    if segments is None:
        segments = [(BASE + 0x20_0000, 0x20_0000, b"code" * 100, 0x3000)]
    rows = [(PT_LOAD, v, p, data, size) for v, p, data, size in segments]
    if note_segment:
        rows.append((PT_NOTE, 0, 0, note_segment, len(note_segment)))
    body = bytearray()
    body_at = form.header.sizeof + len(rows) * form.segment.sizeof
    program = b""
    for kind, vaddr, paddr, data, size in rows:
        offset = body_at + len(body)
        place = {"p_offset": offset, "p_vaddr": vaddr, "p_paddr": paddr}
        program += form.segment(p_type=kind, p_filesz=len(data), p_memsz=size, **place).pack()
        body += data
    table = add_sections(body, body_at, sections or {})
    fields: dict[str, int | bytes] = {
        "e_ident": b"\x7fELF" + bytes((bits // 32, 1, 1)) + bytes(9),
        "e_type": 2,
        "e_machine": form.machines[0],
        "e_entry": entry,
        "e_phoff": form.header.sizeof,
        "e_phentsize": form.segment.sizeof,
        "e_phnum": len(rows),
        "e_shoff": body_at + len(body) if sections else 0,
        "e_shentsize": form.section.sizeof,
        "e_shnum": len(table),
        "e_shstrndx": len(table) - 1,
    }
    head = form.header(**(fields | header)).pack()
    return head + program + bytes(body) + b"".join(row.pack() for row in table)


PVH_LINUX = b"".join(
    [
        note(ElfNote.XEN_ELFNOTE_GUEST_OS, "linux"),
        note(ElfNote.XEN_ELFNOTE_XEN_VERSION, "xen-3.0"),
        note(ElfNote.XEN_ELFNOTE_HYPERCALL_PAGE, BASE + 0x20_1000),
        note(ElfNote.XEN_ELFNOTE_PHYS32_ENTRY, 0x100_0000),
    ]
)
"""Linux with CONFIG_XEN_PVHVM, without CONFIG_XEN_PV."""


def elf32(notes: bytes, *, in_section: bool = False, e_machine: int = 3, after: bytes = b"") -> bytes:
    """A 32-bit ELF file with Xen notes in a segment, or in a section; `after` follows them."""
    header, row = 52, 40 if in_section else 32
    at = header + row
    table = (0, header) if in_section else (header, 0)
    counts = (32, 0, 40, 1) if in_section else (32, 1, 40, 0)
    ident = b"\x7fELF\1\1\1".ljust(16, b"\0")
    out = ident + struct.pack("<HHIIIIIH4HH", 2, e_machine, 1, 0x100000, *table, 0, header, *counts, 0)
    if in_section:
        out += struct.pack("<10I", 0, SHT_NOTE, 0, 0, at, len(notes), 0, 0, 4, 0)
    else:
        out += struct.pack("<8I", PT_NOTE, at, 0, 0, len(notes), len(notes), 0, 4)
    return out + notes + after
