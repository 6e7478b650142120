"""Giving frames away (G14, F13)."""

import pytest

from hypervisor.public.grant_table import (
    GNTMAP_device_map,
    GNTST_bad_domain,
    GNTST_bad_page,
    GNTST_general_error,
    GNTST_okay,
    GrantTableOp,
    GTF_accept_transfer,
    GTF_transfer_committed,
    GTF_transfer_completed,
    gnttab_transfer,
)
from hypervisor.public.types import DomId, GrantRef
from tests.hypervisor.grants.granting import GrantingDomains, Page

ACCEPT = int(GTF_accept_transfer)
DONE = ACCEPT | int(GTF_transfer_committed | GTF_transfer_completed)


@pytest.fixture(params=[1, 2])
def unmapped(house: GrantingDomains, request: pytest.FixtureRequest) -> Page:
    """Page 0 of domain 1 is mapped nowhere and holds a message; domain 2, with a table of either version, accepts a
    frame from it at entry 8.
    """
    assert house.dom2.set_version(request.param) == 0
    page = house.dom1.page(0)
    house.dom1.poke(page.va, b"a gift")
    house.dom1.update_va_mapping(page.va, 0)
    house.dom2.offer(8, 1, 0x123, ACCEPT)
    return page


def give(house: GrantingDomains, mfn: int, domid: int = 2, ref: int = 8) -> int:
    op = gnttab_transfer(mfn=mfn, domid=DomId(domid), ref=GrantRef(ref))
    return int(house.dom1.one(GrantTableOp.GNTTABOP_transfer, op).status)


def pages(house: GrantingDomains) -> list[int]:
    return [guest.built.domain.mem.tot_pages for guest in house.guests]


def test_the_recipient_finds_the_content_in_a_frame_of_its_own(
    house: GrantingDomains, unmapped: Page
) -> None:
    before = pages(house)
    assert give(house, unmapped.mfn) == GNTST_okay
    entry = house.dom2.entry(8)
    assert house.dom2.head(8) == (DONE, 1)
    frames = house.machine.hv.frames
    assert frames.owner[entry.frame] == house.dom2.domid
    assert frames.refs[entry.frame] == 1
    assert house.machine.memory.read(entry.frame << 12, 6) == b"a gift"
    assert house.machine.hv.mmu.m2p.get(entry.frame) == 0x123
    assert pages(house) == [before[0], before[1] - 1, before[2] + 1]


def test_the_giver_no_longer_has_it(house: GrantingDomains, unmapped: Page) -> None:
    assert give(house, unmapped.mfn) == GNTST_okay
    house.dom2.offer(9, 1, 0, ACCEPT)
    assert give(house, unmapped.mfn, ref=9) == GNTST_bad_page
    assert house.machine.hv.frames.owner[unmapped.mfn] != house.dom1.domid


def test_whoever_is_refused_keeps_its_frame(house: GrantingDomains, unmapped: Page) -> None:
    before = pages(house)
    used = house.dom1.page(1)  # mapped: somebody holds a reference
    house.dom1.offer(20, 0, unmapped.mfn)
    cases = [
        (used.mfn, 2, 8, GNTST_bad_page),
        (house.dom2.page(0).mfn, 2, 8, GNTST_bad_page),
        (0, 2, 8, GNTST_bad_page),
        (2**24, 2, 8, GNTST_bad_page),
        (2**64 - 1, 2, 8, GNTST_bad_page),
        (unmapped.mfn, 77, 8, GNTST_bad_domain),
        (unmapped.mfn, 0x7FF0, 8, GNTST_bad_domain),
        (unmapped.mfn, 2, 9, GNTST_general_error),
        (unmapped.mfn, 2, 512, GNTST_general_error),
        (unmapped.mfn, 2, 2**32 - 1, GNTST_general_error),
    ]
    for mfn, domid, ref, status in cases:
        assert give(house, mfn, domid, ref) == status
        assert pages(house) == before
    assert house.machine.hv.frames.refs[unmapped.mfn] == 1
    assert house.dom2.head(8)[0] == ACCEPT
    assert give(house, unmapped.mfn) == GNTST_okay


def test_only_the_named_giver_and_only_once(house: GrantingDomains, unmapped: Page) -> None:
    house.dom2.offer(8, 0, 0, ACCEPT)
    assert give(house, unmapped.mfn) == GNTST_general_error
    house.dom2.offer(8, 1, 0, ACCEPT | int(GTF_transfer_committed))
    assert give(house, unmapped.mfn) == GNTST_general_error


def test_a_recipient_at_its_limit_or_dying_takes_nothing(house: GrantingDomains, unmapped: Page) -> None:
    mem = house.dom2.built.domain.mem
    limit, mem.max_pages = mem.max_pages, mem.tot_pages
    assert give(house, unmapped.mfn) == GNTST_general_error
    mem.max_pages, mem.dying = limit, True
    assert give(house, unmapped.mfn) == GNTST_general_error
    mem.dying = False
    assert house.dom2.head(8)[0] == ACCEPT
    assert give(house, unmapped.mfn) == GNTST_okay


def test_a_granted_frame_in_use_cannot_be_given_away(house: GrantingDomains, unmapped: Page) -> None:
    house.dom1.offer(20, 0, unmapped.mfn)
    op = house.dom0.map(house.dom1, 20, 0, int(GNTMAP_device_map))
    assert give(house, unmapped.mfn) == GNTST_bad_page
    house.dom0.unmap(op.handle, 0, op.dev_bus_addr)
    assert give(house, unmapped.mfn) == GNTST_okay


def test_xens_own_frames_cannot_be_given_away(house: GrantingDomains, unmapped: Page) -> None:
    for frame in (house.dom1.built.domain.shared_info, house.dom1.grants.shared.frames[0]):
        assert give(house, frame) == GNTST_bad_page
