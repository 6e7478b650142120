"""Shadow page tables: what the CPU walks in the place of a guest's own tables, in frames of a pool that cannot grow.

    L4 (one for all; long mode alone) ─► a tree: L3 ─► L2 ─► leaf tables, each for 2 MiB of linear addresses

A *tree* shadows what hangs on one entry of a guest's top table, or all of a 32-bit guest's. It is found by that entry's value,
so that what address spaces share, such as the kernel's half, is shadowed once. A leaf table's entries are what a guest's L1
entries and the P2M make together; every right that the guest's upper entries withhold is withheld there, and the upper shadows
permit all.

Nothing of the guest's is write-protected. Each leaf and each upper guest table on the way to it is kept as it was read (`seen`),
and compared when the guest flushes (`sync`): what it changed is made anew. So shadows are a TLB that keeps through a flush what
still is right, and can be no staler than a CPU's.
"""

import ctypes
import mmap
from typing import Final

import numpy as np
import numpy.typing as npt

from domains.cpu.x86.emulator.unicorn_library import UnicornLibrary
from hypervisor.machine.paging import (
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_GLOBAL,
    PAGE_PRESENT,
    PAGE_RW,
    PAGE_USER,
    PTE_MFN_MASK,
)
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE

TABLE_SHIFT: Final = 9
SLOT: Final = 511
LEAF_SHIFT: Final = 21
L3_SHIFT: Final = 30
L4_SHIFT: Final = 39
UPPER: Final = PAGE_PRESENT | PAGE_RW | PAGE_USER | PAGE_ACCESSED
LEAF: Final = PAGE_PRESENT | PAGE_ACCESSED | PAGE_DIRTY
"""Of every leaf entry; A and D are preset, for what counts are the guest's own."""
FRAME_BITS: Final = PTE_MFN_MASK

Entries = npt.NDArray[np.uint64]


class ShadowPool:
    """Frames of this process's memory, which the CPU sees from its address `physical` on."""

    def __init__(self, library: UnicornLibrary, nr_frames: int, physical: int) -> None:
        size = nr_frames * PAGE_SIZE
        self._memory = mmap.mmap(-1, size)
        octets = (ctypes.c_uint8 * size).from_buffer(self._memory)
        library.map_memory(ctypes.addressof(octets), size, physical)
        self._physical = physical
        self._free = list(range(nr_frames))
        self.nr_frames = nr_frames
        self.words = memoryview(octets).cast("B").cast("Q")
        """All entries: frame << 9 | slot."""
        self.tables: Entries = np.frombuffer(self._memory, "<u8").reshape(nr_frames, 1 << TABLE_SHIFT)

    @property
    def nr_free(self) -> int:
        """How many frames are free."""
        return len(self._free)

    def take(self) -> int:
        """A free frame, zeroed. The caller has seen that there is one."""
        frame = self._free.pop()
        self.tables[frame] = 0
        return frame

    def give(self, frame: int) -> None:
        """The frame is free."""
        self._free.append(frame)

    def address(self, frame: int) -> int:
        """Where the CPU sees a frame."""
        return self._physical + (frame << PAGE_SHIFT)


class Seen:
    """A guest table as it was when it was last looked at: `size` bytes at machine address `at`, of `entry_size` each.

    `first` and `shift`: entry n is for the 1 << shift bytes of linear addresses from first + (n << shift) on.
    """

    __slots__ = ("at", "end", "entry_size", "first", "octets", "shift")
    octets: bytes
    """Not a bytearray: two of them are compared byte by byte."""

    def __init__(self, at: int, size: int, entry_size: int, first: int, shift: int) -> None:
        self.at, self.end, self.entry_size, self.first, self.shift = at, at + size, entry_size, first, shift
        self.octets = bytes(size)

    def entry(self, at: int) -> int:
        """The entry at machine address `at` as it was."""
        offset = at - self.at
        return int.from_bytes(self.octets[offset : offset + self.entry_size], "little")

    def note(self, at: int, entry: int) -> None:
        """The entry at `at` has been looked at, or is Xen's doing."""
        offset = at - self.at
        old, size = self.octets, self.entry_size
        self.octets = old[:offset] + entry.to_bytes(size, "little") + old[offset + size :]

    def entries(self) -> Entries:
        """All of them, as they were, in 64 bits."""
        return np.frombuffer(self.octets, f"<u{self.entry_size}").astype(np.uint64)

    def range_of(self, index: int) -> tuple[int, int]:
        """The linear addresses of an entry: the first, and how many."""
        return self.first + (index << self.shift), 1 << self.shift


class Leaf:
    """One leaf table. `rights`: RW and USER as far as the guest's upper entries give them; `no_execute`: NX if one has it.
    `table`: the guest's L1 table; a part of a large page has none, and that page's size as `span`.
    """

    __slots__ = ("frame", "is_global", "no_execute", "rights", "span", "table")

    def __init__(self, frame: int, rights: int, no_execute: int, table: Seen | None, span: int) -> None:
        self.frame, self.rights, self.no_execute, self.table, self.span = (
            frame,
            rights,
            no_execute,
            table,
            span,
        )
        self.is_global = False


class Tree:
    """The shadows below one entry of the L4, or all of a 32-bit guest's."""

    def __init__(self, pool: ShadowPool, key: tuple[int, ...], upper: int) -> None:
        """`upper`: the rights of entries in the top table."""
        self.key = key
        self._pool = pool
        self._upper = upper
        self.top = pool.take()
        self._tables: dict[int, int] = {}
        self.leaves: dict[int, Leaf] = {}
        """By linear address >> 21."""
        self.uppers: dict[tuple[int, int], Seen] = {}
        """The guest's tables above L1, and below the tree's key, by (first, shift)."""
        self.epoch = -1
        """The flush of global pages that was the last when all leaves were compared."""

    def add(self, va: int, leaf: Leaf) -> None:
        """Show a leaf table at the 2 MiB of `va`, where there is none."""
        words, pool = self._pool.words, self._pool
        table = self._tables.get(va >> L3_SHIFT)
        if table is None:
            table = self._tables[va >> L3_SHIFT] = pool.take()
            words[self.top << TABLE_SHIFT | va >> L3_SHIFT & SLOT] = pool.address(table) | self._upper
        words[table << TABLE_SHIFT | va >> LEAF_SHIFT & SLOT] = pool.address(leaf.frame) | UPPER
        self.leaves[va >> LEAF_SHIFT] = leaf

    def drop(self, number: int) -> None:
        """The leaf table of the 2 MiB from number << 21 on goes."""
        leaf = self.leaves.pop(number)
        table = self._tables[number >> TABLE_SHIFT]
        self._pool.words[table << TABLE_SHIFT | number & SLOT] = 0
        self._pool.give(leaf.frame)

    def drop_leaf(self, leaf: Leaf) -> None:
        """This leaf table goes."""
        for number in [number for number, one in self.leaves.items() if one is leaf]:
            self.drop(number)

    def forget_upper(self, seen: Seen) -> None:
        """An upper table of the guest's is none any more: what hangs on it goes."""
        for index in range(len(seen.entries())):
            self.changed(seen, index)
        self.uppers.pop((seen.first, seen.shift), None)

    def drop_span(self, first: int, size: int) -> None:
        """All leaf tables of the linear addresses [first, first + size) go."""
        low, high = first >> LEAF_SHIFT, (first + size - 1) >> LEAF_SHIFT
        if high - low < 2:
            numbers = [number for number in {low, high} if number in self.leaves]
        else:
            numbers = [number for number in self.leaves if low <= number <= high]
        for number in numbers:
            self.drop(number)

    def changed(self, seen: Seen, index: int) -> None:
        """The guest changed this entry of an upper table: what hangs on it goes."""
        first, size = seen.range_of(index)
        self.drop_span(first, size)
        for key in [key for key in self.uppers if key[1] < seen.shift and first <= key[0] < first + size]:
            del self.uppers[key]

    def forget(self, va: int) -> None:
        """The guest's INVLPG: the page of `va`, however large, is looked up anew."""
        leaf = self.leaves.get(va >> LEAF_SHIFT)
        if leaf is None:
            return
        if leaf.span:
            self.drop_span(va & -leaf.span, leaf.span)
        else:
            self._pool.words[leaf.frame << TABLE_SHIFT | va >> PAGE_SHIFT & SLOT] = 0

    def release(self) -> None:
        """All frames are the pool's again."""
        for frame in (self.top, *self._tables.values(), *(leaf.frame for leaf in self.leaves.values())):
            self._pool.give(frame)
        self.leaves, self._tables = {}, {}


def shadow_of(entries: Entries, frames: Entries, leaf: Leaf, no_execute: int) -> Entries:
    """Shadows of L1 entries whose pages the P2M has at `frames` (the PMAP's entries): of those that are present and accessed, and
    writable only if dirty, so that the first store is seen. `no_execute`: the bit, if it has a meaning.
    """
    marked = PAGE_PRESENT | PAGE_ACCESSED
    usable = (entries & np.uint64(marked) == marked) & (frames != 0)
    shadows = frames & entries & (entries >> np.uint64(5)) & np.uint64(leaf.rights & PAGE_RW)
    shadows |= entries & np.uint64(leaf.rights & PAGE_USER | no_execute)
    shadows |= frames & np.uint64(FRAME_BITS) | np.uint64(LEAF | leaf.no_execute)
    shadows[~usable] = 0
    return shadows


def shadow_of_span(frames: Entries, leaf: Leaf, *, writable: bool) -> Entries:
    """Shadows of the pages of a large one, which the P2M has at `frames`."""
    flags = LEAF | leaf.rights & PAGE_USER | leaf.no_execute
    kept = FRAME_BITS | (leaf.rights & PAGE_RW if writable else 0)
    return np.where(frames != 0, frames & np.uint64(kept) | np.uint64(flags), np.uint64(0))


def all_global(entries: Entries) -> bool:
    """Whether every L1 entry that is present is global."""
    return not np.any(entries & np.uint64(PAGE_PRESENT | PAGE_GLOBAL) == PAGE_PRESENT)
