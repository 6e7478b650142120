"""XSA-214 and XSA-284: a frame that changes hands keeps something of its old life.

The flaws. XSA-214: a frame that had held segment descriptors kept that type, and `validated`, when it was
stolen from its owner; the next owner could write it and then load it as a GDT without any check. XSA-284: a
transfer that moved the frame's content to another frame left the new one without a reference.

The probe. A domain makes a frame a descriptor page, drops it, and transfers it. What the recipient gets has
no type and one reference. The recipient writes a system descriptor into it, and loading it as a GDT must be
refused. Every frame is recounted at each step.
"""

import pytest

from hypervisor.machine.frame_types import PGT
from hypervisor.mm.allocator import Allocator
from hypervisor.mm.domain_memory import DomainMemory
from hypervisor.public.errno import Errno
from hypervisor.public.grant_table import GNTST_okay, GrantTableOp, GTF_accept_transfer, gnttab_transfer
from hypervisor.public.types import PAGE_SHIFT, DomId, GrantRef, Mfn
from hypervisor.public.xen import Hypercall
from tests.hypervisor.grants.granting import PTE_FLAGS, GrantingDomains, Guest, granting_domains

LDT_DESCRIPTOR = 0x0000_8200_0000_FFFF  # a system descriptor: never a guest's to have
RING_3_DATA = 0x00CF_F300_0000_FFFF


def set_gdt(guest: Guest, mfn: int, entries: int) -> int:
    guest.poke(guest.page(30).va, mfn.to_bytes(8, "little"))
    return int(guest.hypercall(Hypercall.set_gdt, guest.page(30).va, entries))


def probe(house: GrantingDomains) -> None:
    giver, taker = house.dom1, house.dom2
    page = giver.page(0)
    giver.poke(page.va, RING_3_DATA.to_bytes(8, "little") * 512)
    assert giver.update_va_mapping(page.va, 0) == 0
    assert set_gdt(giver, page.mfn, 512) == 0
    assert house.machine.hv.frames.type[page.mfn] == PGT.seg_desc_page
    assert set_gdt(giver, 0, 0) == 0
    taker.offer(8, giver.domid, 0x77, int(GTF_accept_transfer))
    op = gnttab_transfer(mfn=page.mfn, domid=DomId(taker.domid), ref=GrantRef(8))
    assert giver.one(GrantTableOp.GNTTABOP_transfer, op).status == GNTST_okay
    house.recount()
    frames, mfn = house.machine.hv.frames, taker.entry(8).frame
    assert (frames.refs[mfn], frames.tcount[mfn], frames.type[mfn]) == (1, 0, PGT.none)
    va = taker.page(9).va
    assert taker.update_va_mapping(va, mfn << PAGE_SHIFT | PTE_FLAGS) == 0
    taker.poke(va, LDT_DESCRIPTOR.to_bytes(8, "little") * 512)
    assert taker.update_va_mapping(va, 0) == 0
    assert set_gdt(taker, mfn, 512) == -Errno.EINVAL, "a system descriptor got in"
    house.recount()


def test_a_transferred_frame_starts_anew() -> None:
    with granting_domains() as house:
        probe(house)


def test_negative_control_a_type_that_stays_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """XSA-214: the new frame is taken over with the type and the validation of the old one."""
    assign_copy = Allocator.assign_copy

    def keeps_the_type(self: Allocator, mfn: Mfn, source: DomainMemory, to: DomainMemory) -> Mfn:
        new = assign_copy(self, mfn, source, to)
        self.frames.type[new], self.frames.flags[new] = PGT.seg_desc_page, self.frames.flags[new] | 4
        return new

    monkeypatch.setattr(Allocator, "assign_copy", keeps_the_type)
    with pytest.raises(AssertionError), granting_domains() as house:
        probe(house)


def test_negative_control_a_frame_without_a_reference_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """XSA-284."""
    assign_copy = Allocator.assign_copy

    def forgets_the_reference(self: Allocator, mfn: Mfn, source: DomainMemory, to: DomainMemory) -> Mfn:
        new = assign_copy(self, mfn, source, to)
        self.frames.refs[new] = 0
        return new

    monkeypatch.setattr(Allocator, "assign_copy", forgets_the_reference)
    with pytest.raises((AssertionError, ValueError)), granting_domains() as house:
        probe(house)
