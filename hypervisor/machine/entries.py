"""What may stand in a guest's page-table entry, and how Xen writes it (P1, P6, P8).

     63  62  61      53  52  51              12 11  9  8   7   6 5  4   3  2  1 0
    +--+-----+---------+----+------------------+-----+---+-----+-+-+---+---+--+--+-+
    |NX| GNT |  AVAIL  | GK |  frame number    | AVL | G | PAT |D|A|PCD|PWT|US|RW|P|
    +--+-----+---------+----+------------------+-----+---+-----+-+-+---+---+--+--+-+
     GNT: set by Xen where a grant was mapped, refused from guests        G: level 1 only
     GK:  a 64-bit guest runs kernel and user code in ring 3, so every entry has US; its kernel's pages bear GK

Every function takes ints or uint64 arrays alike where it says so. Source: Xen arch/x86/mm.c, pv/mm.h.
Deliberate difference: a guest-kernel L1 entry loses G (Xen only warns), so that no CR3 load leaves it in a TLB (P6).
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from hypervisor.machine.paging import (
    PAGE_ACCESSED,
    PAGE_AVAIL,
    PAGE_AVAIL_HIGH,
    PAGE_DIRTY,
    PAGE_GLOBAL,
    PAGE_NX,
    PAGE_PRESENT,
    PAGE_RW,
    PAGE_USER,
    PTE_MFN_MASK,
)
from hypervisor.public.types import U64

PAGE_GUEST_KERNEL: Final = 1 << 52
PAGE_GNTTAB: Final = 1 << 62

_BASE: Final = (
    PAGE_PRESENT | PAGE_RW | PAGE_USER | PAGE_ACCESSED | PAGE_DIRTY | PAGE_AVAIL | PAGE_AVAIL_HIGH | PAGE_NX
)
L1_DISALLOW: Final = U64 & ~(_BASE | PAGE_GLOBAL | PTE_MFN_MASK) | PAGE_GNTTAB
"""Bits that no present L1 entry from a guest may have: PWT, PCD, PAT and the grant mark (P1)."""
UPPER_DISALLOW: Final = U64 & ~(_BASE | PTE_MFN_MASK)
"""The same above L1: PWT, PCD, PSE (XSA-148) and G."""
FASTPATH: Final = (
    PAGE_NX | PAGE_AVAIL_HIGH | PAGE_AVAIL | PAGE_GLOBAL | PAGE_DIRTY | PAGE_ACCESSED | PAGE_USER
)
"""Bits in which a present entry may change without being validated again (P8, XSA-182: RW is not one of them)."""
NOT_FASTPATH: Final = U64 & ~FASTPATH

INVALID_MFN_FIELD: Final = PTE_MFN_MASK >> 12
"""The frame number whose bits are all set: Xen's INVALID_MFN in an entry."""

_KERNEL: Final = PAGE_GUEST_KERNEL | PAGE_USER

Words = npt.NDArray[np.uint64]
Mfns = npt.NDArray[np.int64]
_PRESENT, _RW, _USER = np.uint64(PAGE_PRESENT), np.uint64(PAGE_RW), np.uint64(PAGE_USER)
_MFN, _PAGE_SHIFT = np.uint64(PTE_MFN_MASK), np.uint64(12)
_GUEST_KERNEL = np.uint64(PAGE_GUEST_KERNEL)
_AS_KERNEL, _NOT_GLOBAL = np.uint64(_KERNEL), np.uint64(U64 & ~PAGE_GLOBAL)
_AS_USER = np.uint64(PAGE_GLOBAL | PAGE_USER)


def adjust_l1e(entry: int) -> int:
    """A present L1 entry as Xen writes it: a guest-kernel page is marked, a guest-user page is global (P6)."""
    if not entry & PAGE_PRESENT:
        return entry
    if not entry & PAGE_USER:
        entry |= _KERNEL
    if entry & PAGE_GUEST_KERNEL:
        return (entry | PAGE_USER) & ~PAGE_GLOBAL
    return entry | PAGE_GLOBAL | PAGE_USER


class Bits(NamedTuple):
    """What is common to many entries: a whole table of one kind needs no look at each."""

    every: int
    """The bits that every entry has."""
    some: int
    """The bits that at least one entry has."""


def bits_of(entries: Words) -> Bits:
    """The bits that all these entries have, and those that any of them has."""
    return Bits(int(np.bitwise_and.reduce(entries)), int(np.bitwise_or.reduce(entries)))


def adjust_l1es(entries: Words, bits: Bits) -> Words:
    """adjust_l1e for each entry of an array, in a new array."""
    if bits.every & PAGE_PRESENT:
        if bits.every & PAGE_GUEST_KERNEL or not bits.some & PAGE_USER:
            kernel_only: Words = np.bitwise_and(entries | _AS_KERNEL, _NOT_GLOBAL)
            return kernel_only
        if bits.every & PAGE_USER and not bits.some & PAGE_GUEST_KERNEL:
            user_only: Words = np.bitwise_or(entries, _AS_USER)
            return user_only
    present = (entries & _PRESENT) != 0
    kernel = (entries & _USER) == 0
    kernel |= (entries & _GUEST_KERNEL) != 0
    as_kernel = (entries | _AS_KERNEL) & _NOT_GLOBAL
    adjusted: Words = np.where(present, np.where(kernel, as_kernel, entries | _AS_USER), entries)
    return adjusted


class Named(NamedTuple):
    """The present ones of some entries, the frames they name in the same order, and those named writable."""

    present: Words
    mfns: Mfns
    writable: Mfns
    bits: int
    """The bits that at least one present entry has."""


def named_by(entries: Words, bits: Bits) -> Named:
    """What these entries name; `bits` are theirs (bits_of)."""
    if bits.every & PAGE_PRESENT:
        mfns: Mfns = np.right_shift(entries & _MFN, _PAGE_SHIFT).view(np.int64)
        writable = mfns if bits.every & PAGE_RW else mfns[(entries & _RW) != 0]
        return Named(entries, mfns, writable, bits.some)
    present = entries[(entries & _PRESENT) != 0]
    return named_by(present, bits_of(present))


def adjust_upper(entry: int, level: int) -> int:
    """A present L2, L3 or L4 entry as Xen writes it."""
    if not entry & PAGE_PRESENT:
        return entry
    return entry | PAGE_USER | (PAGE_ACCESSED if level == 4 else 0)


def unadjusted(entry: int) -> int:
    """An L1 entry of a 32-bit guest: its kernel runs in ring 1, and the user bit says what it says."""
    return entry


def unadjusted_many(entries: Words, _bits: Bits) -> Words:
    """The same for an array."""
    return entries


def adjust_upper_of_32bit(entry: int, level: int) -> int:
    """A present L2 or L3 entry of a 32-bit guest: an L3's has no rights for the guest, but for the CPU in long mode."""
    if level == 3 and entry & PAGE_PRESENT:
        return entry | PAGE_USER | PAGE_RW
    return entry
