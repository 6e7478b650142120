"""The exercise of an L1 entry's validation: the student's answers are compared with what Xen's core does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from domains.lab.exercises.exercise import Check, Exercise
from domains.lab.exercises.student import Frame, answers_of
from domains.lab.image import LabError
from domains.lab.systems.xen import Xen
from hypervisor.domain.lifecycle import create_domain
from hypervisor.machine.frame_types import PGT
from hypervisor.machine.paging import PAGE_PRESENT, PAGE_RW, PAGE_USER
from hypervisor.public.types import PAGE_SHIFT
from hypervisor.public.xen import Hypercall

PLACE: Final = 0x3F0
"""The page whose entry in the kernel's own table is tried."""
PLAIN, QUIET, DESCRIPTORS, USED_TO_BE_TABLE = 0x300, 0x301, 0x302, 0x303
"""Pages of the guest: one that is mapped writable, one that is not, a GDT, and one that was a page table."""
NO_MEMORY: Final = 1 << 30
TYPES: Final = {
    PGT.none: "none",
    PGT.l1_page_table: "l1",
    PGT.l2_page_table: "l2",
    PGT.pae_xen_l2_page_table: "l2",
    PGT.l3_page_table: "l3",
    PGT.l4_page_table: "l4",
    PGT.seg_desc_page: "gdt",
    PGT.writable_page: "writable",
}
GDT_ENTRIES: Final = 512


class Case(NamedTuple):
    """An entry, in words and in bits."""

    what: str
    entry: int
    hint: str


class Bench:
    """A guest on the core, and frames of every kind."""

    def __init__(self) -> None:
        self.system = Xen()
        self.system.begin([])
        self.vcpu = self.system.domain.vcpus[0]
        hv = self.system.xen.hv
        self.table = hv.mmu.frames
        other = create_domain(hv, hv.free_domid(), max_pages=1)
        self.others = hv.mmu.allocator.alloc_page(other.mem)
        for page in (QUIET, DESCRIPTORS, USED_TO_BE_TABLE):
            self.update(page, self.entry_of(page, PAGE_PRESENT))
        hv.mmu.descriptors.set_gdt(self.vcpu.mem, [self.mfn(DESCRIPTORS)], GDT_ENTRIES)
        hv.mmu.types.get_type(self.mfn(USED_TO_BE_TABLE), PGT.l1_page_table)
        hv.mmu.types.put_type(self.mfn(USED_TO_BE_TABLE))

    def close(self) -> None:
        """End the guest."""
        self.system.close()

    def mfn(self, page: int) -> int:
        """The frame of a page of the guest's."""
        return int(self.system.p2m[page])

    def entry_of(self, page: int, flags: int) -> int:
        """An entry for that page."""
        return self.mfn(page) << PAGE_SHIFT | flags

    def update(self, page: int, entry: int) -> int:
        """Have Xen make the entry by which the kernel sees this page: 0, or -errno."""
        words = (page << PAGE_SHIFT, entry & 0xFFFFFFFF, entry >> 32, 0)
        answer = self.system.xen.perform(self.vcpu, Hypercall.update_va_mapping, *words)
        if answer is None:
            raise LabError("the guest of the exercise has ended")
        return answer[0]

    def by_xen(self, entry: int) -> str:
        """What Xen does with an entry: "refused", or the reference that it takes."""
        self.update(PLACE, 0)
        mfn = entry >> PAGE_SHIFT
        before = self._counts(mfn)
        if self.update(PLACE, entry) < 0:
            return "refused"
        references, uses = (after - was for after, was in zip(self._counts(mfn), before, strict=True))
        return "write" if uses else "read" if references else "nothing"

    def _counts(self, mfn: int) -> tuple[int, int]:
        if mfn >= self.table.top:
            return 0, 0
        writable = self.table.type[mfn] == PGT.writable_page
        return self.table.refs[mfn], self.table.tcount[mfn] if writable else 0

    def frames(self) -> dict[int, Frame]:
        """Every frame that exists, for the student."""
        owners = {self.system.domain.domid: "guest", -1: "xen"}
        return {
            mfn: Frame(
                owners.get(self.table.owner[mfn], "other"),
                TYPES[PGT(self.table.type[mfn])],
                self.table.tcount[mfn],
            )
            for mfn in range(self.table.top)
        }

    def cases(self) -> list[Case]:
        """The entries that are tried, the simplest first."""
        ro, rw, own = PAGE_PRESENT, PAGE_PRESENT | PAGE_RW, self.entry_of
        others, xens = self.others << PAGE_SHIFT, 1 << PAGE_SHIFT
        only_owner = "only its owner may map it"
        return [
            Case("an entry that is not present", own(PLAIN, PAGE_RW), "it maps nothing"),
            Case("a page of the guest's, to read", own(PLAIN, ro), "it is the guest's own"),
            Case("the same, to write", own(PLAIN, rw), "it is the guest's own, and writable already"),
            Case("a page that nobody writes, to write", own(QUIET, rw), "its type has no uses"),
            Case("the same, for user space", own(QUIET, rw | PAGE_USER), "who uses it does not matter"),
            Case(
                "a frame that does not exist", NO_MEMORY << PAGE_SHIFT | ro, "frames.get returns None for it"
            ),
            Case("another domain's frame, to read", others | ro, only_owner),
            Case("another domain's frame, to write", others | rw, only_owner),
            Case("one of Xen's own frames, to read", xens | ro, only_owner),
            *self._cases_of_tables(ro, rw),
            Case("a GDT, to read", own(DESCRIPTORS, ro), "a guest may read its descriptors"),
            Case("a GDT, to write", own(DESCRIPTORS, rw), "nor may a descriptor table be writable"),
            Case(
                "a page that was a page table, to write",
                own(USED_TO_BE_TABLE, rw),
                "a type without uses may become another",
            ),
        ]

    def _cases_of_tables(self, ro: int, rw: int) -> list[Case]:
        frames = self.system.xen.memory
        l3 = self.system.top_table()
        l2 = int(frames.page(l3)[0]) >> PAGE_SHIFT
        l1 = int(frames.page(l2)[0]) >> PAGE_SHIFT
        twice = "a frame has one type at a time: a page table must not be writable"
        return [
            Case(f"a page table ({level}), {what}", mfn << PAGE_SHIFT | flags, hint)
            for level, mfn in (("l1", l1), ("l2", l2), ("l3", l3))
            for what, flags, hint in (("to read", ro, "a guest may read its tables"), ("to write", rw, twice))
        ]


def check(file: Path) -> Iterator[Check]:
    """Compare the answers in `file` with Xen's. LabError: it is no Python, has no validate_l1e, or does not come to an end."""
    with closing(Bench()) as bench:
        cases = bench.cases()
        answers = answers_of(file, [case.entry for case in cases], bench.frames())
        for case, got in zip(cases, answers, strict=True):
            wanted = bench.by_xen(case.entry)
            what = f"{case.what} ({case.entry:#x})"
            yield Check(what, "" if got == wanted else f"Xen: {wanted}; you: {got}. Hint: {case.hint}")


EXERCISE: Final = Exercise(
    "validate-l1",
    "Write Xen's check of an entry of an L1 table: what may a guest map, and which reference does it take?",
    Path(__file__).with_name("validate.py"),
    check,
)
