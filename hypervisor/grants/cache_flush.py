"""GNTTABOP_cache_flush: write back, or drop, cached lines of a frame that is one's own or mapped by a grant.

An x86 CPU's caches are coherent and the emulated one has none, so a permitted clean has nothing left to do;
dropping lines without writing them back is refused, as by an x86 Xen. What remains is who may ask for which
frame (XSA-232).
"""

from __future__ import annotations

from hypervisor.grants.grant_table import GrantTable
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.grant_table import (
    GNTTAB_CACHE_CLEAN,
    GNTTAB_CACHE_INVAL,
    GNTTAB_CACHE_SOURCE_GREF,
    gnttab_cache_flush,
)
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE, DomId

_CLEAN, _INVAL, _GREF = int(GNTTAB_CACHE_CLEAN), int(GNTTAB_CACHE_INVAL), int(GNTTAB_CACHE_SOURCE_GREF)


def cache_flush(caller: GrantTable, op: gnttab_cache_flush) -> int:
    """Perform one operation; it has no status, so the first refusal ends the batch. How many grants were looked at.

    XenError: EINVAL (range, operation, frame without a grant to the caller), EPERM (nobody's frame, or
    Xen's), EOPNOTSUPP (by reference; or drop only).
    """
    if op.op & ~(_CLEAN | _INVAL | _GREF) or op.offset >= PAGE_SIZE or op.offset + op.length > PAGE_SIZE:
        raise XenError(Errno.EINVAL, f"cache flush {op.op:#x} of {op.length} bytes at {op.offset}")
    if not op.length or not op.op:
        return 0
    if op.op & _GREF:
        raise XenError(Errno.EOPNOTSUPP, "cache flush by grant reference")
    looked_at = require_frame(caller, op.a.dev_bus_addr >> PAGE_SHIFT)
    if not op.op & _CLEAN:
        raise XenError(Errno.EOPNOTSUPP, "cache lines are not dropped without being written back")
    return looked_at


def require_frame(caller: GrantTable, mfn: int) -> int:
    """The frame is the caller's, or somebody's who grants it to the caller right now. How many grants were looked at.

    XenError: EINVAL, EPERM.
    """
    frames = caller.mmu.frames
    if mfn >= frames.nr_frames:
        raise XenError(Errno.EINVAL, f"there is no frame {mfn:#x}")
    owner = frames.owner[mfn]
    if owner == caller.domid:
        return 0
    try:
        granted = caller.find(DomId(owner)).active.values()
    except XenError:
        raise XenError(Errno.EPERM, f"frame {mfn:#x} has no owner with a grant table") from None
    if not any(active.mfn == mfn and active.domid == caller.domid for active in granted):
        raise XenError(Errno.EINVAL, f"frame {mfn:#x} is not granted to d{caller.domid}")
    return len(granted)
