"""Linear page tables: a table that another table of its own level points to, so that a guest sees its tables (P11).

Depth one: a table that has linear entries cannot be used as one, and the other way round (XSA-240). One signed
counter per table says which: > 0 entries in it, < 0 tables it is used in. A table that names itself counts nothing
and takes no reference, or it could never be dropped.
"""

from typing import Final

from hypervisor.machine.frame_types import VALIDATED
from hypervisor.machine.paging import PAGE_RW, pte_mfn
from hypervisor.mm.frame_table import FrameTable
from hypervisor.public.errno import Errno, XenError

MAX_LINEAR: Final = (1 << 15) - 1
"""Limits of the signed counter (F7)."""


def get(frames: FrameTable, entry: int, parent: int) -> None:
    """References for an entry of table `parent` that names a table of the same level. XenError(EINVAL)."""
    mfn = pte_mfn(entry)
    if entry & PAGE_RW:
        raise XenError(Errno.EINVAL, f"P11: writable linear entry in {frames.describe(parent)} (XSA-182)")
    if mfn == parent:
        return
    frames.get_page(mfn, frames.owner[parent])
    if (
        frames.type[mfn] != frames.type[parent]
        or not frames.flags[mfn] & VALIDATED
        or not frames.tcount[mfn]
        or frames.tcount[mfn] >= frames.max_tcount
        or not 0 <= frames.linear[parent] < MAX_LINEAR
        or not -MAX_LINEAR < frames.linear[mfn] <= 0
    ):
        frames.put_page(mfn)
        raise XenError(Errno.EINVAL, f"P11: {frames.describe(mfn)} cannot be a linear table")
    frames.linear[parent] += 1
    frames.linear[mfn] -= 1
    frames.tcount[mfn] += 1


def put(frames: FrameTable, mfn: int, parent: int) -> None:
    """The counters go back when an entry goes, or when the target's de-validation starts."""
    frames.linear[mfn] += 1
    frames.linear[parent] -= 1
