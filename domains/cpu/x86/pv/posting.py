"""What a guest may do to its page tables without waiting for the core: what is certain to be permitted.

A change is certain if nothing that the core would look at can alter before it does: only this process's own requests make a frame
a page table, pin it, unpin it or give it away, and none of them is outstanding while a vCPU posts. So it is enough to look at the
frame table's columns now (machine/frame_types.py):

    an entry of one's own validated L1   it is dropped, or differs in bits that are not validated again (P8), or names a frame of
                                         one's own: to read it, any; to write it, one that is writable already or nothing yet
    the kernel's or the user's table     a pinned L4 in the place of a pinned L4

The change is made here, in the guest's frame or in CR3, and the core is told with this vCPU's next request. What is not certain
is asked for as ever. docs/posted-operations.md tells the whole of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from domains.cpu.gate import Gate
from hypervisor.machine.entries import L1_DISALLOW, NOT_FASTPATH, PAGE_GNTTAB
from hypervisor.machine.frame_types import (
    ALLOCATED,
    L1,
    L4,
    PARTIAL,
    PGT,
    PINNED,
    VALIDATED,
    WRITABLE,
    XEN,
    FrameTypes,
)
from hypervisor.machine.memory import MACHINE_FRAMES, PART_SHIFT
from hypervisor.machine.paging import PAGE_PRESENT, PAGE_RW, PTE_MFN_MASK, table_index
from hypervisor.public.arch_x86.xen_x86_64 import HYPERVISOR_VIRT_START
from hypervisor.wire.messages import Post

UNUSED: Final = int(PGT.none)
OWN_FLAGS: Final = ALLOCATED | XEN
_PT_ENTRY: Final = int(Post.PT_ENTRY)


class Posting:
    """One vCPU's. `adjust_l1e`: an entry as Xen writes it for this kind of guest (P6)."""

    def __init__(self, gate: Gate, vcpu_id: int, types: FrameTypes, adjust_l1e: Callable[[int], int]) -> None:
        self._gate = gate
        self._vcpu_id = vcpu_id
        self._owner, self._type, self._flags = types.owner, types.type, types.flags
        self._words: memoryview[int] = gate.memory.octets.cast("Q")
        self._parts = gate.memory.parts
        self._adjust_l1e = adjust_l1e

    def entry(self, maddr: int, value: int, kept: int = 0) -> bool:
        """Put `value` at the aligned machine address `maddr` of a page table, with the bits `kept` of what stands there. False:
        it is not certain that this is permitted, and nothing was done.
        """
        written = self.certain_entry(maddr, value)
        if written is None:
            return False
        self.write(maddr, written, kept)
        return True

    def certain_entry(self, maddr: int, value: int) -> int | None:
        """The entry that would stand there, `kept` apart; None: it is not certain that this is permitted."""
        if not self._is_table(maddr >> 12, L1, VALIDATED) or not self._gate.is_alone(self._vcpu_id):
            return None
        old = self._words[maddr >> 3]
        if old & PAGE_GNTTAB:
            return None
        if value & PAGE_PRESENT:
            if value & L1_DISALLOW:
                return None
            value = self._adjust_l1e(value)
            same = old & PAGE_PRESENT and not (old ^ value) & NOT_FASTPATH
            if not same and not self._is_certain(value):
                return None
        return value

    def is_plain(self, maddr: int) -> bool:
        """Whether a page that this domain may write lies there: no page table, so what is written is no entry yet, and the core
        need not know.
        """
        mfn = maddr >> 12
        if not self._is_own(mfn) or self._type[mfn] not in (UNUSED, WRITABLE):
            return False
        return self._gate.is_alone(self._vcpu_id)

    def put(self, maddr: int, value: int) -> None:
        """Write to such a page."""
        self._words[maddr >> 3] = value

    def write(self, maddr: int, value: int, kept: int) -> None:
        """Do it; `value` is what `certain_entry` gave."""
        value |= self._words[maddr >> 3] & kept
        self._words[maddr >> 3] = value
        self._gate.posts.add(self._vcpu_id, maddr | _PT_ENTRY, value)

    def _is_certain(self, entry: int) -> bool:
        """Whether a present entry names a frame that this domain has for good, and no page table if it is writable. The process
        must have mapped it: what others give the domain it maps with its next answer.
        """
        mfn = (entry & PTE_MFN_MASK) >> 12
        return self._is_own(mfn) and (not entry & PAGE_RW or self._type[mfn] in (UNUSED, WRITABLE))

    def _is_own(self, mfn: int) -> bool:
        if mfn >> PART_SHIFT not in self._parts or self._owner[mfn] != self._gate.domid:
            return False
        return self._flags[mfn] & OWN_FLAGS == ALLOCATED

    def may_load(self, l4: int, now: int) -> bool:
        """Whether the L4 table in frame `l4` may certainly take the place of that in frame `now`; 0: none."""
        pinned = (not l4 or self._is_pinned(l4)) and (not now or self._is_pinned(now))
        return pinned and self._gate.is_alone(self._vcpu_id)

    def shows_m2p(self, l4: int) -> bool:
        """Whether a kernel that runs on this L4 sees the table of frames, as it is to (P7); not for `l4` 0."""
        return bool(l4 and self._words[l4 << 9 | table_index(HYPERVISOR_VIRT_START, 4)] & PAGE_PRESENT)

    def _is_pinned(self, l4: int) -> bool:
        return self._is_table(l4, L4, VALIDATED | PINNED)

    def _is_table(self, mfn: int, pgt: int, flags: int) -> bool:
        """Whether the frame is a table of this domain's, of this type, with these flags, and not parked."""
        return (
            mfn < MACHINE_FRAMES
            and self._type[mfn] == pgt
            and self._flags[mfn] & (flags | PARTIAL) == flags
            and self._owner[mfn] == self._gate.domid
        )

    def loaded(self, kind: Post, l4: int) -> None:
        """That has been done."""
        self._gate.posts.add(self._vcpu_id, int(kind), l4)

    def timer(self, timeout: int) -> bool:
        """Set this vCPU's single-shot timer to a system time, ns. The core is told at once, and its answer is not waited for.
        False on a machine that repeats itself, where the core must know how long the vCPU may run.
        """
        if self._gate.meter is not None:
            return False
        self._gate.posts.send_at_once(self._vcpu_id, int(Post.SINGLESHOT_TIMER), timeout)
        return True

    def send(self) -> None:
        """Tell the core now what it has not been told."""
        self._gate.posts.send(self._vcpu_id)
