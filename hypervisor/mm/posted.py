"""Changes of page tables that a domain's process has made already, because they were certain to be permitted.

The process wrote the entry into its guest's frame, or loaded the base pointer, and went on; here the same change is made of
what is recorded, under the same rules as if it had been asked for (P1–P9, X3, X4). The frame itself is left alone: since then
the CPU may have set A and D there, and a later change may stand there already. What is refused was not certain, and the process
that posted it has lied. docs/posted-operations.md tells the whole of it.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from hypervisor.machine.frame_types import L1, PARTIAL, PINNED, VALIDATED
from hypervisor.mm import update_batch
from hypervisor.mm.base_pointers import BasePointers
from hypervisor.mm.budget import Budget, Portion
from hypervisor.mm.domain_memory import DomainMemory, VcpuMemory
from hypervisor.mm.update import Updates
from hypervisor.public.errno import Errno, XenError
from hypervisor.wire.messages import Post

KIND: Final = 7
"""The bits of a post's first word that say what it is; an entry's address is a multiple of 8."""
_ENTRY, _BASEPTR, _USER_BASEPTR = int(Post.PT_ENTRY), int(Post.NEW_BASEPTR), int(Post.NEW_USER_BASEPTR)


class Posted:
    """Performs posts about page tables."""

    def __init__(self, updates: Updates, bases: BasePointers) -> None:
        self._updates = updates
        self._bases = bases

    def perform(self, v: VcpuMemory, posts: memoryview[int]) -> None:
        """Pairs of words, in order (wire/messages.py). XenError: one is refused; those before it are done."""
        at, end = 0, len(posts)
        while at < end:
            kind = posts[at] & KIND
            if kind == _ENTRY:
                after = at + 2
                while after < end and not posts[after] & KIND:
                    after += 2
                self._entries(v.domain, posts[at:after])
                at = after
                continue
            self._base_pointer(v, kind, posts[at + 1])
            at += 2

    def _entries(self, d: DomainMemory, posts: memoryview[int]) -> None:
        """A run of entries: at once if that is permitted, else one by one."""
        if len(posts) >= 2 * update_batch.MIN_RUN:
            array = np.frombuffer(posts, np.uint64)
            if update_batch.try_updates(self._updates.types, d, array[0::2], array[1::2], posted=True):
                return
        for at in range(0, len(posts), 2):
            self._entry(d, posts[at], posts[at + 1])

    def _entry(self, d: DomainMemory, maddr: int, value: int) -> None:
        mfn = maddr >> 12
        self._require_table(d, mfn, L1, VALIDATED)
        self._updates.take_over_l1_entry(mfn, maddr >> 3 & 511, value, d)

    def _base_pointer(self, v: VcpuMemory, kind: int, mfn: int) -> None:
        """The new table and the one that is left are pinned: nothing is validated or torn down, so there is nothing to restart
        and nothing that would lie with the vCPU until its next operation (U9).
        """
        if kind not in (_BASEPTR, _USER_BASEPTR) or v.compat_l4 is not None:
            raise XenError(Errno.EINVAL, f"a post of kind {kind}")
        d, left = v.domain, v.cr3 if kind == _BASEPTR else v.user_cr3
        if left is not None:
            self._require_table(d, left, d.rules.top, VALIDATED | PINNED)
        if mfn or kind == _BASEPTR:
            self._require_table(d, mfn, d.rules.top, VALIDATED | PINNED)
        change = self._bases.run_on if kind == _BASEPTR else self._bases.new_user_baseptr
        change(v, mfn, Portion(v, Budget()))

    def _require_table(self, d: DomainMemory, mfn: int, pgt: int, flags: int) -> None:
        """XenError: the frame is no table of `d` of this type with these flags, or one that is parked."""
        frames = self._updates.frames
        if (
            mfn >= frames.top
            or frames.owner[mfn] != d.domid
            or frames.type[mfn] != pgt
            or frames.flags[mfn] & (flags | PARTIAL) != flags
        ):
            raise XenError(Errno.EINVAL, f"U3, X3: {frames.describe(mfn)} is no such table of d{d.domid}")
