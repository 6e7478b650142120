"""Where a page table's references are dropped again: each entry's exactly once, from the core's copy (F10).

Entries go from the last to the first, so that at each stop [0, n) still hold references (Q1).
"""

import numpy as np

from hypervisor.machine.entries import Named, bits_of, named_by
from hypervisor.machine.frame_types import L1
from hypervisor.machine.paging import PAGE_PRESENT, pte_mfn
from hypervisor.mm.budget import COST_OF_FRAME, COST_OF_L1, COST_OF_UPPER_ENTRY, Portion, Restart
from hypervisor.mm.layout import ENTRIES
from hypervisor.mm.pv_rules import NO_SLOTS
from hypervisor.mm.tables import Table
from hypervisor.mm.type_references import TypeReferences
from hypervisor.public.types import DomId


def present_slots(table: Table, xens: range, start: int = 0) -> list[int]:
    """Slots from `start` on whose entries are present and the guest's (P2, P7); `xens` are Xen's."""
    slots = np.flatnonzero(table.entries[start:] & np.uint64(PAGE_PRESENT)) + start
    if xens:
        slots = slots[(slots < xens.start) | (slots >= xens.stop)]
    found: list[int] = slots.tolist()
    return found


def demote(types: TypeReferences, mfn: int, portion: Portion | None, *, resumed: bool) -> None:
    """Drop the references that the table's entries hold. Restart: the rest is recorded as in Q1."""
    frames = types.frames
    if not resumed:
        frames.nr_validated[mfn], frames.partial_set[mfn] = ENTRIES, 0
    if frames.type[mfn] == L1:
        freed = demote_l1(types, mfn)
        if portion is not None:
            portion.budget.spend(COST_OF_L1 + freed * COST_OF_FRAME)
    else:
        assert portion is not None  # whoever drops L2…L4 can be restarted
        demote_upper(types, mfn, portion)


def demote_l1(types: TypeReferences, mfn: int) -> int:
    """All of an L1 table's references at once; how many frames are free now, for theirs were the last."""
    entries = types.tables[mfn].entries
    return drop_l1es(types, named_by(entries, bits_of(entries)))


def drop_l1es(types: TypeReferences, named: Named) -> int:
    """Drop one writable type reference for each of the writable ones, then one general one for each; how many frames are free."""
    frames, mfns, writable = types.frames, named.mfns, named.writable
    if len(writable):
        np.subtract.at(frames.tcount_np, writable, _ONE)
        unused = writable[frames.tcount_np[writable] == 0]
        if len(unused):
            types.stamp_all(unused)
    if not len(mfns):
        return 0
    np.subtract.at(frames.refs_np, mfns, _ONE)
    freed = dict.fromkeys(mfns[frames.refs_np[mfns] == 0].tolist())
    for mfn in freed:
        frames.release(mfn)
    return len(freed)


_ONE = np.uint32(1)


def demote_upper(types: TypeReferences, mfn: int, portion: Portion) -> None:
    """Drop what an L2, L3 or L4 table's entries hold, from the last to the first. Restart: parked (Q1)."""
    frames = types.frames
    table = types.tables[mfn]
    rules = types.domains[DomId(frames.owner[mfn])].rules
    xens = rules.xen_slots.get(frames.type[mfn], NO_SLOTS)
    partial_set = bool(frames.partial_set[mfn])
    last = frames.nr_validated[mfn] - (0 if partial_set else 1)
    slots = [i for i in present_slots(table, xens) if i <= last]
    for at, i in enumerate(reversed(slots)):
        if at and portion.budget.exhausted:
            frames.nr_validated[mfn], frames.partial_set[mfn] = i + 1, 0
            raise Restart
        portion.budget.spend(COST_OF_UPPER_ENTRY)
        try:
            put_page_from_upper(types, table.words[i], mfn, portion, partial_set=partial_set and i == last)
        except Restart:
            frames.nr_validated[mfn], frames.partial_set[mfn] = i, 1
            raise


def put_page_from_upper(
    types: TypeReferences, entry: int, parent: int, portion: Portion, *, partial_set: bool = False
) -> None:
    """Drop what a recorded L2…L4 entry holds; a self-reference holds nothing (P11). Restart: the general one stays."""
    mfn = pte_mfn(entry)
    if entry & PAGE_PRESENT and mfn != parent:
        types.put_type(mfn, portion, partial_set=partial_set, parent=parent)
        types.frames.put_page(mfn)
