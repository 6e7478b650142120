"""Shadow tables against the guest's own, at random: whatever a guest does to them, its CPU sees no more than a TLB may keep.

Each step changes an entry, loads CR3, flushes a page, or accesses memory. An access that the shadows permit must be one that the
guest's tables permitted at some time since that page was last flushed, to the same memory. One that they refuse is decided by the
tables as they are; if these permit it, the shadows do so afterwards. Beyond A and D of the entries used nothing is written.
The pool is so small that trees are recycled all the time.
Negative controls, tried: without the comparison at a load of CR3 (`ShadowSpace._sync`), or with pages shadowed writable before
they are dirty, it fails.
"""

from itertools import pairwise, product
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domains.cpu.x86.emulator.cpu_state import CR, EFER, HF_LMA
from domains.cpu.x86.hvm.shadow_paging import ShadowPaging
from domains.cpu.x86.paging import NotMapped
from domains.cpu.x86.registers import CR0_PE, CR0_PG, CR0_WP, CR4_PAE, CR4_PGE, EFER_LMA, EFER_LME, EFER_NX
from hypervisor.machine.paging import (
    FORMATS,
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_GLOBAL,
    PAGE_NX,
    PAGE_PRESENT,
    PAGE_PSE,
    PAGE_RW,
    PAGE_USER,
    PFEC_FETCH,
    PFEC_PRESENT,
    PFEC_USER,
    PFEC_WRITE,
    PTE_MFN_MASK,
)
from tests.domains.cpu.x86.hvm_bench import HOLE, READ_ONLY, HvmBench

POOL = 24
TABLES = [0x10000 + 0x1000 * n for n in range(7)]
ROOTS = TABLES[:2]
PAGES = [0x40000, 0x41000, 0x42000, *TABLES, 0, 0x200000, HOLE, READ_ONLY]
SLOTS = [0, 1, 511]
PRESENT = PAGE_PRESENT | PAGE_RW | PAGE_USER
FLAGS = [PAGE_RW, PAGE_USER, PAGE_ACCESSED, PAGE_DIRTY, PAGE_PSE, PAGE_GLOBAL, PAGE_NX]
ACCESSES = [0, PFEC_WRITE, PFEC_USER, PFEC_USER | PFEC_WRITE, PFEC_FETCH, PFEC_FETCH | PFEC_USER]


class Seen(NamedTuple):
    """What the guest's tables said of a page at some time."""

    machine: int
    rights: int
    forbidden: int
    dirty: int
    is_global: int


class Guest:
    """A guest that never runs: its tables, and what they have said of each address since it was last flushed."""

    def __init__(self, hvm: HvmBench, count: int) -> None:
        self.hvm, self.count = hvm, count
        assert isinstance(hvm.v.paging, ShadowPaging)
        self.paging = hvm.v.paging
        self.format = FORMATS[count]
        self.history: dict[int, list[Seen]] = {self.va(slots): [] for slots in product(SLOTS, repeat=count)}
        for table in TABLES:
            hvm.write(table, bytes(4096))
        long_mode = count == 4
        hvm.q[EFER] = EFER_NX | (EFER_LME | EFER_LMA if long_mode else 0)
        hvm.v.cpu.set_hflags(HF_LMA, HF_LMA if long_mode else 0)
        cr4 = CR4_PGE | (CR4_PAE if count > 2 else 0)
        self.paging.load_controls(CR0_PG | CR0_PE | CR0_WP, 0, ROOTS[0], cr4)
        self.paging.invalidate_all()
        chain = TABLES[5 - count + 1 : 5]
        for root in ROOTS:
            self.edit(root, 0, chain[0] | PRESENT)
            self.edit(root, 1, chain[0] | PRESENT)
        for upper, lower in pairwise(chain):
            self.edit(upper, 0, lower | PRESENT)
        for slot, page in enumerate(PAGES[: len(SLOTS)]):
            self.edit(chain[-1], SLOTS[slot], page | PRESENT)

    def edit(self, table: int, slot: int, entry: int) -> None:
        size = self.format.entry_size
        self.hvm.write(
            table + slot % (4096 // size) * size, (entry & (1 << 8 * size) - 1).to_bytes(size, "little")
        )
        self.note()

    def va(self, slots: tuple[int, ...]) -> int:
        va = sum(
            (slot & mask) << shift
            for slot, shift, mask in zip(slots, self.format.shifts, self.format.masks, strict=False)
        )
        return va | (0xFFFF << 48 if self.count == 4 and va >> 47 else 0)

    def now(self, va: int) -> Seen | None:
        """What the tables say now."""
        steps = self.paging.walk(va, self.count)
        if not steps[-1].entry & PAGE_PRESENT:
            return None
        rights, forbidden = self.paging._rights(steps)
        last = steps[-1].entry
        try:
            machine = self.paging.machine(self.paging.leads_to(steps[-1], va, self.count)) & -4096
        except NotMapped:
            return None
        return Seen(machine, rights, forbidden, last & PAGE_DIRTY, last & PAGE_GLOBAL)

    def note(self) -> None:
        """Remember what each address leads to."""
        for va, history in self.history.items():
            seen = self.now(va)
            if seen is not None and seen not in history:
                history.append(seen)

    def load_cr3(self, root: int) -> None:
        assert self.paging.write_control(3, root)
        for va in self.history:
            self.history[va] = [seen for seen in self.history[va] if seen.is_global]
        self.note()
        self.check_fresh()

    def write_protect(self, on: bool) -> None:
        assert self.paging.write_control(0, CR0_PG | CR0_PE | (CR0_WP if on else 0))
        self.note()

    def invlpg(self, va: int) -> None:
        self.paging.invalidate(va)
        for other in self.history:
            if other >> 12 == va >> 12:
                self.history[other] = []
        self.note()

    def shadow(self, va: int) -> int:
        """The shadow's leaf entry, found as the CPU does."""
        words, physical = self.paging._space.pool.words, self.paging._space.pool.address(0)
        table = self.hvm.q[CR + 3]
        for shift in (39, 30, 21, 12) if self.count == 4 else (30, 21, 12):
            entry = words[(table - physical) // 8 + (va >> shift & 511)]
            if not entry & PAGE_PRESENT:
                return 0
            table = entry & PTE_MFN_MASK
        return entry

    def permits(self, va: int, access: int) -> bool:
        entry = self.shadow(va)
        return bool(
            entry & PAGE_PRESENT
            and not (access & PFEC_WRITE and not entry & PAGE_RW)
            and not (access & PFEC_USER and not entry & PAGE_USER)
            and not (access & PFEC_FETCH and entry & PAGE_NX)
        )

    def legal(self, va: int, access: int) -> bool:
        """Whether a TLB could permit this access with the shadow's frame."""
        frame = self.shadow(va) & PTE_MFN_MASK
        supervisor = not access & PFEC_USER and not self.paging.control(0) & CR0_WP
        return any(
            seen.machine == frame
            and not (access & PFEC_WRITE and not (seen.dirty and (seen.rights & PAGE_RW or supervisor)))
            and not (access & PFEC_USER and not seen.rights & PAGE_USER)
            and not (access & PFEC_FETCH and seen.forbidden)
            for seen in self.history[va]
        )

    def access(self, va: int, access: int) -> None:
        self.note()
        if self.permits(va, access):
            assert self.legal(va, access), f"{va:#x} {access}"
            return
        before = self.contents()
        steps = self.paging.walk(va, self.count)
        refused = self.paging.refusal(steps, self.count, access)
        try:
            assert self.paging.page_fault(va, access | PFEC_PRESENT) == refused
        except NotMapped:
            assert self.contents() == before
            assert refused is None
            return
        if refused is not None:
            assert self.contents() == before
            return
        used = {step.at for step in steps if not (self.count == 3 and step.level == 3)}
        for at in used:
            before[at // 8 * 8] |= PAGE_ACCESSED << 8 * (at % 8)
        if access & PFEC_WRITE:
            before[steps[-1].at // 8 * 8] |= PAGE_DIRTY << 8 * (steps[-1].at % 8)
        assert self.contents() == before
        self.note()
        assert self.permits(va, access)
        assert self.legal(va, access)

    def contents(self) -> dict[int, int]:
        """Every eight bytes of the guest's tables, by machine address."""
        found: dict[int, int] = {}
        for table in TABLES:
            at = self.paging.machine(table)
            words = self.hvm.memory.page(at >> 12).tolist()
            found |= {at + 8 * n: word for n, word in enumerate(words)}
        return found

    def check_fresh(self) -> None:
        """After a load of CR3: what the shadows have is what the tables say, but for global pages."""
        space = self.paging._space
        for tree in space._linked.values():
            for number, leaf in tree.leaves.items():
                for slot, entry in enumerate(space.pool.tables[leaf.frame].tolist()):
                    if entry:
                        seen = self.now(number << 21 | slot << 12)
                        assert leaf.is_global or seen is not None
                        if not leaf.is_global and seen is not None:
                            assert entry & PTE_MFN_MASK == seen.machine
                            assert not entry & PAGE_USER or seen.rights & PAGE_USER
                            assert not entry & PAGE_RW or not entry & PAGE_USER or seen.rights & PAGE_RW


@pytest.fixture(scope="module")
def hvm() -> HvmBench:
    return HvmBench(POOL)


def entries() -> st.SearchStrategy[int]:
    flags = st.lists(st.sampled_from(FLAGS), unique=True, max_size=5).map(sum)
    usual = st.sampled_from([PRESENT, PRESENT | PAGE_ACCESSED | PAGE_DIRTY])
    present = st.one_of(flags.map(lambda bits: bits | PAGE_PRESENT), usual)
    return st.builds(
        lambda page, bits: page | bits, st.sampled_from(PAGES), st.one_of(present, present, flags)
    )


def steps() -> st.SearchStrategy[tuple[object, ...]]:
    slots = st.tuples(*[st.sampled_from([0, 0, 0, *SLOTS])] * 4)
    return st.one_of(
        st.tuples(st.just("edit"), st.sampled_from(TABLES), st.sampled_from(SLOTS), entries()),
        st.tuples(st.just("access"), slots, st.sampled_from(ACCESSES)),
        st.tuples(st.just("access"), slots, st.sampled_from(ACCESSES)),
        st.tuples(st.just("load_cr3"), st.sampled_from(ROOTS)),
        st.tuples(st.just("invlpg"), slots),
        st.tuples(st.just("write_protect"), st.booleans()),
    )


@pytest.mark.parametrize("count", [2, 3, 4])
def test_shadows_are_a_tlb_of_the_guests_tables(hvm: HvmBench, count: int) -> None:
    @settings(max_examples=40, deadline=None)
    @given(st.lists(steps(), min_size=20, max_size=60))
    def run(script: list[tuple[object, ...]]) -> None:
        guest = Guest(hvm, count)
        for name, *arguments in script:
            if name in ("access", "invlpg"):
                slots, *rest = arguments
                getattr(guest, str(name))(guest.va(slots), *rest)  # type: ignore[arg-type]
            else:
                getattr(guest, str(name))(*arguments)

    run()
