"""Shadow paging: the CPU walks tables that Xen makes of the guest's own tables and of the P2M.

    linear address ──guest's tables (its CR3)──► guest-physical ──P2M──► machine address
         └──────────────shadow tables (the CPU's CR3: shadow_tables)──────────────┘

The guest's CR0, CR3 and CR4 are kept here; the CPU runs with paging, PAE and write protection whatever the guest's own are. A
page fault is an exit: if the guest's tables allow the access, it is *hidden* (the shadow is filled in), else it is the guest's.
Accessed and dirty bits are written into the guest's entries when a shadow entry is made that lets the CPU use them: a page is
shadowed writable only once its entry is dirty. Without CR0.WP, a page that the kernel may write and user code may only read is
shadowed for one of the two at a time.

Differences from Xen, on purpose: guest tables are never write-protected; they are compared at each flush. It costs a Linux guest
fewer exits, needs no instruction emulator, and sees what others than the guest's CPU write into its tables.
Source: Xen arch/x86/mm/shadow/multi.c; Intel SDM vol. 3A §4.10 (what a TLB may keep).
"""

from typing import Final

import numpy as np

from domains.cpu.x86.emulator.cpu_state import CR, EFER, CpuState
from domains.cpu.x86.emulator.svm import PAGES as SVM_PAGES
from domains.cpu.x86.emulator.unicorn_library import UnicornLibrary
from domains.cpu.x86.hvm.paging import ADDRESS_BITS, Step
from domains.cpu.x86.hvm.pmap import Pmap
from domains.cpu.x86.hvm.shadow_controls import ShadowControls
from domains.cpu.x86.hvm.shadow_space import LONG_MODE, Key, ShadowSpace
from domains.cpu.x86.hvm.shadow_tables import (
    FRAME_BITS,
    L4_SHIFT,
    LEAF,
    LEAF_SHIFT,
    SLOT,
    TABLE_SHIFT,
    Leaf,
    Seen,
    ShadowPool,
    Tree,
    shadow_of_span,
)
from domains.cpu.x86.machine_paging import PAGE_OFFSET
from domains.cpu.x86.paging import NotMapped
from domains.cpu.x86.registers import (
    CR0_WP,
    CR4_PGE,
    EFER_NX,
    U32,
)
from hypervisor.machine.memory import MachineMemory
from hypervisor.machine.paging import (
    FORMATS,
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_NX,
    PAGE_PRESENT,
    PAGE_RW,
    PAGE_USER,
    PFEC_FETCH,
    PFEC_USER,
    PFEC_WRITE,
    PTE_MFN_MASK,
)
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE

ACCESS: Final = PFEC_WRITE | PFEC_USER | PFEC_FETCH


MAX_TOPS: Final = 64


class ShadowPaging(ShadowControls):
    """A `Paging`."""

    def __init__(
        self, memory: MachineMemory, cpu: CpuState, library: UnicornLibrary, pool_frames: int
    ) -> None:
        super().__init__(memory, cpu, library)
        self.pmap = Pmap(memory)
        pool = ShadowPool(library, pool_frames, memory.size + SVM_PAGES * PAGE_SIZE)
        self._space = ShadowSpace(pool, self.pmap, memory.octets, self.counters)

        self._tops: dict[int, tuple[bytes, int, frozenset[Key]]] = {}
        """By machine address, L4 tables that were loaded: as they were, with CR0, and what came of it."""

    def enable(self, p2m: int) -> None:
        """The P2M's top table lies in this machine frame."""
        self._p2m = p2m
        self.pmap.load(p2m)
        self.svm.enable_shadow()

    def activate(self, root: int, *, keep: bool = False) -> None:
        """Load the guest's CR3 on Xen's account."""
        self._cr3 = root << PAGE_SHIFT
        self.switch()

    # --- flushes -------------------------------------------------------------------------------------

    def switch(self) -> None:
        """The guest's CR3 was loaded: its address space is in force, with all that changed in it since; the TLB is empty."""
        space = self._space
        space.has_global = self._cr4 & CR4_PGE != 0
        if self.level_count == LONG_MODE:
            self._cpu.q[CR + 3] = space.switch_long(self._keys_long())
        else:
            self._load_32(space.switch_32(self._key_32()))
        self._library.tlb_flush()

    def _load_32(self, tree: Tree) -> None:
        """Point the CPU's CR3 at a 32-bit guest's tree."""
        self._cpu.q[CR + 3] = self._space.pool.address(tree.top)

    def _keys_long(self) -> frozenset[Key]:
        """Of the entries of the guest's L4 that a CPU has used already. Kept for as long as that is the same."""
        try:
            at = self.machine(self._cr3 & PTE_MFN_MASK)
        except NotMapped:
            return frozenset()
        octets = bytes(self._octets[at : at + PAGE_SIZE])
        known = self._tops.get(at)
        if known is not None and known[0] == octets and known[1] == self._cr0:
            return known[2]
        entries = np.frombuffer(octets, np.uint64)
        used = [(slot, int(entries[slot])) for slot in np.nonzero(entries)[0].tolist()]
        keys = frozenset(self._key_long(slot, entry) for slot, entry in used if entry & PAGE_ACCESSED)
        if len(self._tops) >= MAX_TOPS:
            self._tops.clear()
        self._tops[at] = octets, self._cr0, keys
        return keys

    def _key_long(self, slot: int, entry: int) -> Key:
        return LONG_MODE, slot, entry & ~PAGE_ACCESSED, self._cr0 & CR0_WP

    def _key_32(self) -> Key:
        count = self.level_count
        root = self._cr3 & (U32 & ~31 if count == 3 else ADDRESS_BITS[2]) if count else 0
        return count, 0, root, self._cr0 & CR0_WP

    def flush_global(self) -> None:
        """At the next switch global pages are looked at, too."""
        self._space.flush_global()

    def invalidate(self, va: int) -> None:
        """The guest's INVLPG."""
        self.counters["INVLPG"] += 1
        if self._space.forget(va):
            self._library.tlb_flush()
        else:
            self._library.tlb_flush_page(va)

    def invalidate_all(self) -> None:
        """The P2M, or what an entry's bits mean, has changed: no shadow is right any more."""
        self.counters["all dropped"] += 1
        self.pmap.load(self._p2m)
        self._space.no_execute = PAGE_NX if self._cpu.q[EFER] & EFER_NX else 0
        self._space.release_all()
        self.switch()

    # --- faults --------------------------------------------------------------------------------------

    def machine(self, gpa: int, *, write: bool = False) -> int:
        """The machine address of a guest-physical one. Raises NotMapped."""
        gfn = gpa >> PAGE_SHIFT
        entry = self.pmap.entry(gfn)
        if not entry:
            at = super().machine(gpa)
            writable = PAGE_RW
            try:
                super().machine(gpa, write=True)
            except NotMapped:
                writable = 0
            self.pmap.add(gfn, at & ~PAGE_OFFSET | writable | PAGE_PRESENT)
            return self.machine(gpa, write=write)
        if write and not entry & PAGE_RW:
            raise NotMapped(gpa)
        return entry & FRAME_BITS | gpa & PAGE_OFFSET

    def translate(self, va: int, *, write: bool = False, fetch: bool = False) -> int:
        """The machine address of `va`. Raises GuestFault; NotMapped if the guest's tables lead nowhere."""
        entry = self._space.entry(va) if fetch else 0
        if entry and not entry & PAGE_NX:  # the CPU has just fetched the instruction by it
            return entry & FRAME_BITS | va & PAGE_OFFSET
        at = super().translate(va, write=write, fetch=fetch)
        if not fetch:  # it is accessed, and dirty, as if by the CPU
            self.page_fault(va, self.user_access | (PFEC_WRITE if write else 0))
        return at

    def page_fault(self, va: int, error: int) -> int | None:
        """What a page fault of the CPU's is: None, its shadow is filled in now; or the error code of the guest's own.

        Raises NotMapped: the guest's tables allow the access, but nothing is there, or it may not be written.
        """
        count, access = self.level_count, error & ACCESS
        steps = self.walk(va, count) if count else []
        refused = self.refusal(steps, count, access)
        if refused is not None:
            return refused
        gpa = self.leads_to(steps[-1], va, count) if steps else va & U32
        write = access & PFEC_WRITE
        self.machine(gpa, write=write != 0)
        self._space.make_room()
        tree = self._tree(va, steps)
        steps = self._mark(tree, va, steps, count, write=write != 0)
        self._fill(tree, va, steps, gpa, access)
        return None

    def shadow(self, va: int) -> int:
        """The entry by which the CPU finds the page of `va`; 0: there is none yet."""
        return self._space.entry(va)

    @property
    def kept(self) -> tuple[int, int]:
        """How many of the guest's address spaces have shadows, and how many frames of the pool are used."""
        pool = self._space.pool
        return self._space.nr_trees, pool.nr_frames - pool.nr_free

    def _tree(self, va: int, steps: list[Step]) -> Tree:
        """The tree in force that shadows `va`."""
        if self.level_count == LONG_MODE:
            return self._space.tree(self._key_long(va >> L4_SHIFT & SLOT, steps[0].entry))
        tree = self._space.tree(self._key_32())
        self._load_32(tree)
        return tree

    def table_seen(self, at: int, level: int) -> None:
        """A table of the guest's, at this machine address, is shadowed from now on."""

    def _upper(self, tree: Tree, va: int, step: Step, count: int) -> Seen:
        """What was seen of the upper table that this step of a walk goes through, brought up to date."""
        paging = FORMATS[count]
        shift, entries = paging.shifts[-step.level], paging.masks[-step.level] + 1
        size = entries * paging.entry_size
        first, at = va & -(entries << shift), step.at & -size
        seen = tree.uppers.get((first, shift))
        if seen is None or seen.at != at:
            tree.drop_span(first, entries << shift)
            seen = tree.uppers[first, shift] = Seen(at, size, paging.entry_size, first, shift)
            seen.octets = bytes(self._octets[at : at + size])
            self.table_seen(at, step.level)
        elif seen.entry(step.at) != step.entry:
            tree.changed(seen, paging.index(va, step.level))
            seen.note(step.at, step.entry)
        return seen

    def _mark(self, tree: Tree, va: int, steps: list[Step], count: int, *, write: bool) -> list[Step]:
        """Set A in the guest's entries, and D in the last one of a write; the steps as they are now."""
        marked = []
        for step in steps:
            level, at, entry = step
            upper = self._upper(tree, va, step, count) if 1 < level < 4 else None
            if not (count == 3 and level == 3):
                entry |= PAGE_ACCESSED | (PAGE_DIRTY if write and step is steps[-1] else 0)
            if entry != step.entry:
                size = FORMATS[count].entry_size
                self._words[size][at // size] = entry
                if upper is not None:
                    upper.note(at, entry)
                    if step is steps[-1]:
                        tree.changed(upper, FORMATS[count].index(va, level))
            marked.append(Step(level, at, entry))
        return marked

    def _fill(self, tree: Tree, va: int, steps: list[Step], gpa: int, access: int) -> None:
        """Shadow the page of `va`, whose walk permits the access."""
        uppers = steps[:-1] if steps and steps[-1].level == 1 else steps
        leaf = tree.leaves.get(va >> LEAF_SHIFT)
        if leaf is None:
            leaf = self._new_leaf(tree, va, steps, uppers, gpa)
        elif leaf.table is not None:
            table = leaf.table
            if table.octets != bytes(self._octets[table.at : table.end]):
                self._space.refresh(leaf, table)
        rights, no_execute = self._rights(steps)
        frame = self.pmap.entry(gpa >> PAGE_SHIFT)
        entry = frame & FRAME_BITS | LEAF | no_execute
        if access & PFEC_WRITE and not rights & PAGE_RW:  # the kernel's, without CR0.WP
            entry |= PAGE_RW
        else:
            dirty = not steps or steps[-1].entry & PAGE_DIRTY
            entry |= rights & PAGE_USER | (rights & frame & PAGE_RW if dirty else 0)
        self._space.pool.words[leaf.frame << TABLE_SHIFT | va >> PAGE_SHIFT & SLOT] = entry
        self._library.tlb_flush_page(va)

    def _rights(self, steps: list[Step]) -> tuple[int, int]:
        """RW and USER as far as all these entries give them, and NX if one has it and it has a meaning."""
        rights, no_execute = PAGE_RW | PAGE_USER, 0
        for level, _, entry in steps:
            if level != 3 or self.level_count != 3:
                rights &= entry
            no_execute |= entry & PAGE_NX
        return rights, no_execute & self._space.no_execute

    def _new_leaf(self, tree: Tree, va: int, steps: list[Step], uppers: list[Step], gpa: int) -> Leaf:
        """The leaf table for the 2 MiB of `va`, with all pages that can be shadowed already."""
        self.counters["table made"] += 1
        rights, no_execute = self._rights(uppers)
        frame = self._space.pool.take()
        if steps and steps[-1].level == 1:
            size = FORMATS[self.level_count].entry_size
            table = Seen(steps[-1].at & -(size << TABLE_SHIFT), size << TABLE_SHIFT, size, 0, PAGE_SHIFT)
            leaf = Leaf(frame, rights, no_execute, table, 0)
            self.table_seen(table.at, 1)
            self._space.refresh(leaf, table)
        else:
            shift = FORMATS[self.level_count].shifts[-steps[-1].level] if steps else LEAF_SHIFT
            leaf = Leaf(frame, rights, no_execute, None, 1 << shift)
            frames = self.pmap.span(gpa >> LEAF_SHIFT << TABLE_SHIFT)
            dirty = not steps or steps[-1].entry & PAGE_DIRTY != 0
            self._space.pool.tables[frame] = shadow_of_span(frames, leaf, writable=dirty)
        tree.add(va, leaf)
        return leaf
