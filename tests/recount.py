"""The master check: every reference and type count of a machine, counted again from the page tables themselves.

It shares no code with the hypervisor's memory management: it reads the frames as a guest's CPU would see them, goes
through every validated or parked table, adds up what each entry, register, pin and flag must hold, and compares the
sums with the frame table (F1, F2, F3, M1). It also looks at each entry for bits that no guest may have (P1, P6), and
at the core's copies, which must be exact images of the frames (P10). May be called at every stop point of a
preempted operation (Q1).

What other parts hold is given by the caller: `held`, one (mfn, writable) for each grant map's host or device part,
each registered area, and whatever else took references through `get_page` or `get_page_and_type`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hypervisor.mm.layout import XEN_FRAMES
from hypervisor.mm.mmu import Mmu

P, RW, US, G, PSE = 1, 2, 4, 1 << 8, 1 << 7
A_D = 3 << 5
FRAME_BITS = ((1 << 40) - 1) << 12
GUEST_KERNEL, GRANTED = 1 << 52, 1 << 62
CACHE_BITS = 3 << 3

ALLOCATED, PINNED, VALIDATED, PARTIAL, XEN = 1, 2, 4, 8, 16
NONE, L1, L4, SEG_DESC, WRITABLE = 0, 1, 4, 5, 7

Entries = npt.NDArray[np.uint64]


@dataclass
class Count:
    """What must be in the frame table: references, type references, linear uses.

    By frame number less XEN_FRAMES; of Xen's own frames only the references beyond the one at the start count.
    """

    refs: npt.NDArray[np.int64]
    uses: npt.NDArray[np.int64]
    linear: npt.NDArray[np.int64]
    xen: dict[int, int]

    def ref(self, mfn: int) -> None:
        if mfn < XEN_FRAMES:
            self.xen[mfn] = self.xen.get(mfn, 0) + 1
        else:
            self.refs[mfn - XEN_FRAMES] += 1


def recount(mmu: Mmu, held: Iterable[tuple[int, bool]] = (), *, honest: bool = True) -> None:
    """AssertionError naming the frame and the rule if any count differs from what is there.

    honest=False: a domain's process scribbled over its tables; then only the core's copies count.
    """
    size = mmu.frames.top - XEN_FRAMES
    count = Count(np.zeros(size, np.int64), np.zeros(size, np.int64), np.zeros(size, np.int64), {})
    count_flags(mmu, count)
    tables = find_tables(mmu)
    for mfn in tables:
        count_table(mmu, mfn, count, honest=honest)
    count_vcpus(mmu, count)
    for mfn, writable in held:
        count.ref(mfn)
        if writable:
            use(mmu, mfn, WRITABLE, count)
    compare(mmu, count)
    check_free(mmu)
    check_totals(mmu)
    assert all(mfn in mmu.tables for mfn in tables), "P10: a table without the core's copy"
    assert len(mmu.tables) == len(tables), f"P10: {len(mmu.tables)} copies of {len(tables)} tables"


def find_tables(mmu: Mmu) -> list[int]:
    """Frames that are validated or parked page tables."""
    types, flags = span(mmu, mmu.frames.type_np), span(mmu, mmu.frames.flags_np)
    tables = (types >= L1) & (types <= L4) & ((flags & (VALIDATED | PARTIAL)) != 0)
    found: list[int] = (np.flatnonzero(tables) + XEN_FRAMES).tolist()
    return found


def span(mmu: Mmu, column: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """A column's part for the domains' frames."""
    return column[XEN_FRAMES : mmu.frames.top]


def use(mmu: Mmu, mfn: int, what: int, count: Count) -> None:
    """One use of a frame as type `what` (F4)."""
    assert mmu.frames.type[mfn] == what, f"F4: {mmu.frames.describe(mfn)} is used as type {what}"
    count.uses[mfn - XEN_FRAMES] += 1


def count_flags(mmu: Mmu, count: Count) -> None:
    """What ALLOCATED, PINNED and PARTIAL hold, and the use that fixes how Xen's frames are shared (F12)."""
    flags, types = span(mmu, mmu.frames.flags_np), span(mmu, mmu.frames.type_np)
    for flag in (ALLOCATED, PINNED, PARTIAL):
        count.refs += (flags & flag) != 0
    for flag in (PINNED, PARTIAL):
        count.uses += (flags & flag) != 0
    shared = (flags & (XEN | ALLOCATED)) == XEN | ALLOCATED
    count.uses += shared
    assert np.isin(types[shared], (NONE, WRITABLE)).all(), "F12: a frame of Xen's is a table"
    assert not ((flags & (PARTIAL | VALIDATED)) == PARTIAL | VALIDATED).any(), "Q1: partial and validated"


def count_table(mmu: Mmu, mfn: int, count: Count, *, honest: bool) -> None:
    """What the entries of one table hold; of a parked one, those that it still or already holds (Q1)."""
    frames = mmu.frames
    level, parked = frames.type[mfn], bool(frames.flags[mfn] & PARTIAL)
    entries = mmu.tables[mfn].entries
    if honest and not parked:
        seen = mmu.contents.memory.frames[mfn]
        assert not ((seen ^ entries) & np.uint64(~A_D & (1 << 64) - 1)).any(), f"P10: {frames.describe(mfn)}"
    held = entries[: frames.nr_validated[mfn]].copy() if parked else entries.copy()
    if level == L4:
        held[256:272] = 0
    present = held[(held & np.uint64(P)) != 0]
    if len(present):
        check_bits(present, level, mfn, checked=not parked)
    if level == L1:
        count_l1(mmu, present, count)
    else:
        for entry in present.tolist():
            count_upper(mmu, mfn, level, entry, count)
    if parked and frames.partial_set[mfn]:
        count.ref((int(entries[frames.nr_validated[mfn]]) & FRAME_BITS) >> 12)


def count_l1(mmu: Mmu, present: Entries, count: Count) -> None:
    """One reference for each entry, one writable use for each writable one."""
    named = ((present & np.uint64(FRAME_BITS)) >> np.uint64(12)).astype(np.int64)
    writable = named[(present & np.uint64(RW)) != 0]
    for mfn in named[named < XEN_FRAMES].tolist():
        count.ref(mfn)
    np.add.at(count.refs, named[named >= XEN_FRAMES] - XEN_FRAMES, 1)
    wrong = writable[mmu.frames.type_np[writable] != WRITABLE]
    assert not len(wrong), f"F4: {mmu.frames.describe(int(wrong[0]))} is mapped writable"
    np.add.at(count.uses, writable - XEN_FRAMES, 1)


def count_upper(mmu: Mmu, mfn: int, level: int, entry: int, count: Count) -> None:
    """What one present entry of an L2, L3 or L4 holds (P4, P11)."""
    frames = mmu.frames
    target = (entry & FRAME_BITS) >> 12
    if target == mfn:
        assert not entry & RW, f"P11: writable self-reference {entry:#x} in frame {mfn:#x}"
        return
    assert frames.owner[target] == frames.owner[mfn], f"P4: foreign table in L{level} entry {entry:#x}"
    count.ref(target)
    if frames.type[target] == level:
        assert not entry & RW, f"P11: writable linear entry {entry:#x} in frame {mfn:#x} (XSA-182)"
        use(mmu, target, level, count)
        count.linear[mfn - XEN_FRAMES] += 1
        count.linear[target - XEN_FRAMES] -= 1
    else:
        use(mmu, target, level - 1, count)


def check_bits(present: Entries, level: int, mfn: int, *, checked: bool) -> None:
    """P1 for all present entries, P6 for those of a table that was published."""

    def none_has(bits: int) -> bool:
        return not (present & np.uint64(bits)).any()

    assert none_has(CACHE_BITS | PSE), f"P1: an entry of frame {mfn:#x} (XSA-148)"
    if not checked:
        return
    assert ((present & np.uint64(US)) != 0).all(), f"P6: an entry of frame {mfn:#x} without US"
    if level == L1:
        kernel, everywhere = (present & np.uint64(GUEST_KERNEL)) != 0, (present & np.uint64(G)) != 0
        assert (kernel != everywhere).all(), (
            f"P6: an entry of frame {mfn:#x} is both the kernel's and global, or neither"
        )
    else:
        assert none_has(G), f"P1: a global entry in frame {mfn:#x}"


def count_vcpus(mmu: Mmu, count: Count) -> None:
    """CR3s, descriptor tables and parked drops of all vCPUs."""
    for v in (v for d in mmu.domains.values() for v in d.vcpus):
        uses = [(base, L4) for base in (v.cr3, v.user_cr3) if base is not None]
        uses += [(mfn, SEG_DESC) for mfn in (*v.gdt_frames, *v.ldt_frames.values())]
        if v.old_table is not None:
            if v.old_table_partial:
                count.ref(v.old_table)
            else:
                uses.append((v.old_table, mmu.frames.type[v.old_table]))
                count_old_linear(mmu, v.old_table, v.old_table_parent, count)
        for mfn, what in uses:
            count.ref(mfn)
            use(mmu, mfn, what, count)


def count_old_linear(mmu: Mmu, old: int, parent: int | None, count: Count) -> None:
    """An entry that is gone, whose table is still to be dropped, counts as linear until then."""
    if parent is not None and mmu.frames.type[parent] == mmu.frames.type[old]:
        count.linear[parent - XEN_FRAMES] += 1
        count.linear[old - XEN_FRAMES] -= 1


def compare(mmu: Mmu, count: Count) -> None:
    frames = mmu.frames
    refs, tcount = (span(mmu, column).astype(np.int64) for column in (frames.refs_np, frames.tcount_np))
    types, linear = span(mmu, frames.type_np), span(mmu, frames.linear_np)
    tables = (types >= L1) & (types <= L4) & (tcount > 0)
    rules = {
        "F2: references": (refs, count.refs, refs != count.refs),
        "F3: uses": (tcount, count.uses, tcount != count.uses),
        "F3: uses without references": (tcount, refs, tcount > refs),
        "P11: linear": (linear, count.linear, tables & (linear != count.linear)),
    }
    for rule, (there, counted, wrong) in rules.items():
        if wrong.any():
            i = int(wrong.argmax())
            where = frames.describe(i + XEN_FRAMES)
            raise AssertionError(f"{rule} of {where}: {there[i]}, should be {counted[i]}")
    ownerless = (refs > 0) & (span(mmu, frames.owner_np) < 0)
    assert not ownerless.any(), (
        f"F1, F13: frame {int(ownerless.argmax()) + XEN_FRAMES:#x} has references, no owner"
    )
    extra = frames.refs_np[1:XEN_FRAMES].sum() - (XEN_FRAMES - 1)
    assert extra == sum(count.xen.values()), f"F2: {extra} references on Xen's frames, not {count.xen}"
    for mfn, n in count.xen.items():
        assert frames.refs[mfn] == n + 1, f"F2: {frames.describe(mfn)} should have {n + 1}"
    assert (frames.tcount_np[1:XEN_FRAMES] == 1).all(), "F12: a frame of Xen's is used"


def check_free(mmu: Mmu) -> None:
    """F1: what has no references has nothing at all, and is on its domain's list."""
    frames = mmu.frames
    free = span(mmu, frames.refs_np) == 0
    for column in (frames.type_np, frames.tcount_np, frames.flags_np):
        assert not span(mmu, column)[free].any(), "F1: a frame without references has a type, uses or flags"
    assert (span(mmu, frames.owner_np)[free] == -1).all(), "F1, F13: a frame without references has an owner"
    for d in mmu.domains.values():
        listed = np.array(d.extents.free, dtype=np.int64)
        on_list = np.zeros(len(free), bool)
        on_list[listed - XEN_FRAMES] = True
        for base in d.extents.bases:
            part = slice(base - XEN_FRAMES, base - XEN_FRAMES + 1024)
            assert not (free[part] & ~on_list[part]).any(), f"F1: d{d.domid} has lost a free frame"


def check_totals(mmu: Mmu) -> None:
    """M1, and the machine's quota."""
    owners = span(mmu, mmu.frames.owner_np)
    plain = (span(mmu, mmu.frames.flags_np) & XEN) == 0
    for d in mmu.domains.values():
        owned = int(((owners == d.domid) & plain).sum())
        assert d.tot_pages == owned, f"M1: d{d.domid} counts {d.tot_pages} pages and has {owned}"
        assert owned <= d.max_pages, f"M1: d{d.domid} has {owned} of {d.max_pages} pages"
    used = int((owners >= 0).sum())
    assert mmu.allocator.used_frames == used, (
        f"{mmu.allocator.used_frames} frames of the quota, {used} in use"
    )
