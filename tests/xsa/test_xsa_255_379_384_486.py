"""XSA-255, XSA-379, XSA-384 and XSA-486: status frames of a version 2 grant table, freed while somebody uses them.

The flaws. A version 2 table keeps its status words in frames of their own, which the guest maps and which a return to
version 1 frees. XSA-255: nobody asked whether they were still mapped. XSA-379, XSA-384: nor did it count when a frame
was just about to be mapped, and what a translated guest saw of them stayed. XSA-486: entries in use did not keep the
table from changing under their users.

The probe. A domain maps each status frame, for reading and for writing, by every way there is; Dom0 maps it as a
foreign frame. Each of them alone keeps the table at version 2, and nothing changes; without any the frames are free,
once. What the guest's CPU may still have cached of a freed frame is flushed before the frame becomes a page table
(XSA-401). A domain that dies with its status frames mapped leaves nothing.

Negative controls: frames freed without a look at who has them; frames freed without a note of when.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from hypervisor.grants.grant_table import GrantTable
from hypervisor.machine.frame_types import NO_OWNER
from hypervisor.mm.allocator import Allocator
from hypervisor.public.errno import Errno
from hypervisor.public.grant_table import GNTST_okay, GrantTableOp, gnttab_setup_table
from hypervisor.public.types import PAGE_SHIFT
from hypervisor.public.xen import (
    DOMID_SELF,
    MMUEXT_PIN_L1_TABLE,
    Hypercall,
    mmu_update,
    mmuext_op,
    mmuext_op_arg1,
)
from tests.hypervisor.grants.granting import PTE_FLAGS, GrantingDomains, Guest, granting_domains

READ_ONLY = PTE_FLAGS & ~2


def by_va(house: GrantingDomains, guest: Guest, entry: int) -> None:
    assert guest.update_va_mapping(guest.page(0).va, entry) == 0


def by_mmu_update(house: GrantingDomains, guest: Guest, entry: int) -> None:
    write(guest, mmu_update(ptr=guest.pte_address(guest.page(0).va), val=entry), int(DOMID_SELF))


def by_dom0(house: GrantingDomains, guest: Guest, entry: int) -> None:
    dom0 = house.dom0
    foreign = guest.domid if entry else int(DOMID_SELF)
    write(dom0, mmu_update(ptr=dom0.pte_address(dom0.page(0).va), val=entry), int(foreign))


def write(guest: Guest, update: mmu_update, foreign: int) -> None:
    guest.poke(guest.page(400).va, update.pack())
    assert guest.hypercall(Hypercall.mmu_update, guest.page(400).va, 1, 0, foreign) == 0


Way = Callable[[GrantingDomains, Guest, int], None]
WAYS: list[Way] = [by_va, by_mmu_update, by_dom0]


def with_nine_frames(guest: Guest) -> list[int]:
    """A version 2 table that needs two status frames, and these."""
    assert guest.set_version(2) == 0
    op = gnttab_setup_table(dom=DOMID_SELF, nr_frames=9, frame_list=guest.page(20).va)
    assert guest.one(GrantTableOp.GNTTABOP_setup_table, op).status == GNTST_okay
    assert len(guest.grants.status_frames) == 2
    return list(guest.grants.status_frames)


def probe(house: GrantingDomains, way: Way) -> None:
    guest = house.dom1
    frames = house.machine.hv.frames
    for which in (0, 1):
        for flags in (READ_ONLY, PTE_FLAGS):
            status = with_nine_frames(guest)
            way(house, guest, status[which] << PAGE_SHIFT | flags)
            assert (guest.set_version(1), guest.version) == (-Errno.EBUSY, 2)
            assert guest.grants.status_frames == status
            house.recount()
            way(house, guest, 0)
            assert guest.set_version(1) == 0
            assert [frames.owner[mfn] for mfn in status] == [NO_OWNER, NO_OWNER]
            house.recount()


@pytest.mark.parametrize("way", WAYS)
def test_a_status_frame_that_is_mapped_keeps_the_version(way: Way) -> None:
    with granting_domains() as house:
        probe(house, way)


def test_a_domain_may_die_with_its_status_frames_mapped() -> None:
    with granting_domains() as house:  # at its end every frame is back
        guest = house.dom2
        for i, mfn in enumerate(with_nine_frames(guest)):
            assert guest.update_va_mapping(guest.page(i).va, mfn << PAGE_SHIFT | PTE_FLAGS) == 0
        by_dom0(house, guest, guest.grants.status_frames[0] << PAGE_SHIFT | READ_ONLY)
        house.machine.destroy(guest.built.domain)
        house.recount()
        by_dom0(house, guest, 0)


@pytest.fixture
def reused() -> Iterator[Callable[[], None]]:
    """A status frame that was written through a mapping, freed, and given to the guest as a page of its own."""
    with granting_domains() as house:
        yield lambda: becomes_a_table(house)


def becomes_a_table(house: GrantingDomains) -> None:
    guest, machine = house.dom1, house.machine
    assert guest.set_version(2) == 0
    mfn = guest.grants.status_frames[0]
    assert guest.update_va_mapping(guest.page(0).va, mfn << PAGE_SHIFT | PTE_FLAGS) == 0
    assert guest.update_va_mapping(guest.page(0).va, 0, 0) == 0  # no flush: the CPU may remember
    assert guest.set_version(1) == 0
    domain = guest.built.domain.mem
    taken: list[int] = []
    while not taken or taken[-1] != mfn:
        taken.append(machine.hv.mmu.allocator.alloc_page(domain))
    clock = domain.flush_clock
    pin = mmuext_op(cmd=int(MMUEXT_PIN_L1_TABLE), arg1=mmuext_op_arg1(mfn=mfn))
    guest.poke(guest.page(400).va, pin.pack())
    assert guest.hypercall(Hypercall.mmuext_op, guest.page(400).va, 1, 0, int(DOMID_SELF)) == 0
    assert domain.flush_clock > clock, "T1: a stale writable translation of a page table"


def test_what_is_cached_of_a_freed_status_frame_is_flushed_before_its_next_use(
    reused: Callable[[], None],
) -> None:
    reused()


def test_negative_control_frames_freed_in_use_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """XSA-255."""

    def freed(self: GrantTable) -> None:
        while self.status_frames:
            self.mmu.allocator.free_xen_page(self.status_frames.pop())

    monkeypatch.setattr(GrantTable, "unpopulate_status", freed)
    with pytest.raises(AssertionError), granting_domains() as house:
        probe(house, by_va)


def test_negative_control_frames_freed_without_a_stamp_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Allocator.free_xen_page

    def forgets(self: Allocator, mfn: int) -> None:
        stamp = self.frames.stamp[mfn]
        real(self, mfn)
        self.frames.stamp[mfn] = stamp

    monkeypatch.setattr(Allocator, "free_xen_page", forgets)
    with pytest.raises(AssertionError, match="T1"), granting_domains() as house:
        becomes_a_table(house)
