"""The master check: every reference and type count of a machine, counted again from the page tables themselves.

It shares no code with the hypervisor's memory management: it reads the frames as a guest's CPU would see them, goes
through every validated or parked table, adds up what each entry, register, pin and flag must hold, and compares the
sums with the frame table (F1, F2, F3, M1). It also looks at each entry for bits that no guest may have (P1, P6), and
at the core's copies, which must be exact images of the frames (P10). May be called at every stop point of a
preempted operation (Q1).

What other parts hold is given by the caller: `held`, one (mfn, writable) for each grant map's host or device part,
each registered area, and whatever else took references through `get_page` or `get_page_and_type`.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from hypervisor.mm.mmu import Mmu

P, RW, US, G, PSE = 1, 2, 4, 1 << 8, 1 << 7
A_D = 3 << 5
FRAME_BITS = ((1 << 40) - 1) << 12
GUEST_KERNEL, GRANTED = 1 << 52, 1 << 62
CACHE_BITS = 3 << 3

ALLOCATED, PINNED, VALIDATED, PARTIAL, XEN = 1, 2, 4, 8, 16
NONE, L1, L4, SEG_DESC, WRITABLE = 0, 1, 4, 5, 7
XEN_SLOTS = range(256, 272)
DOMID_XEN = 0x7FF2


@dataclass
class Count:
    """What must be true of the frame table, by frame number."""

    refs: Counter[int] = field(default_factory=Counter)
    uses: Counter[tuple[int, int]] = field(default_factory=Counter)
    """(frame, type) -> type references."""
    linear: Counter[int] = field(default_factory=Counter)


def recount(mmu: Mmu, held: Iterable[tuple[int, bool]] = (), *, honest: bool = True) -> None:
    """AssertionError naming the frame and the rule if any count differs from what is there.

    honest=False: a domain's process scribbled over its tables; then only the core's copies count.
    """
    frames = mmu.frames
    count = Count()
    live = touched(mmu)
    tables = [m for m in live if L1 <= frames.type[m] <= L4 and frames.flags[m] & (VALIDATED | PARTIAL)]
    for mfn in live:
        count_flags(mmu, mfn, count)
    for mfn in tables:
        count_table(mmu, mfn, count, honest=honest)
    count_vcpus(mmu, count)
    for mfn, writable in held:
        count.refs[mfn] += 1
        if writable:
            count.uses[mfn, WRITABLE] += 1
    compare(mmu, live, count)
    check_free(mmu)
    check_totals(mmu)
    held_copies = (
        {m for m in range(frames.top) if m in mmu.tables} if len(mmu.tables) != len(tables) else set(tables)
    )
    assert held_copies == set(tables), (
        f"copies of {held_copies ^ set(tables)} that are no tables, or none of tables"
    )


def touched(mmu: Mmu) -> list[int]:
    """Frames with references, without those of Xen's own that are as they were at the start."""
    frames, top = mmu.frames, mmu.frames.top
    used = frames.refs_np[:top] > 0
    as_built = (
        (frames.owner_np[:top] == DOMID_XEN) & (frames.refs_np[:top] == 1) & (frames.tcount_np[:top] == 1)
    )
    found: list[int] = np.flatnonzero(used & ~as_built).tolist()
    return found


def count_flags(mmu: Mmu, mfn: int, count: Count) -> None:
    frames = mmu.frames
    flags, what = frames.flags[mfn], frames.type[mfn]
    for flag in (ALLOCATED, PINNED, PARTIAL):
        count.refs[mfn] += bool(flags & flag)
    for flag in (PINNED, PARTIAL):
        count.uses[mfn, what] += bool(flags & flag)
    if flags & XEN and flags & ALLOCATED:
        count.uses[mfn, what] += 1
        assert what in (NONE, WRITABLE), f"F12: Xen's frame {mfn:#x} is of type {what}"
    assert not (flags & PARTIAL and flags & VALIDATED), f"Q1: {frames.describe(mfn)} is partial and validated"


def count_table(mmu: Mmu, mfn: int, count: Count, *, honest: bool) -> None:
    frames = mmu.frames
    level = frames.type[mfn]
    entries = mmu.tables[mfn].entries
    parked = bool(frames.flags[mfn] & PARTIAL)
    if honest and not parked:
        seen = mmu.live.memory.frames[mfn]
        assert not ((seen ^ entries) & np.uint64(~A_D & (1 << 64) - 1)).any(), f"P10: {frames.describe(mfn)}"
    held = entries[: frames.nr_validated[mfn]] if parked else entries
    slots = np.flatnonzero(held & np.uint64(P)).tolist()
    for slot in slots:
        if level == L4 and slot in XEN_SLOTS:
            continue
        entry = int(entries[slot])
        check_bits(entry, level, frames.describe(mfn), slot, checked=not parked)
        count_entry(mmu, mfn, level, entry, count)
    if parked and frames.partial_set[mfn]:
        count.refs[(int(entries[frames.nr_validated[mfn]]) & FRAME_BITS) >> 12] += 1


def count_entry(mmu: Mmu, mfn: int, level: int, entry: int, count: Count) -> None:
    """What one present entry holds."""
    target = (entry & FRAME_BITS) >> 12
    if level == L1:
        count.refs[target] += 1
        if entry & RW:
            count.uses[target, WRITABLE] += 1
        return
    if target == mfn:
        assert not entry & RW, f"P11: writable self-reference {entry:#x} in frame {mfn:#x}"
        return
    assert mmu.frames.owner[target] == mmu.frames.owner[mfn], (
        f"P4: foreign table in L{level} entry {entry:#x}"
    )
    count.refs[target] += 1
    if mmu.frames.type[target] == level:
        assert not entry & RW, f"P11: writable linear entry {entry:#x} in frame {mfn:#x} (XSA-182)"
        count.uses[target, level] += 1
        count.linear[mfn] += 1
        count.linear[target] -= 1
    else:
        count.uses[target, level - 1] += 1


def check_bits(entry: int, level: int, where: str, slot: int, *, checked: bool) -> None:
    problem = f"P1: entry {slot} of {where} is {entry:#x}"
    assert not entry & CACHE_BITS, problem
    assert not entry & PSE, f"{problem} (XSA-148)"
    if not checked:
        return
    assert entry & US, f"P6: entry {slot} of {where} is {entry:#x}"
    if level == L1:
        assert bool(entry & GUEST_KERNEL) != bool(entry & G), f"P6: entry {slot} of {where} is {entry:#x}"
    else:
        assert not entry & G, problem


def count_vcpus(mmu: Mmu, count: Count) -> None:
    for d in mmu.domains.values():
        for v in d.vcpus:
            for base in (v.cr3, v.user_cr3):
                if base is not None:
                    count.refs[base] += 1
                    count.uses[base, L4] += 1
            for mfn in (*v.gdt_frames, *v.ldt_frames.values()):
                count.refs[mfn] += 1
                count.uses[mfn, SEG_DESC] += 1
            if v.old_table is not None:
                count.refs[v.old_table] += 1
                if not v.old_table_partial:
                    count.uses[v.old_table, mmu.frames.type[v.old_table]] += 1
                    if v.old_table_parent is not None:
                        parent, old = v.old_table_parent, v.old_table
                        if mmu.frames.type[parent] == mmu.frames.type[old]:
                            count.linear[parent] += 1
                            count.linear[old] -= 1


def compare(mmu: Mmu, live: list[int], count: Count) -> None:
    frames = mmu.frames
    uses: Counter[int] = Counter()
    for (mfn, what), n in count.uses.items():
        if n:
            assert frames.type[mfn] == what, f"F4: {frames.describe(mfn)} is used {n} times as type {what}"
            uses[mfn] += n
    for mfn in live:
        refs, tcount = count.refs.pop(mfn, 0), uses[mfn]
        assert frames.refs[mfn] == refs, f"F2: {frames.describe(mfn)}, should have {refs} references"
        assert frames.tcount[mfn] == tcount, f"F3: {frames.describe(mfn)}, should have {tcount} uses"
        assert tcount <= refs, f"F3: {frames.describe(mfn)} has uncovered type references"
        assert frames.owner[mfn] >= 0, f"F1, F13: {frames.describe(mfn)} is referenced and nobody's"
        if tcount and L1 <= frames.type[mfn] <= L4:
            linear = count.linear[mfn]
            assert frames.linear[mfn] == linear, (
                f"P11: {frames.describe(mfn)}: {frames.linear[mfn]}, not {linear}"
            )
    for mfn, n in count.refs.items():
        assert not n, f"F2: {frames.describe(mfn)} should have {n} references more"


def check_free(mmu: Mmu) -> None:
    """F1: what has no references has nothing at all, and is on its domain's list."""
    frames = mmu.frames
    free = np.flatnonzero(frames.refs_np[: frames.top] == 0)
    for column in (frames.type_np, frames.tcount_np, frames.flags_np):
        assert not column[free].any(), "F1: a frame without references has a type, uses or flags"
    assert (frames.owner_np[free] == -1).all(), "F1, F13: a frame without references has an owner"
    listed = {mfn for d in mmu.domains.values() for mfn in d.extents.free}
    for d in mmu.domains.values():
        for base in d.extents.bases:
            missing = set(free[(free >= base) & (free < base + 1024)].tolist()) - listed
            assert not missing, f"F1: free frames {missing} are on no list"


def check_totals(mmu: Mmu) -> None:
    """M1, and the machine's quota."""
    frames = mmu.frames
    owners = frames.owner_np[: frames.top]
    plain = (frames.flags_np[: frames.top] & XEN) == 0
    for d in mmu.domains.values():
        owned = int(((owners == d.domid) & plain).sum())
        assert d.tot_pages == owned, f"M1: d{d.domid} counts {d.tot_pages} pages and has {owned}"
        assert owned <= d.max_pages, f"M1: d{d.domid} has {owned} of {d.max_pages} pages"
    used = int(((owners >= 0) & (owners != DOMID_XEN)).sum())
    assert mmu.allocator.used_frames == used, (
        f"{mmu.allocator.used_frames} frames of the quota, {used} in use"
    )
