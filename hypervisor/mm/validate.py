"""Where a page table is validated: every present entry is checked and its references taken (P1–P6, P11).

L1 tables are checked by array operations on all 512 entries and cannot be interrupted; L2…L4 go entry by entry,
each step a point where the budget may end the portion (Q1, Q4). Nothing is taken before it was checked, and what was
taken for entries [0, i) is dropped when entry i is refused: at once for an L1, through old_table above (F9, Q3).
"""

import numpy as np
import numpy.typing as npt
from numpy import count_nonzero

from hypervisor.machine.entries import INVALID_MFN_FIELD, L1_DISALLOW, Mfns, Named, bits_of, named_by
from hypervisor.machine.frame_types import (
    L1,
    LEVELS,
    PAE_XEN_L2,
    PARTIAL,
    PGT,
    SEG_DESC,
    VALIDATED,
    WRITABLE,
)
from hypervisor.machine.paging import PAGE_PRESENT, PAGE_RW, pte_mfn
from hypervisor.mm import linear, xen_slots
from hypervisor.mm.budget import COST_OF_L1, COST_OF_UPPER_ENTRY, Portion, Restart
from hypervisor.mm.devalidate import present_slots
from hypervisor.mm.domain_memory import DomainMemory
from hypervisor.mm.frame_table import FrameTable
from hypervisor.mm.pv_rules import NO_SLOTS
from hypervisor.mm.tables import Table
from hypervisor.mm.type_references import TypeReferences
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.types import DomId
from hypervisor.public.xen import DOMID_IO


def promote(types: TypeReferences, mfn: int, pgt: int, portion: Portion | None) -> None:
    """Check the frame's content as `pgt` and take its references. XenError, Restart; see PageTypes._validate."""
    if pgt == L1:
        promote_l1(types, mfn)
        if portion is not None:
            portion.budget.spend(COST_OF_L1)
    elif pgt == SEG_DESC:
        rules = types.domains[DomId(types.frames.owner[mfn])].rules
        descriptors = types.contents.copy_of(mfn)
        types.contents.write_table(mfn, rules.checked_descriptors(descriptors))
    else:
        assert portion is not None  # whoever takes L2…L4 can be restarted
        promote_upper(types, mfn, pgt, portion)


# --- L1: a whole table at once ------------------------------------------------------------------------


def promote_l1(types: TypeReferences, mfn: int) -> None:
    """Validate an L1 table's copy and publish it. XenError: the first refused entry's; nothing was taken (F9)."""
    frames = types.frames
    table = types.tables[mfn]
    owner = types.domains[DomId(frames.owner[mfn])]
    entries = table.entries
    types.entries_checked += len(entries)
    bits = bits_of(entries)
    named = named_by(entries, bits)
    if not try_take_l1es(types, owner, named):
        take_l1es_one_by_one(types, owner, named.present)
    entries[:] = owner.rules.adjust_l1es(entries, bits)
    types.tables.publish(mfn)


def try_take_l1es(types: TypeReferences, owner: DomainMemory, named: Named) -> bool:
    """Take the references of all these entries, or none: False.

    True if `owner` may have them (P1, P3) and taking them needs no flush and reaches no limit. Their order does
    not matter then: taking one reference cannot make another one fail. That a type reference is always covered by
    a general one (F3) bounds the former by the latter's count.
    """
    frames, mfns, writable = types.frames, named.mfns, named.writable
    if not len(mfns):
        return True
    if named.bits & L1_DISALLOW:
        return False
    try:
        owners = frames.owner_np[: frames.top][mfns]
    except IndexError:  # at least one names no frame
        return False
    if count_nonzero(owners != owner.domid):
        return False
    if int(frames.refs_np[mfns].max()) + len(mfns) > min(frames.max_refs, frames.max_tcount):
        return False
    typed = not count_nonzero(frames.type_np[writable] != WRITABLE)
    if not typed:
        if not may_become_writable(frames, writable, owner.flush_clock):
            return False
        frames.type_np[writable] = WRITABLE
        frames.flags_np[writable] |= VALIDATED
    add(frames.refs_np, mfns)
    add(frames.tcount_np, writable)
    return True


def may_become_writable(frames: FrameTable, mfns: Mfns, flush_clock: int) -> bool:
    """True if all are of the writable type, or unused and free to become so without a flush (F4, T1)."""
    other = frames.type_np[mfns] != WRITABLE
    used, stale = frames.tcount_np[mfns] != 0, frames.stamp_np[mfns] >= flush_clock
    return not (other & (used | stale)).any()


def add(column: npt.NDArray[np.uint32], mfns: Mfns) -> None:
    """+1 for each time a frame is named."""
    np.add.at(column, mfns, _ONE)


_ONE = np.uint32(1)


def take_l1es_one_by_one(types: TypeReferences, owner: DomainMemory, present: npt.NDArray[np.uint64]) -> None:
    """As take_l1es, in order; at the first refused entry those before it are given back."""
    taken: list[int] = []
    try:
        for entry in present.tolist():
            get_page_from_l1e(types, entry, owner, owner.domid)
            taken.append(entry)
    except XenError:
        for entry in taken:
            put_page_from_l1e(types, entry)
        raise


# --- one entry ----------------------------------------------------------------------------------------


def get_page_from_l1e(types: TypeReferences, entry: int, l1e_owner: DomainMemory, pg_owner: int) -> None:
    """References for one present L1 entry in a table of `l1e_owner` naming a frame of `pg_owner` (P1, P3, P5).

    XenError: EINVAL for bits, EPERM for frames that do not exist (there is no device memory), EBUSY for others.
    """
    frames = types.frames
    if entry & L1_DISALLOW:
        raise XenError(Errno.EINVAL, f"P1: bits {entry & L1_DISALLOW:#x} in L1 entry {entry:#x}")
    mfn = pte_mfn(entry)
    if mfn >= frames.top or mfn == 0:
        errno = Errno.EINVAL if mfn == INVALID_MFN_FIELD else Errno.EPERM
        raise XenError(errno, f"P5: L1 entry {entry:#x} names no frame")
    owner = frames.owner[mfn]
    if owner < 0 or frames.refs[mfn] >= frames.max_refs:
        raise XenError(Errno.EBUSY, f"P3: L1 entry {entry:#x} names {frames.describe(mfn)}")
    if owner != pg_owner and (pg_owner in (l1e_owner.domid, DOMID_IO) or not types.controls(pg_owner, owner)):
        raise XenError(Errno.EBUSY, f"P3: L1 entry {entry:#x} for d{pg_owner} names {frames.describe(mfn)}")
    frames.refs[mfn] += 1
    if entry & PAGE_RW:
        try:
            types.get_type(mfn, WRITABLE)
        except XenError as refusal:
            frames.put_page(mfn)
            raise XenError(Errno.EBUSY, f"F4: writable L1 entry {entry:#x}: {refusal.reason}") from None


def put_page_from_l1e(types: TypeReferences, entry: int) -> None:
    """Drop what a recorded L1 entry holds; nothing if it is not present."""
    if entry & PAGE_PRESENT:
        mfn = pte_mfn(entry)
        if entry & PAGE_RW:
            types.put_type(mfn)
        types.frames.put_page(mfn)


def get_page_from_upper(
    types: TypeReferences,
    entry: int,
    parent: int,
    slot: int,
    level: int,
    portion: Portion,
    *,
    partial_set: bool,
    retain: bool,
) -> None:
    """References for one present entry of an L2…L4 table `parent`: the next lower table, or a linear one (P4, P11).

    partial_set: the entry holds a general reference already. retain: it keeps one if this must be restarted.
    """
    frames = types.frames
    domid = frames.owner[parent]
    rules = types.domains[DomId(domid)].rules
    if wrong := entry & rules.disallowed(level):
        raise XenError(Errno.EINVAL, f"P1: bits {wrong:#x} in L{level} entry {entry:#x}")
    mfn, wanted = pte_mfn(entry), rules.child(level, slot)
    try:
        if not partial_set:
            frames.get_page(mfn, domid)
        try:
            if wanted == PAE_XEN_L2:
                _check_unshared(frames, mfn)
            types.get_type(mfn, wanted, portion)
        except (XenError, Restart) as stop:
            keeps = partial_set or portion.vcpu.old_table == mfn or (retain and isinstance(stop, Restart))
            if not keeps:
                frames.put_page(mfn)
            raise
    except XenError as refusal:
        if partial_set or portion.vcpu.old_table is not None or refusal.errno is not Errno.EINVAL:
            raise
        if level not in rules.linear_levels:
            raise
        try:
            linear.get(frames, entry, parent)
        except XenError:
            raise refusal from None


def _check_unshared(frames: FrameTable, mfn: int) -> None:
    """An L2 with Xen's slots is used once, by one L3: Xen keeps nothing right in two. XenError(EINVAL)."""
    if frames.tcount[mfn] and not frames.flags[mfn] & PARTIAL:
        raise XenError(Errno.EINVAL, f"P7: the last of four tables is shared: {frames.describe(mfn)}")


# --- L2…L4: entry by entry --------------------------------------------------------------------------------


# A table of this kind can be stopped between any two entries, because what it holds is written down at each stop:
#
#     slot     0 … n-1            n                              n+1 … 511
#     holds    its references     a general one if partial_set   nothing yet
#
# When the table below stopped in the middle, entry n has partial_set: the reference on it stays, for it must not be freed
# while it is parked. The next one who wants this table's type goes on from n.


def promote_upper(types: TypeReferences, mfn: int, pgt: int, portion: Portion) -> None:
    """Validate an L2…L4 table from where it stopped. Restart: parked after at least one more entry (Q1)."""
    frames = types.frames
    table, level = types.tables[mfn], LEVELS[pgt]
    owner = types.domains[DomId(frames.owner[mfn])]
    rules = owner.rules
    xens = rules.xen_slots.get(pgt, NO_SLOTS)
    _check_needed(table, pgt, rules.needed_slots.get(pgt))
    start, partial_set = frames.nr_validated[mfn], bool(frames.partial_set[mfn])
    for at, i in enumerate(present_slots(table, xens, start)):
        if at and portion.budget.exhausted:
            frames.nr_validated[mfn], frames.partial_set[mfn] = i, 0
            raise Restart
        partial_set = partial_set and i == start
        portion.budget.spend(COST_OF_UPPER_ENTRY)
        types.entries_checked += 1
        try:
            get_page_from_upper(
                types, table.words[i], mfn, i, level, portion, partial_set=partial_set, retain=True
            )
        except Restart:
            frames.nr_validated[mfn], frames.partial_set[mfn] = i, 1
            raise
        except XenError:
            give_up(types, mfn, i, portion, partial_set=partial_set)
            raise
        table.words[i] = rules.adjust_upper(table.words[i], level)
    if xens:
        xen_slots.install(types.tables, owner, mfn, pgt)
    types.tables.publish(mfn)


def _check_needed(table: Table, pgt: int, slot: int | None) -> None:
    """XenError(EINVAL): an entry is missing without which such a table is none."""
    if slot is not None and not table.words[slot] & PAGE_PRESENT:
        raise XenError(Errno.EINVAL, f"P7: {PGT(pgt).name} without its entry {slot}")


def give_up(types: TypeReferences, mfn: int, i: int, portion: Portion, *, partial_set: bool) -> None:
    """Entry i was refused: hand the table to old_table if earlier entries hold references (Q3).

    If the table below is parked there itself, its general reference passes to entry i, so only one is parked.
    """
    below = portion.vcpu.old_table is not None
    if i or partial_set or below:
        frames = types.frames
        frames.nr_validated[mfn], frames.partial_set[mfn] = i, int(partial_set or below)
        types.park(portion.vcpu, mfn, partial=True)
