"""Grant copy: bytes from one frame to another, each a grant of somebody or a frame of the caller's own (G13).

While the bytes move the source is pinned for reading, and the destination for writing with a writable type;
the frame is the one that the active record names, whatever the shared entry says by then (G3, XSA-500). All
is released on each path. This works between any two domains: no process sees a frame that is not its own.
"""

from __future__ import annotations

from typing import Final

from hypervisor.grants.active import Active, GNTPIN_hstr_inc, GNTPIN_hstw_inc
from hypervisor.grants.grant_table import GrantTable
from hypervisor.grants.mapping import forget_code
from hypervisor.grants.status import GrantRefused
from hypervisor.machine.frame_types import PGT
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
    source = End(caller, op.source, bool(op.flags & _SOURCE_GREF), readonly=True)
    dest = End(caller, op.dest, bool(op.flags & _DEST_GREF), readonly=False)
    from_part = source.hold()
    try:
        to_part = dest.hold()
        try:
            move(caller, op, from_part, to_part)
            forget_code(dest.owner, to_part.mfn)
        finally:
            dest.let_go(to_part)
    finally:
        source.let_go(from_part)


def move(caller: GrantTable, op: gnttab_copy, from_part: Active, to_part: Active) -> None:
    """The bytes. GrantRefused: some are not in the pages, or not granted."""
    start, to, length = op.source.offset, op.dest.offset, op.len
    if start + length > PAGE_SIZE or to + length > PAGE_SIZE:
        raise GrantRefused(GNTST_bad_copy_arg, f"G13: {length} bytes cross the end of a page")
    require_within(from_part, start, length)
    require_within(to_part, to, length)
    view = caller.memory.view
    view((to_part.mfn << PAGE_SHIFT) + to, length)[:] = view((from_part.mfn << PAGE_SHIFT) + start, length)


def require_within(part: Active, offset: int, length: int) -> None:
    """GrantRefused(GNTST_general_error): not all of it is granted."""
    if part.sub_page and (offset < part.start or offset + length > part.start + part.length):
        why = f"G13: {length} bytes at {offset}, granted are {part.length} at {part.start}"
        raise GrantRefused(GNTST_general_error, why)


class End:
    """One end of a copy: a frame that is pinned and referenced for its time. One's own is as if granted to oneself."""

    __slots__ = ("_by_reference", "_caller", "_end", "_readonly", "owner")

    def __init__(
        self, caller: GrantTable, end: gnttab_copy_ptr, by_reference: bool, *, readonly: bool
    ) -> None:
        """GrantRefused: a frame number may only be one's own; bad_domain."""
        self._caller, self._end = caller, end
        self._by_reference, self._readonly = by_reference, readonly
        self.owner = caller
        if end.domid == DOMID_SELF:
            return
        if not by_reference:
            raise GrantRefused(GNTST_permission_denied, f"G13: d{caller.domid} names a frame of d{end.domid}")
        self.owner = caller.granter(end.domid)

    def hold(self) -> Active:
        """The frame's record. GrantRefused, and nothing is held: as GrantTable.acquire, bad_page; general_error if it
        cannot be written (F4).
        """
        owner = self.owner
        if self._by_reference:
            active = owner.acquire(
                self._end.u.ref,
                self._caller.domid,
                GNTPIN_hstr_inc if self._readonly else GNTPIN_hstw_inc,
                readonly=self._readonly,
                sub_page=True,
            )
        else:
            active = Active(self._caller.domid, own_frame(owner, self._end.u.gmfn))
        if not self._readonly:
            try:
                owner.mmu.types.get_page_and_type(active.mfn, owner.domid, PGT.writable_page)
            except XenError as error:
                self._put(active)
                why = f"F4: frame {active.mfn:#x} of d{owner.domid}: {error}"
                raise GrantRefused(GNTST_general_error, why) from None
        return active

    def let_go(self, active: Active) -> None:
        """The end of the copy."""
        if not self._readonly:
            self.owner.mmu.types.put_page_and_type(active.mfn)
        self._put(active)

    def _put(self, active: Active) -> None:
        self.owner.mmu.frames.put_page(active.mfn)
        if self._by_reference:
            decrement = GNTPIN_hstr_inc if self._readonly else GNTPIN_hstw_inc
            self.owner.release(self._end.u.ref, decrement, readonly=self._readonly)


def own_frame(owner: GrantTable, gmfn: int) -> Mfn:
    """A general reference on a frame of the caller's. GrantRefused(GNTST_bad_page)."""
    mfn = owner.d.machine_frame(gmfn)
    try:
        owner.mmu.frames.get_page(mfn, owner.domid)
    except XenError as error:
        raise GrantRefused(GNTST_bad_page, f"frame {gmfn:#x} of d{owner.domid}: {error}") from None
    return mfn
