"""What a kernel is that cannot run as asked, said in a few words. Source: Xen public/elfnote.h; the Multiboot specifications."""

from __future__ import annotations

import struct
from typing import Final

from domains.dom0.toolstack.builder.notes import XenNotes
from hypervisor.public.elfnote import ElfNote

ONLY_PAE: Final = "32-bit PV kernels run here with PAE alone (XEN_ELFNOTE_PAE_MODE)"
MULTIBOOT: Final = ((0x1BADB002, 8192, "multiboot"), (0xE85250D6, 32768, "multiboot2"))
"""(magic, in how many bytes from the beginning it must lie, name)"""


def without_notes(data: bytes) -> str:
    """What a file without Xen's notes is."""
    multiboot = multiboot_kind(data)
    return "it has no Xen ELF notes" if multiboot is None else f"{multiboot}, without Xen ELF notes"


def pv32_kind(notes: XenNotes) -> str:
    """What a 32-bit kernel with such notes, and no entry point for PVH, is."""
    pae = notes.texts.get(ElfNote.XEN_ELFNOTE_PAE_MODE, "no")
    return "a 32-bit PV kernel without PAE" if pae == "no" else "a 32-bit PV kernel (PAE)"


def multiboot_kind(data: bytes) -> str | None:
    """Which multiboot header the file has; None if it has none."""
    for magic, within, name in MULTIBOOT:
        at = data.find(struct.pack("<I", magic), 0, within)
        if at >= 0 and at % 4 == 0:
            return f"a {name} kernel, made for bare hardware or HVM"
    return None
