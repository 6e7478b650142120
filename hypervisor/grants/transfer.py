"""Grant transfer: give a frame away for good to a domain that offered to accept one (G14).

A frame lies in its owner's memfd, so what changes hands is the content: the giver's frame is stolen and
freed, and a new frame of the recipient holds what was in it. Seen through the ABI it is Xen's transfer: the
recipient finds the frame number in its entry, committed and then completed, in that order.

Difference from Xen, on purpose: whoever is refused keeps its frame, where Xen frees it.
"""

from __future__ import annotations

from typing import Final

from hypervisor.grants.grant_table import GrantTable
from hypervisor.grants.shared_entries import MAX_TRIES
from hypervisor.grants.status import GrantRefused
from hypervisor.public.errno import XenError
from hypervisor.public.grant_table import (
    GNTST_bad_page,
    GNTST_general_error,
    GTF_accept_transfer,
    GTF_transfer_committed,
    GTF_transfer_completed,
    gnttab_transfer,
)
from hypervisor.public.types import GrantRef, Mfn

_ACCEPT: Final = int(GTF_accept_transfer)
_COMMITTED: Final = int(GTF_transfer_committed)
_COMPLETED: Final = int(GTF_transfer_completed)


def transfer(giver: GrantTable, op: gnttab_transfer) -> None:
    """Perform one operation. GrantRefused: bad_domain, general_error, bad_page."""
    recipient = giver.granter(op.domid)
    if giver.d.p2m is not None or recipient.d.p2m is not None:
        raise GrantRefused(GNTST_general_error, "frames of translated domains are not transferred")
    require_headroom(recipient)
    require_accepting(recipient, op.ref, giver)
    try:
        giver.mmu.allocator.steal_page(Mfn(op.mfn), giver.d)
    except XenError as error:
        raise GrantRefused(GNTST_bad_page, f"F13: frame {op.mfn:#x} of d{giver.domid}: {error}") from None
    try:
        commit(recipient, op.ref, giver)
        pfn = recipient.shared.frame(op.ref)  # the recipient's own number for what it will get
        mfn = move(giver, Mfn(op.mfn), recipient, op.ref)
    except BaseException:
        giver.mmu.allocator.unsteal_page(Mfn(op.mfn), giver.d)
        raise
    recipient.mmu.m2p.set(mfn, pfn)
    recipient.shared.set_frame(op.ref, mfn)
    recipient.shared.set_flags(op.ref, _COMPLETED)


def require_headroom(recipient: GrantTable) -> None:
    """The recipient is alive and below its limit (K1, M1). GrantRefused(GNTST_general_error)."""
    d = recipient.d
    if d.dying or d.tot_pages >= d.max_pages:
        why = f"G14: d{d.domid} takes no frame: {d.tot_pages} of {d.max_pages}, dying: {d.dying}"
        raise GrantRefused(GNTST_general_error, why)


def require_accepting(recipient: GrantTable, ref: GrantRef, giver: GrantTable) -> int:
    """The head of an entry that says exactly accept_transfer for this giver.
    GrantRefused(GNTST_general_error).
    """
    if ref >= len(recipient.shared):
        raise GrantRefused(GNTST_general_error, f"G1: d{recipient.domid} has no entry {ref:#x}")
    head = recipient.shared.head(ref)
    if head != _ACCEPT | giver.domid << 16:
        why = f"G14: entry {ref:#x} of d{recipient.domid} has head {head:#x}"
        raise GrantRefused(GNTST_general_error, why)
    return head


def commit(recipient: GrantTable, ref: GrantRef, giver: GrantTable) -> None:
    """Set GTF_transfer_committed, in at most as many tries as for a pin (XSA-295)."""
    for _ in range(MAX_TRIES):
        head = require_accepting(recipient, ref, giver)
        if recipient.shared.compare_exchange_head(ref, head, head | _COMMITTED) == head:
            return
    raise GrantRefused(GNTST_general_error, f"G14: entry {ref:#x} of d{recipient.domid} does not hold still")


def move(giver: GrantTable, mfn: Mfn, recipient: GrantTable, ref: GrantRef) -> Mfn:
    """The recipient's new frame. GrantRefused(GNTST_general_error) if there is no memory; then nothing is
    committed.
    """
    try:
        return giver.mmu.allocator.assign_copy(mfn, giver.d, recipient.d)
    except XenError as error:
        recipient.shared.clear_flags(ref, _COMMITTED)
        raise GrantRefused(GNTST_general_error, f"G14: d{recipient.domid}: {error}") from None
