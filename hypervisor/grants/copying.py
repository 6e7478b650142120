"""Grant copy: bytes from one frame to another, each a grant of somebody or a frame of the caller's own (G13).

While the bytes move the source is pinned for reading, and the destination for writing with a writable type;
the frame is the one that the active record names, whatever the shared entry says by then (G3, XSA-500). All
is released on each path. This works between any two domains: no process sees a frame that is not its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from hypervisor.grants.active import Active, GNTPIN_hstr_inc, GNTPIN_hstw_inc
from hypervisor.grants.grant_table import GrantTable
from hypervisor.grants.mapping import forget_code
from hypervisor.grants.status import GrantRefused
from hypervisor.mm.frame_table import PGT
from hypervisor.public.errno import XenError
from hypervisor.public.grant_table import (
    GNTCOPY_dest_gref,
    GNTCOPY_source_gref,
    GNTST_bad_copy_arg,
    GNTST_bad_page,
    GNTST_general_error,
    GNTST_permission_denied,
    gnttab_copy,
    gnttab_copy_ptr,
)
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE, Mfn
from hypervisor.public.xen import DOMID_SELF

_SOURCE_GREF: Final = int(GNTCOPY_source_gref)
_DEST_GREF: Final = int(GNTCOPY_dest_gref)


def copy(caller: GrantTable, op: gnttab_copy) -> None:
    """Perform one operation. GrantRefused with Xen's statuses, in Xen's order; a length of 0 is always fine."""
    if not op.len:
        return
    source = table_of(caller, op.source, bool(op.flags & _SOURCE_GREF))
    dest = table_of(caller, op.dest, bool(op.flags & _DEST_GREF))
    with (
        held(caller, source, op.source, bool(op.flags & _SOURCE_GREF), readonly=True) as from_part,
        held(caller, dest, op.dest, bool(op.flags & _DEST_GREF), readonly=False) as to_part,
    ):
        if op.source.offset + op.len > PAGE_SIZE or op.dest.offset + op.len > PAGE_SIZE:
            raise GrantRefused(GNTST_bad_copy_arg, f"G13: {op.len} bytes cross the end of a page")
        require_within(from_part, op.source.offset, op.len)
        require_within(to_part, op.dest.offset, op.len)
        memory, to_mfn = caller.memory, to_part.mfn
        memory.view((to_mfn << PAGE_SHIFT) + op.dest.offset, op.len)[:] = memory.view(
            (from_part.mfn << PAGE_SHIFT) + op.source.offset, op.len
        )
        forget_code(dest, to_mfn)


def require_within(part: Active, offset: int, length: int) -> None:
    """GrantRefused(GNTST_general_error): not all of it is granted."""
    if part.sub_page and (offset < part.start or offset + length > part.start + part.length):
        why = f"G13: {length} bytes at {offset}, granted are {part.length} at {part.start}"
        raise GrantRefused(GNTST_general_error, why)


def table_of(caller: GrantTable, end: gnttab_copy_ptr, by_reference: bool) -> GrantTable:
    """Whose frame it is. GrantRefused: a frame number may only be one's own; bad_domain."""
    if end.domid == DOMID_SELF:
        return caller
    if not by_reference:
        raise GrantRefused(GNTST_permission_denied, f"G13: d{caller.domid} names a frame of d{end.domid}")
    return caller.granter(end.domid)


@contextmanager
def held(
    caller: GrantTable, owner: GrantTable, end: gnttab_copy_ptr, by_reference: bool, *, readonly: bool
) -> Iterator[Active]:
    """One end's frame, pinned and referenced for the time of the copy; one's own is as if granted to oneself."""
    if by_reference:
        increment = GNTPIN_hstr_inc if readonly else GNTPIN_hstw_inc
        ref = end.u.ref
        active = owner.acquire(ref, caller.domid, increment, readonly=readonly, sub_page=True)
    else:
        active = Active(caller.domid, own_frame(owner, end.u.gmfn))
    mfn = active.mfn
    try:
        if readonly:
            yield active
        else:
            with writable(owner, mfn):
                yield active
    finally:
        owner.mmu.frames.put_page(mfn)
        if by_reference:
            owner.release(ref, increment, readonly=readonly)


def own_frame(owner: GrantTable, gmfn: int) -> Mfn:
    """A general reference on a frame of the caller's. GrantRefused(GNTST_bad_page)."""
    mfn = owner.d.machine_frame(gmfn)
    try:
        owner.mmu.frames.get_page(mfn, owner.domid)
    except XenError as error:
        raise GrantRefused(GNTST_bad_page, f"frame {gmfn:#x} of d{owner.domid}: {error}") from None
    return mfn


@contextmanager
def writable(owner: GrantTable, mfn: Mfn) -> Iterator[None]:
    """A writable type reference: never is a page table or a descriptor page a destination (F4)."""
    try:
        owner.mmu.types.get_page_and_type(mfn, owner.domid, PGT.writable_page)
    except XenError as error:
        raise GrantRefused(GNTST_general_error, f"F4: frame {mfn:#x} of d{owner.domid}: {error}") from None
    try:
        yield
    finally:
        owner.mmu.types.put_page_and_type(mfn)
