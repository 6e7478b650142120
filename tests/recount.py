"""The master check: every reference and type count of a machine, counted again from the page tables themselves.

It shares no code with the hypervisor's memory management: it reads the frames as a guest's CPU would see them, goes
through every validated or parked table, adds up what each entry, register, pin and flag must hold, and compares the
sums with the frame table (F1, F2, F3, M1). It also looks at each entry for bits that no guest may have (P1, P6), and
at the core's copies, which must be exact images of the frames (P10). May be called at every stop point of a
preempted operation (Q1).

What other parts hold is given by the caller: `held`, one (mfn, writable) for each grant map's host or device part,
each registered area, and whatever else took references through `get_page` or `get_page_and_type`.
"""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hypervisor.mm.domain_memory import snapshot_domain
from hypervisor.mm.frame_table import COLUMNS
from hypervisor.mm.layout import XEN_FRAMES
from hypervisor.mm.mmu import Mmu
from hypervisor.public.types import DomId

P, RW, US, G, PSE = 1, 2, 4, 1 << 8, 1 << 7
A_D = 3 << 5
FRAME_BITS = ((1 << 40) - 1) << 12
GUEST_KERNEL, GRANTED = 1 << 52, 1 << 62
CACHE_BITS = 3 << 3
P2M_GRANT_MAP = 1 << 9

ALLOCATED, PINNED, VALIDATED, PARTIAL, XEN = 1, 2, 4, 8, 16
NONE, L1, L2, L3, L4, SEG_DESC, PAE_XEN_L2, WRITABLE = range(8)
FIRST_XEN_SLOT_OF_PAE_L2 = 428

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
    count_tables(mmu, np.array(tables, np.int64), count, honest=honest)
    count_vcpus(mmu, count, honest=honest)
    count_p2ms(mmu, count, honest=honest)
    for mfn, writable in held:
        count.ref(mfn)
        if writable:
            use(mmu, mfn, WRITABLE, count)
    compare(mmu, count)
    check_free(mmu)
    check_totals(mmu)
    assert all(mfn in mmu.tables for mfn in tables), "P10: a table without the core's copy"
    assert len(mmu.tables) == len(tables), f"P10: {len(mmu.tables)} copies of {len(tables)} tables"


def readings(mmu: Mmu, *, honest: bool) -> list[Any]:
    """What `recount` reads. While it stays equal and the same is held, another recount would find what the last one found.

    Of what lies in frames there are only the tables of honest guests: not the M2P, and not the tables behind a P2M.
    """
    frames, tables = mmu.frames, mmu.tables.snapshot()
    # Of Xen's frames, which are many and hardly ever change, a sum will do; of two counts at a time it is quick.
    columns = [span(mmu, getattr(frames, f"{name}_np")).tobytes() for name in COLUMNS]
    xen = [int(column[:XEN_FRAMES].view(np.uint64).sum()) for column in (frames.refs_np, frames.tcount_np)]
    shown = mmu.contents.memory.frames[[mfn for mfn, _ in tables]].tobytes() if honest and tables else b""
    return [
        columns,
        xen,
        tables,
        shown,
        [snapshot_domain(d) for d in mmu.domains.values()],
        mmu.allocator.used_frames,
    ]


def find_tables(mmu: Mmu) -> list[int]:
    """Frames that are validated or parked page tables."""
    types, flags = span(mmu, mmu.frames.type_np), span(mmu, mmu.frames.flags_np)
    tables = is_table(types) & ((flags & (VALIDATED | PARTIAL)) != 0)
    found: list[int] = (np.flatnonzero(tables) + XEN_FRAMES).tolist()
    return found


def is_table(types: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which of these types are page tables'."""
    found: npt.NDArray[np.bool_] = ((types >= L1) & (types <= L4)) | (types == PAE_XEN_L2)
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
    tables = shared & (types != NONE) & (types != WRITABLE)
    assert not tables.any(), "F12: a frame of Xen's is a table"
    assert not ((flags & (PARTIAL | VALIDATED)) == PARTIAL | VALIDATED).any(), "Q1: partial and validated"


def count_tables(mmu: Mmu, mfns: npt.NDArray[np.int64], count: Count, *, honest: bool) -> None:
    """What the entries of all tables hold; of a parked one, those that it still or already holds (Q1)."""
    frames = mmu.frames
    if not len(mfns):
        return
    levels, parked = frames.type_np[mfns].copy(), (frames.flags_np[mfns] & PARTIAL) != 0
    narrow = compat_owned(mmu, mfns)
    xen_l2s = levels == PAE_XEN_L2
    levels[xen_l2s] = L2
    held = np.stack([mmu.tables[mfn].entries for mfn in mfns.tolist()])
    if honest:
        differ = ((mmu.contents.memory.frames[mfns] ^ held) & np.uint64(~A_D & (1 << 64) - 1)).any(axis=1)
        for mfn in mfns[differ & ~parked].tolist():
            raise AssertionError(f"P10: {frames.describe(mfn)}")
    for row in np.flatnonzero(parked).tolist():
        mfn, validated = int(mfns[row]), frames.nr_validated[int(mfns[row])]
        if frames.partial_set[mfn]:
            count.ref((int(held[row, validated]) & FRAME_BITS) >> 12)
        held[row, validated:] = 0
    held[levels == L4, 256:272] = 0
    assert not held[narrow & (levels == L3) & ~parked, 4:].any(), (
        "P7: a PAE L3 shows the CPU more than four entries"
    )
    assert narrow[xen_l2s].all(), "P7: a 64-bit guest's table of a 32-bit one's kind"
    assert not (narrow & (levels == L4)).any(), "P7: a 32-bit guest's L4"
    check_shown_m2p(held[xen_l2s & ~parked])
    held[narrow & (levels == L3), 4:] = 0
    held[xen_l2s, FIRST_XEN_SLOT_OF_PAE_L2:] = 0
    rows, columns = np.nonzero(held & np.uint64(P))
    present = held[rows, columns]
    wide = ~narrow[rows]
    check_bits(present[wide], levels[rows][wide], mfns[rows][wide], checked=~parked[rows][wide])
    check_compat_bits(present[~wide], levels[rows][~wide], checked=~parked[rows][~wide])
    in_l1 = levels[rows] == L1
    count_l1(mmu, present[in_l1], count)
    upper = rows[~in_l1]
    for mfn, slot, entry in zip(
        mfns[upper].tolist(), columns[~in_l1].tolist(), present[~in_l1].tolist(), strict=True
    ):
        count_upper(mmu, mfn, slot, entry, count)


def compat_owned(mmu: Mmu, mfns: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which of these frames are 32-bit guests'."""
    owners = mmu.frames.owner_np[mfns]
    found = np.zeros(len(mfns), bool)
    for d in mmu.domains.values():
        if d.rules.address_size == 32:
            found |= owners == d.domid
    return found


def check_shown_m2p(held: Entries) -> None:
    """P7: behind slot 428 an L2 with Xen's slots shows the M2P's frames, to the kernel alone and to nobody writable."""
    shown = held[:, FIRST_XEN_SLOT_OF_PAE_L2:]
    present = shown[(shown & np.uint64(P)) != 0]
    assert not (present & np.uint64(RW | US)).any(), "P7: Xen's slot of a PAE L2 is writable, or user space's"
    frames = (present & np.uint64(FRAME_BITS)) >> np.uint64(12)
    assert (frames < XEN_FRAMES).all(), "P7: Xen's slot of a PAE L2 shows a guest's frame"


def check_compat_bits(
    present: Entries, levels: npt.NDArray[np.int64], *, checked: npt.NDArray[np.bool_]
) -> None:
    """P1 for the entries of 32-bit guests; those of an L3 that was published have RW and US for the CPU's sake."""
    assert not (present & np.uint64(CACHE_BITS | PSE)).any(), "P1 (XSA-148)"
    upper, l3 = levels != L1, levels == L3
    assert not (present[upper] & np.uint64(G)).any(), "P1 (global)"
    assert not (present[l3] >> np.uint64(52)).any(), "P1: a right in a PAE L3 entry"
    rights = present[l3 & checked] & np.uint64(RW | US)
    assert (rights == RW | US).all(), "a PAE L3 entry without the bits that long mode needs"


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


def count_upper(mmu: Mmu, mfn: int, slot: int, entry: int, count: Count) -> None:
    """What one present entry of an L2, L3 or L4 holds (P4, P11)."""
    frames = mmu.frames
    kind = frames.type[mfn]
    level = L2 if kind == PAE_XEN_L2 else kind
    narrow = mmu.domains[DomId(frames.owner[mfn])].rules.address_size == 32
    target = (entry & FRAME_BITS) >> 12
    if target == mfn:
        assert not entry & RW, f"P11: writable self-reference {entry:#x} in frame {mfn:#x}"
        return
    assert frames.owner[target] == frames.owner[mfn], f"P4: foreign table in L{level} entry {entry:#x}"
    count.ref(target)
    if narrow and level == L3:
        use(mmu, target, PAE_XEN_L2 if slot == 3 else L2, count)
    elif frames.type[target] == kind:
        assert not entry & RW, f"P11: writable linear entry {entry:#x} in frame {mfn:#x} (XSA-182)"
        use(mmu, target, kind, count)
        count.linear[mfn - XEN_FRAMES] += 1
        count.linear[target - XEN_FRAMES] -= 1
    else:
        use(mmu, target, level - 1, count)


def check_bits(
    present: Entries,
    levels: npt.NDArray[np.int64],
    mfns: npt.NDArray[np.int64],
    *,
    checked: npt.NDArray[np.bool_],
) -> None:
    """P1 for all present entries, P6 for those of tables that were published (`checked`)."""

    def none(wrong: npt.NDArray[np.bool_], rule: str) -> None:
        if wrong.any():
            raise AssertionError(f"{rule}: an entry of frame {int(mfns[wrong.argmax()]):#x}")

    def having(bits: int) -> npt.NDArray[np.bool_]:
        found: npt.NDArray[np.bool_] = (present & np.uint64(bits)) != 0
        return found

    in_l1, everywhere = levels == L1, having(G)
    none(having(CACHE_BITS | PSE), "P1 (XSA-148)")
    none(checked & ~having(US), "P6 (without US)")
    none(
        checked & in_l1 & (having(GUEST_KERNEL) == everywhere),
        "P6 (both the kernel's and global, or neither)",
    )
    none(checked & ~in_l1 & everywhere, "P1 (global)")


def count_vcpus(mmu: Mmu, count: Count, *, honest: bool) -> None:
    """CR3s, descriptor tables and parked drops of all vCPUs. What a 32-bit guest's CPU runs on lies in its domain's memory: it is
    its process's to spoil.
    """
    for v in (v for d in mmu.domains.values() for v in d.vcpus):
        top = L3 if v.domain.rules.address_size == 32 else L4
        uses = [(base, top) for base in (v.cr3, v.user_cr3) if base is not None]
        if v.compat_l4 is not None and honest:
            shown = (int(mmu.contents.memory.frames[v.compat_l4, 0]) & FRAME_BITS) >> 12
            assert shown == (v.cr3 or 0), f"d{v.domain.domid}'s CPU runs on {shown:#x}, not on {v.cr3}"
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


def count_p2ms(mmu: Mmu, count: Count, *, honest: bool) -> None:
    """One reference and one writable use for each entry of a translated domain's P2M, which names a frame of its own, once; for
    a grant's a reference, and a use if it may write.
    """
    for d in mmu.domains.values():
        if d.p2m is None:
            continue
        seen: set[int] = set()
        for number, leaf in d.p2m.leaves.items():
            table = d.p2m.tables[1, number]
            if honest:
                assert (mmu.contents.memory.frames[table] == leaf).all(), f"P2M: {mmu.frames.describe(table)}"
            for slot in np.flatnonzero(leaf).tolist():
                mfn, gfn = (int(leaf[slot]) & FRAME_BITS) >> 12, number << 9 | slot
                if int(leaf[slot]) & P2M_GRANT_MAP:
                    count.ref(mfn)
                    if int(leaf[slot]) & RW:
                        use(mmu, mfn, WRITABLE, count)
                    continue
                assert mmu.frames.owner[mfn] == d.domid, f"P2M: {gfn:#x} of d{d.domid} is a frame of another"
                assert mfn not in seen, f"P2M: frame {mfn:#x} is in two places"
                assert mmu.m2p.get(mfn) == gfn, f"P2M: frame {mfn:#x} at {gfn:#x}, not {mmu.m2p.get(mfn):#x}"
                seen.add(mfn)
                count.ref(mfn)
                use(mmu, mfn, WRITABLE, count)


def count_old_linear(mmu: Mmu, old: int, parent: int | None, count: Count) -> None:
    """An entry that is gone, whose table is still to be dropped, counts as linear until then."""
    if parent is not None and mmu.frames.type[parent] == mmu.frames.type[old]:
        count.linear[parent - XEN_FRAMES] += 1
        count.linear[old - XEN_FRAMES] -= 1


def compare(mmu: Mmu, count: Count) -> None:
    frames = mmu.frames
    refs, tcount = (span(mmu, column).astype(np.int64) for column in (frames.refs_np, frames.tcount_np))
    types, linear = span(mmu, frames.type_np), span(mmu, frames.linear_np)
    tables = is_table(types) & (tcount > 0)
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
    shared = (types == PAE_XEN_L2) & (tcount > 1)
    assert not shared.any(), f"P7: {frames.describe(int(shared.argmax()) + XEN_FRAMES)} is shared"
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
    used = span(mmu, frames.type_np) | span(mmu, frames.tcount_np) | span(mmu, frames.flags_np)
    assert not used[free].any(), "F1: a frame without references has a type, uses or flags"
    assert (span(mmu, frames.owner_np)[free] == -1).all(), "F1, F13: a frame without references has an owner"
    for d in mmu.domains.values():
        listed = np.frombuffer(array("q", d.extents.free), np.int64)
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
    used = int((owners >= 0).sum()) + sum(d.paging_pool for d in mmu.domains.values())
    assert mmu.allocator.used_frames == used, (
        f"{mmu.allocator.used_frames} frames of the quota, {used} in use"
    )
