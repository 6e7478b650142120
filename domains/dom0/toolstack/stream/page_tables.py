"""Page tables on their way into a stream and out of it: an entry names a page of the domain there, and a frame of a machine here.

    normalise   frame ─► page, when a domain is saved; Xen's own entries are left out
    localise    page ─► frame, when it is restored; Xen puts its own entries in when it checks the table

Source: Xen tools/libs/guest/xg_sr_save_x86_pv.c (normalise_pagetable), xg_sr_restore_x86_pv.c (x86_pv_localise_page).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from domains.dom0.toolstack.stream.page_data import LEVEL, Words
from hypervisor.machine.paging import PAGE_PRESENT, PAGE_PSE, PTE_MFN_MASK
from hypervisor.public.types import PAGE_SHIFT

PRESENT: Final = np.uint64(PAGE_PRESENT)
PSE: Final = np.uint64(PAGE_PSE)
MASK: Final = np.uint64(PTE_MFN_MASK)
SHIFT: Final = np.uint64(PAGE_SHIFT)
XEN_L4_SLOTS: Final = slice(256, 272)
"""Of a 64-bit guest."""
OWN_L3_SLOTS: Final = 4
"""Of a 32-bit guest; those behind are Xen's."""
XEN_L2_SLOTS: Final = slice(0xF580_0000 >> 21 & 511, 512)
"""Of that one of a 32-bit guest's L2s which maps Xen."""

TABLES_AT_ONCE: Final = 64
"""What is translated in a few milliseconds."""
NONE: Final = np.uint64((1 << 64) - 1)
"""Stands for no page, and for no frame."""
Numbers = Callable[[Words], Words]
"""From the numbers of frames to those of pages, or the other way round; NONE for what has none."""


class BadEntry(ValueError):
    """An entry that cannot be translated: in which of the tables, which entry, and why."""

    def __init__(self, table: int, entry: int, why: str) -> None:
        super().__init__(why)
        self.table = table
        self.entry = entry


def normalise(tables: Words, types: Words, width: int, page_of: Numbers) -> None:
    """Have the tables, uint64[n, 512], of these types of PAGE_DATA, name pages. BadEntry: one maps what is not the domain's."""
    levels = types & np.uint64(LEVEL)
    if width == 8:
        tables[levels == 4, XEN_L4_SLOTS] = 0
    else:
        tables[levels == 3, OWN_L3_SLOTS:] = 0
        _leave_out_xen_of_32_bits(tables, levels == 2, page_of)
    large = (tables & PSE != 0) & (tables & PRESENT != 0) & (levels[:, None] > 1)
    if large.any():
        raise BadEntry(*_first(large), "it maps a page of more than 4 KiB")
    _translate(tables, page_of, "it maps what is not the domain's own memory, as another domain's by a grant")


def localise(tables: Words, frame_of: Numbers) -> None:
    """Have them name machine frames. BadEntry: an entry names a page that the domain has not."""
    _translate(tables, frame_of, "it maps a page that is not there")


def _leave_out_xen_of_32_bits(tables: Words, which: npt.NDArray[np.bool_], page_of: Numbers) -> None:
    """Of an L2 that maps Xen at its last slots: what lies there is not the domain's from the first on."""
    first = tables[:, XEN_L2_SLOTS.start]
    here = which & (first & PRESENT != 0)
    rows = np.flatnonzero(here)
    xens = rows[page_of((first[rows] & MASK) >> SHIFT) == NONE]
    tables[xens, XEN_L2_SLOTS] = 0


def _translate(tables: Words, numbers: Numbers, why: str) -> None:
    present = tables & PRESENT != 0
    entries = tables[present]
    to = numbers((entries & MASK) >> SHIFT)
    if (to == NONE).any():
        wrong = present.copy()
        wrong[present] = to == NONE
        raise BadEntry(*_first(wrong), why)
    tables[present] = entries & ~MASK | to << SHIFT


def _first(wrong: npt.NDArray[np.bool_]) -> tuple[int, int]:
    table, entry = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
    return int(table), int(entry)
