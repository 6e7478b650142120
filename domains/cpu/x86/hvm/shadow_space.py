"""All shadows of one vCPU: the trees, which of them are in force, and how they are kept right and few.

Trees of address spaces that are not in force are kept, and brought up to date when they are again. When the pool is used up,
those go that have not been in force for longest; if that is not enough, all go, which the guest notices by the time alone.
"""

from collections import Counter
from typing import Final

import numpy as np

from domains.cpu.x86.hvm.pmap import Pmap
from domains.cpu.x86.hvm.shadow_tables import (
    L4_SHIFT,
    LEAF_SHIFT,
    SLOT,
    TABLE_SHIFT,
    UPPER,
    Leaf,
    Seen,
    ShadowPool,
    Tree,
    all_global,
    shadow_of,
)
from hypervisor.machine.paging import PAGE_PRESENT, PAGE_RW, PTE_MFN_MASK
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE

NEEDED: Final = 3
"""Frames that one fault can take: a tree's top, a table, a leaf table."""
SPARE: Final = 8
"""When frames are needed, one in so many of the pool is made free."""
LONG_MODE: Final = 4

Key = tuple[int, ...]
"""What a tree is found by: the guest's levels, the slot of the L4, the entry there or CR3, CR0.WP."""


class ShadowSpace:
    """One vCPU's."""

    def __init__(self, pool: ShadowPool, pmap: Pmap, octets: memoryview, counters: Counter[str]) -> None:
        self.pool = pool
        self._pmap = pmap
        self._octets = octets
        self._counters = counters
        self._l4 = pool.take()
        self._trees: dict[Key, Tree] = {}
        """The least recently used first."""
        self._linked: dict[int, Tree] = {}
        """By slot of the L4; 0 for a 32-bit guest."""
        self._epoch = 0
        self.no_execute = 0
        """PAGE_NX if it has a meaning."""
        self.rights_32 = PAGE_PRESENT
        """Of the four entries of a 32-bit guest's top table, which have no others in legacy PAE mode."""
        self.has_global = False
        """Whether global pages outlive a load of CR3."""

    @property
    def nr_trees(self) -> int:
        """How many trees are kept."""
        return len(self._trees)

    def switch_long(self, keys: frozenset[Key]) -> int:
        """Put the trees of these entries of the guest's L4 in force as far as there are any; where the CPU's CR3 is to point."""
        for slot, tree in list(self._linked.items()):
            if tree.key not in keys:
                del self._linked[slot]
                self.pool.words[self._l4 << TABLE_SHIFT | slot] = 0
        for key in [key for key in self._trees if key in keys]:
            self._link(self._trees[key])
        return self.pool.address(self._l4)

    def switch_32(self, key: Key) -> Tree:
        """Put a 32-bit guest's tree in force, and no other."""
        self.switch_long(frozenset())
        return self.tree(key)

    def tree(self, key: Key) -> Tree:
        """The tree of this key, in force."""
        tree = self._linked.get(key[1])
        if tree is not None and tree.key == key:
            return tree
        tree = self._trees.get(key)
        if tree is None:
            self.make_room()
            tree = self._trees[key] = Tree(self.pool, key, UPPER if key[0] == LONG_MODE else self.rights_32)
        self._link(tree)
        return tree

    def _link(self, tree: Tree) -> None:
        """Put a tree in force, brought up to date."""
        self._trees[tree.key] = self._trees.pop(tree.key)
        self._sync(tree)
        slot = tree.key[1]
        self._linked[slot] = tree
        if tree.key[0] == LONG_MODE:
            self.pool.words[self._l4 << TABLE_SHIFT | slot] = self.pool.address(tree.top) | UPPER

    def flush_global(self) -> None:
        """At the next switch global pages are looked at, too."""
        self._epoch += 1

    def _sync(self, tree: Tree) -> None:
        """Make anew what the guest changed in the tables that a tree shadows."""
        octets = self._octets
        full = tree.epoch != self._epoch or not self.has_global
        for seen in list(tree.uppers.values()):
            if seen.octets != bytes(octets[seen.at : seen.end]):
                self._sync_upper(tree, seen)
        for leaf in tree.leaves.values():
            table = leaf.table
            if table is None or (leaf.is_global and not full):
                continue
            if table.octets != bytes(octets[table.at : table.end]):
                self.refresh(leaf, table)
        tree.epoch = self._epoch

    def _sync_upper(self, tree: Tree, seen: Seen) -> None:
        old = seen.entries()
        seen.octets = bytes(self._octets[seen.at : seen.end])
        for index in np.nonzero(old != seen.entries())[0].tolist():
            tree.changed(seen, index)

    def refresh(self, leaf: Leaf, table: Seen) -> None:
        """Make the whole of a leaf table anew from the guest's L1 table as it is."""
        self._counters["table made anew"] += 1
        table.octets = bytes(self._octets[table.at : table.end])
        entries = table.entries()
        gfns = (entries & np.uint64(PTE_MFN_MASK)) >> np.uint64(PAGE_SHIFT)
        frames = self._pmap.entries(gfns)
        self.pool.tables[leaf.frame] = shadow_of(entries, frames, leaf, self.no_execute)
        leaf.is_global = all_global(entries)

    def entry(self, va: int) -> int:
        """The shadow of the page of `va`; 0: there is none. 32-bit addresses are below 4 GiB, in slot 0."""
        tree = self._linked.get(va >> L4_SHIFT & SLOT)
        leaf = tree.leaves.get(va >> LEAF_SHIFT) if tree is not None else None
        return self.pool.words[leaf.frame << TABLE_SHIFT | va >> PAGE_SHIFT & SLOT] if leaf is not None else 0

    def word(self, va: int) -> int:
        """Where among the pool's words the shadow of the page of `va` is, which there is."""
        tree = self._linked[va >> L4_SHIFT & SLOT]
        return tree.leaves[va >> LEAF_SHIFT].frame << TABLE_SHIFT | va >> PAGE_SHIFT & SLOT

    def forget(self, va: int) -> bool:
        """The guest's INVLPG, which forgets global pages of whatever address space; True if the page was a large one."""
        slot, large = va >> L4_SHIFT & SLOT, False
        for key, tree in self._trees.items():
            if key[1] == slot or key[0] != LONG_MODE:
                leaf = tree.leaves.get(va >> LEAF_SHIFT)
                large = large or (leaf is not None and leaf.span != 0)
                tree.forget(va)
        return large

    def protect(self, address: int) -> None:
        """No shadow lets the machine frame at this address be written; the caller flushes."""
        for tree in self._trees.values():
            for leaf in tree.leaves.values():
                table = self.pool.tables[leaf.frame]
                table[table & np.uint64(PTE_MFN_MASK) == np.uint64(address)] &= ~np.uint64(PAGE_RW)

    def shadows_of(self, address: int) -> list[tuple[Tree, Leaf | Seen]]:
        """What was made of the guest's table in the machine frame at this address: leaf tables, and upper tables as seen."""
        found: list[tuple[Tree, Leaf | Seen]] = []
        for tree in self._trees.values():
            found += [
                (tree, leaf)
                for leaf in tree.leaves.values()
                if leaf.table and leaf.table.at & -PAGE_SIZE == address
            ]
            found += [(tree, seen) for seen in tree.uppers.values() if seen.at & -PAGE_SIZE == address]
        return found

    def sync_table(self, address: int) -> None:
        """Make anew what was made of the guest's table there, as far as the guest changed it."""
        for tree, shadow in self.shadows_of(address):
            if isinstance(shadow, Seen):
                self._sync_upper(tree, shadow)
            elif shadow.table is not None:
                self.refresh(shadow, shadow.table)

    def unshadow(self, address: int) -> None:
        """Forget what was made of the guest's table in the machine frame at this address; the caller flushes."""
        for tree, shadow in self.shadows_of(address):
            if isinstance(shadow, Seen):
                tree.forget_upper(shadow)
            else:
                tree.drop_leaf(shadow)

    def release_all(self) -> None:
        """There are no shadows any more; a switch must follow if the CPU is to go on."""
        for slot in self._linked:
            self.pool.words[self._l4 << TABLE_SHIFT | slot] = 0
        for tree in self._trees.values():
            tree.release()
        self._trees, self._linked = {}, {}

    def make_room(self) -> None:
        """Have frames for one fault."""
        pool = self.pool
        if pool.nr_free >= NEEDED:
            return
        self._counters["recycled"] += 1
        linked = {tree.key for tree in self._linked.values()}
        for key in [key for key in self._trees if key not in linked]:
            self._trees.pop(key).release()
            if pool.nr_free >= NEEDED + pool.nr_frames // SPARE:
                return
        if pool.nr_free < NEEDED:
            self.release_all()
