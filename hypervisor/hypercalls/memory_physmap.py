"""A translated domain's memory map: add_to_physmap(_batch), remove_from_physmap (Xen common/memory.c, arch/x86/mm/p2m.c).

What lies at the place already goes: a frame of Xen's is unhooked, the domain's own memory is freed, as on Xen. A grant that is
mapped there stays, and the request is refused (EPERM). Frames of other domains are for a translated Dom0 to map, which there
is not: EPERM, as Xen 4.17 says to everybody else (p2m_add_foreign).
"""

from __future__ import annotations

from typing import Final

from hypervisor.domain.domain import Domain
from hypervisor.hypercalls.call import Call, Continue, Result
from hypervisor.hypercalls.memory_lists import MEMOP_EXTENT_SHIFT
from hypervisor.hypercalls.memory_subject import subject
from hypervisor.mm.budget import COST_OF_EXTENT
from hypervisor.mm.layout import range_ok
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.memory import (
    XENMAPIDX_grant_table_status,
    XENMAPSPACE_dev_mmio,
    XENMAPSPACE_gmfn,
    XENMAPSPACE_gmfn_foreign,
    XENMAPSPACE_gmfn_range,
    XENMAPSPACE_grant_table,
    XENMAPSPACE_shared_info,
    xen_add_to_physmap,
    xen_add_to_physmap_batch,
    xen_remove_from_physmap,
)
from hypervisor.public.types import U64

_CMD_MASK: Final = (1 << MEMOP_EXTENT_SHIFT) - 1
MAX_SIZE: Final = 0xFFFF
"""Pages of one request, whose `size` has 16 bits."""


def translated(call: Call, domid: int, space: int = XENMAPSPACE_shared_info) -> Domain:
    """The domain named, which has a map of Xen's to change. XenError(EPERM, ESRCH; EACCES: a PV guest, or devices' memory, which
    is a translated Dom0's; EINVAL: it dies).
    """
    domain = subject(call, domid)
    if domain.mem.dying:
        raise XenError(Errno.EINVAL, f"K1: d{domain.domid} is dying")
    if domain.mem.p2m is None:
        raise XenError(Errno.EACCES, f"d{domain.domid} is not translated")
    if space == XENMAPSPACE_dev_mmio:
        raise XenError(Errno.EACCES, f"d{domain.domid} has no devices")
    return domain


def require_place(start: int) -> None:
    """XenError(EDOM): no continuation of these operations begins there."""
    if start > MAX_SIZE:
        raise XenError(Errno.EDOM, f"an add_to_physmap continued at {start}")


def add_to_physmap(call: Call, arg: int, start: int) -> Result:
    """One page, or pages in a row (XENMAPSPACE_gmfn_range) up to the first refusal."""
    require_place(start)
    request = call.read(arg, xen_add_to_physmap)
    if request.space == XENMAPSPACE_gmfn_foreign:
        raise XenError(Errno.ENOSYS, "foreign frames only in a batch")
    domain = translated(call, request.domid, request.space)
    if request.space == XENMAPSPACE_gmfn_range:
        return add_range(call, domain, request, start)
    add_one(call, domain, request.space, request.idx, request.gpfn)
    return 0


def add_range(call: Call, domain: Domain, request: xen_add_to_physmap, start: int) -> Result:
    """`size` pages of the domain's memory. XenError: EILSEQ, EOVERFLOW, or as add_one; pages before it stay moved."""
    if request.size < start:
        raise XenError(Errno.EILSEQ, f"a range of {request.size} pages continued at {start}")
    if max(request.idx, request.gpfn) + request.size > U64:
        raise XenError(Errno.EOVERFLOW, f"{request.size} pages from {request.idx:#x} to {request.gpfn:#x}")
    for i in range(start, request.size):
        if i > start and call.budget.exhausted:
            return Continue((call.args[0] & _CMD_MASK | i << MEMOP_EXTENT_SHIFT, call.args[1], 0, 0, 0))
        add_one(call, domain, XENMAPSPACE_gmfn, request.idx + i, request.gpfn + i)
        call.budget.spend(COST_OF_EXTENT)
    return 0


def add_to_physmap_batch(call: Call, arg: int, start: int) -> Result:
    """Several pages, each with an error number of its own."""
    require_place(start)
    request = call.read(arg, xen_add_to_physmap_batch)
    if request.space == XENMAPSPACE_gmfn_range:
        raise XenError(Errno.EOPNOTSUPP, "no ranges in a batch")
    domain = translated(call, request.domid, request.space)
    if start and request.size <= start:
        raise XenError(Errno.EILSEQ, f"a batch of {request.size} pages continued at {start}")
    word = call.abi.word
    for at, size in ((request.idxs, word), (request.gpfns, word), (request.errs, 4)):
        if not range_ok(at, size * request.size):
            raise XenError(Errno.EFAULT, f"H2: lists of {request.size} pages at {at:#x}")
    for i in range(start, request.size):
        if i > start and call.budget.exhausted:
            return Continue((call.args[0] & _CMD_MASK | i << MEMOP_EXTENT_SHIFT, arg, 0, 0, 0))
        (idx,) = call.read_words(request.idxs + word * i, 1)
        (gpfn,) = call.read_words(request.gpfns + word * i, 1)
        error = 0
        try:
            add_one(call, domain, request.space, idx, gpfn)
        except XenError as refusal:
            error = -refusal.errno
        call.copy_to_guest(request.errs + 4 * i, error.to_bytes(4, "little", signed=True))
        call.budget.spend(COST_OF_EXTENT)
    return 0


def add_one(call: Call, domain: Domain, space: int, idx: int, gpfn: int) -> None:
    """Show what `space` and `idx` name at guest frame `gpfn`. XenError(EINVAL, ENOMEM, EPERM)."""
    mmu, p2m = call.hv.mmu, domain.mem.p2m
    assert p2m is not None
    mfn = named_frame(domain, space, idx)
    there = p2m.mfn(gpfn)
    if there == mfn:
        return
    if there is not None:
        mmu.reservation.remove_page(domain.mem, gpfn)
    mmu.physmap.add_page(domain.mem, gpfn, mfn)


def named_frame(domain: Domain, space: int, idx: int) -> int:
    """The machine frame that a request names. XenError: EINVAL, or the space is for others or not there."""
    if space == XENMAPSPACE_shared_info and idx == 0:
        return domain.shared_info
    if space == XENMAPSPACE_grant_table:
        return grant_table_frame(domain, idx)
    if space == XENMAPSPACE_gmfn and domain.mem.p2m is not None:
        mfn = domain.mem.p2m.mfn(idx)
        if mfn is not None:
            return mfn
    if space == XENMAPSPACE_gmfn_foreign:
        raise XenError(Errno.EPERM, f"d{domain.domid} may not map frames of others")
    raise XenError(Errno.EINVAL, f"there is no frame {idx:#x} in space {space}")


def grant_table_frame(domain: Domain, idx: int) -> int:
    """A frame of the grant table, which grows up to its limit if it must. XenError(EINVAL, ENOMEM)."""
    grants = domain.grants
    if idx & XENMAPIDX_grant_table_status:
        number, frames = idx & ~XENMAPIDX_grant_table_status, grants.status_frames
    else:
        number, frames = idx, grants.frames
        if number < grants.max_grant_frames:
            grants.grow(number + 1)
    if number >= len(frames):
        raise XenError(Errno.EINVAL, f"d{domain.domid}'s grant table has no frame {idx:#x}")
    return frames[number]


def remove_from_physmap(call: Call, arg: int, start: int) -> Result:
    """One page is shown no more; it stays the domain's. XenError: ENOENT (nothing is there), EPERM (a grant is)."""
    request = call.read(arg, xen_remove_from_physmap)
    domain = translated(call, request.domid)
    assert domain.mem.p2m is not None
    if not domain.mem.p2m.entry(request.gpfn):
        raise XenError(Errno.ENOENT, f"d{domain.domid} has nothing at guest frame {request.gpfn:#x}")
    call.hv.mmu.physmap.remove_page(domain.mem, request.gpfn)
    return 0
