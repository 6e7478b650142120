"""Xen's notes in a kernel, as text and numbers: what an ELF note looks like, and which ones say something.

namesz u32 | descsz u32 | type u32 | name, filled up to 4 bytes | descriptor, filled up to 4 bytes

Source: System V ABI, "Object Files"; Xen public/elfnote.h.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from hypervisor.public.elfnote import ElfNote
from hypervisor.public.layout import Struct, u32

MAX_NOTE_NAME: Final = 16
"""Bytes of a note's name that are looked at."""


class Elf_Nhdr(Struct, size=12):
    """The head of a note; name and descriptor follow, each filled up to a multiple of 4 bytes."""

    n_namesz: u32
    n_descsz: u32
    n_type: u32


@dataclass
class XenNotes:
    """What a kernel asks for; None where it says nothing."""

    numbers: dict[ElfNote, int] = field(default_factory=dict)
    texts: dict[ElfNote, str] = field(default_factory=dict)
    old_section: bool = False
    """They come from __xen_guest, in which physical addresses count from VIRT_BASE."""

    def __bool__(self) -> bool:
        return bool(self.numbers or self.texts)


def notes_in(data: memoryview, size: int) -> Iterator[tuple[bytes, int, memoryview]]:
    """(name, type, descriptor) of each note that begins in the first `size` bytes.

    As for Xen's libelf the last one may end behind them, and behind the end of `data`: in Debian's i386 PV GRUB it does. Then its
    descriptor is what there is of it.
    """
    at = 0
    while at + Elf_Nhdr.sizeof <= size:
        head = Elf_Nhdr.unpack(data, at)
        name_at = at + Elf_Nhdr.sizeof
        descriptor_at = name_at + (head.n_namesz + 3 & ~3)
        if descriptor_at > len(data):
            return
        end = descriptor_at + head.n_descsz
        name = bytes(data[name_at : name_at + min(head.n_namesz, MAX_NOTE_NAME)]).rstrip(b"\0")
        yield name, head.n_type, data[descriptor_at:end]
        at = end + 3 & ~3


TEXTS: Final = frozenset(
    {
        ElfNote.XEN_ELFNOTE_XEN_VERSION,
        ElfNote.XEN_ELFNOTE_GUEST_OS,
        ElfNote.XEN_ELFNOTE_GUEST_VERSION,
        ElfNote.XEN_ELFNOTE_LOADER,
        ElfNote.XEN_ELFNOTE_PAE_MODE,
        ElfNote.XEN_ELFNOTE_FEATURES,
        ElfNote.XEN_ELFNOTE_BSD_SYMTAB,
    }
)
"""Notes that are text; all others that matter are little-endian numbers."""


def enter(notes: XenNotes, kind: int, descriptor: bytes) -> None:
    """Note what a note of type `kind` says; one of a type or a size unknown here says nothing."""
    if kind not in ElfNote.__members__.values():
        return
    note = ElfNote(kind)
    if note in TEXTS:
        notes.texts[note] = descriptor.split(b"\0")[0].decode("ascii", "replace")
    elif len(descriptor) in (1, 2, 4, 8):
        notes.numbers[note] = int.from_bytes(descriptor, "little")
