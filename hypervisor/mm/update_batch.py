"""Many L1 entries changed at once, by array operations, when the outcome is certain beforehand.

A run of MMU_NORMAL_PT_UPDATE requests qualifies if all go into distinct slots of the caller's own L1 tables, every
new entry is permitted, and dropping the old ones frees no frame. Then the order cannot matter: no request can make
another one fail. Everything else takes the path of one entry at a time (update.py), which is the definition; both
leave the same state, which a test compares.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
from numpy import count_nonzero

from hypervisor.machine.entries import L1_DISALLOW, NOT_FASTPATH, Mfns, Words, bits_of, named_by
from hypervisor.machine.frame_types import L1, VALIDATED
from hypervisor.machine.paging import PAGE_PRESENT
from hypervisor.mm.devalidate import drop_l1es
from hypervisor.mm.domain_memory import DomainMemory
from hypervisor.mm.page_types import PageTypes
from hypervisor.mm.validate import try_take_l1es

MIN_RUN: Final = 8
"""Shorter runs of requests are not worth the set-up."""
_P, _NOT_FASTPATH = np.uint64(PAGE_PRESENT), np.uint64(NOT_FASTPATH)


def try_updates(
    types: PageTypes,
    d: DomainMemory,
    ptrs: Words,
    values: Words,
    *,
    posted: bool = False,
    owner: DomainMemory | None = None,
) -> bool:
    """Perform all requests (uint64 arrays of one length) as `d` on its own frames, or none: False.

    `owner`: the entries name machine frames of this domain, which `d` controls. `posted`: the entries
    stand in the guest's frames already, and are only recorded (mm/posted.py).
    """
    tables = own_l1s(types, d, ptrs)
    if tables is None:
        return False
    slots = ((ptrs & np.uint64(4095)) >> np.uint64(3)).astype(np.intp)
    old = np.empty_like(values)
    for mfn, where in tables:
        old[where] = types.tables[mfn].entries[slots[where]]
    bits = bits_of(values)
    new = d.rules.adjust_l1es(values, bits)
    kept = ((old ^ new) & _NOT_FASTPATH == 0) & (old & _P != 0)
    if count_nonzero(kept):
        if bits_of(new[new & _P != 0]).some & L1_DISALLOW:
            return False
        taken, dropped = new[~kept], old[~kept]
    else:
        taken, dropped = new, old
    parts = [(mfn, slots[where], new[where]) for mfn, where in tables]
    take, drop = named_by(taken, bits_of(taken)), named_by(dropped, bits_of(dropped))
    if frees_a_frame(types, drop.mfns) or not try_take_l1es(types, owner or d, take):
        return False
    write = types.tables.record_entries if posted else types.tables.write_entries
    for mfn, into, entries in parts:  # the references are taken, and nothing can be refused any more
        write(mfn, into, entries)
    drop_l1es(types, drop)
    return True


def own_l1s(
    types: PageTypes, d: DomainMemory, ptrs: Words
) -> list[tuple[int, npt.NDArray[np.intp] | slice]] | None:
    """The L1 tables of `d` that the requests go into, each with its requests; None if one does not qualify."""
    frames = types.frames
    if (ptrs & np.uint64(7)).any():
        return None
    table_of = ptrs >> np.uint64(12)
    if (table_of == table_of[0]).all():
        if int(np.bincount((ptrs >> np.uint64(3) & np.uint64(511)).astype(np.intp)).max()) > 1:
            return None
        found: list[tuple[int, npt.NDArray[np.intp] | slice]] = [(int(table_of[0]), slice(None))]
    else:
        if len(np.unique(ptrs)) != len(ptrs):
            return None
        numbers, inverse = np.unique(table_of, return_inverse=True)
        found = [(int(mfn), np.flatnonzero(inverse == i)) for i, mfn in enumerate(numbers)]
    for mfn, _ in found:
        if mfn >= frames.top or frames.owner[mfn] != d.domid or frames.type[mfn] != L1:
            return None
        if not frames.flags[mfn] & VALIDATED or not frames.tcount[mfn] or frames.refs[mfn] >= frames.max_refs:
            return None
    return found


def frees_a_frame(types: PageTypes, gone: Mfns) -> bool:
    """True if dropping one reference for each of `gone` could free a frame at some point of the run."""
    refs = types.frames.refs_np
    np.subtract.at(refs, gone, _ONE)
    freed = bool((refs[gone] == 0).any())
    np.add.at(refs, gone, _ONE)
    return freed


_ONE = np.uint32(1)
