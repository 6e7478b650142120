"""Grant copy (G3, G13)."""

import pytest

from hypervisor.public.grant_table import (
    GNTCOPY_dest_gref,
    GNTCOPY_source_gref,
    GNTST_bad_copy_arg,
    GNTST_bad_domain,
    GNTST_bad_gntref,
    GNTST_bad_page,
    GNTST_general_error,
    GNTST_okay,
    GNTST_permission_denied,
    GTF_readonly,
    GTF_sub_page,
)
from hypervisor.public.types import PAGE_SHIFT
from hypervisor.public.xen import DOMID_SELF
from tests.hypervisor.grants.granting import HOST, PERMIT, READONLY, GrantingDomains, Page, by_frame, by_ref

FROM, TO = int(GNTCOPY_source_gref), int(GNTCOPY_dest_gref)


@pytest.fixture
def offered(house: GrantingDomains) -> tuple[Page, Page]:
    """Domain 1 offers page 0 for reading and page 1 for writing to domain 2, as entries 8 and 9."""
    source, dest = house.dom1.page(0), house.dom1.page(1)
    house.dom1.poke(source.va, bytes(range(256)) * 16)
    house.dom1.offer(8, 2, source.mfn, PERMIT | int(GTF_readonly))
    house.dom1.offer(9, 2, dest.mfn)
    return source, dest


def test_bytes_go_from_a_grant_to_a_frame_of_ones_own(
    house: GrantingDomains, offered: tuple[Page, Page]
) -> None:
    mine = house.dom2.page(0)
    status = house.dom2.copy(by_ref(1, 8, 16), by_frame(DOMID_SELF, mine.mfn, 100), 32, FROM)
    assert status == GNTST_okay
    assert house.dom2.loads(mine.va, 164) == bytes(100) + bytes(range(16, 48)) + bytes(32)


def test_bytes_go_from_a_frame_of_ones_own_to_a_grant(
    house: GrantingDomains, offered: tuple[Page, Page]
) -> None:
    mine = house.dom2.page(0)
    house.dom2.poke(mine.va, b"for domain 1")
    assert house.dom2.copy(by_frame(DOMID_SELF, mine.mfn), by_ref(1, 9, 4084), 12, TO) == GNTST_okay
    assert house.dom1.loads(offered[1].va + 4084, 12) == b"for domain 1"


def test_bytes_go_between_two_grants_of_two_domains(
    house: GrantingDomains, offered: tuple[Page, Page]
) -> None:
    target = house.dom0.page(0)
    house.dom0.offer(20, 2, target.mfn)
    assert house.dom2.copy(by_ref(1, 8), by_ref(0, 20), 4096, FROM | TO) == GNTST_okay
    assert house.dom0.loads(target.va, 4096) == bytes(range(256)) * 16


def test_nothing_is_held_after_a_copy_however_it_ends(
    house: GrantingDomains, offered: tuple[Page, Page]
) -> None:
    source, dest = offered
    mine = house.dom2.page(0)
    before = [house.refs(page.mfn) for page in (source, dest, mine)]
    for offset, length in ((0, 4096), (1, 4096), (4095, 2), (0, 0), (65535, 1), (4096, 1)):
        house.dom2.copy(by_ref(1, 8, offset), by_ref(1, 9), length, FROM | TO)
        house.dom2.copy(by_ref(1, 9), by_frame(DOMID_SELF, mine.mfn, offset), length, FROM)
        assert [house.refs(page.mfn) for page in (source, dest, mine)] == before
        assert house.dom1.entry(8).flags == PERMIT | int(GTF_readonly)
        assert house.dom1.entry(9).flags == PERMIT


def test_a_copy_never_leaves_its_page(house: GrantingDomains, offered: tuple[Page, Page]) -> None:
    mine = house.dom2.page(0)
    for offset, length in ((4095, 2), (1, 4096), (4096, 1), (65535, 65535), (0, 4097)):
        status = house.dom2.copy(by_ref(1, 8, offset), by_frame(DOMID_SELF, mine.mfn), length, FROM)
        assert status == GNTST_bad_copy_arg
        status = house.dom2.copy(by_ref(1, 8), by_frame(DOMID_SELF, mine.mfn, offset), length, FROM)
        assert status == GNTST_bad_copy_arg


def test_a_copy_of_nothing_is_always_fine(house: GrantingDomains, offered: tuple[Page, Page]) -> None:
    assert house.dom2.copy(by_ref(99, 10**6), by_frame(3, 0), 0, FROM) == GNTST_okay


def test_a_frame_number_is_only_ever_ones_own(house: GrantingDomains, offered: tuple[Page, Page]) -> None:
    mine = house.dom2.page(0)
    for domid in (0, 1, 2, 77):
        status = house.dom2.copy(by_frame(domid, mine.mfn), by_frame(DOMID_SELF, mine.mfn), 8, 0)
        assert status == GNTST_permission_denied
    for frame in (offered[0].mfn, 0, 1, 2**24, 2**63):
        status = house.dom2.copy(by_frame(DOMID_SELF, frame), by_frame(DOMID_SELF, mine.mfn), 8, 0)
        assert status == GNTST_bad_page
        status = house.dom2.copy(by_frame(DOMID_SELF, mine.mfn), by_frame(DOMID_SELF, frame), 8, 0)
        assert status == GNTST_bad_page


def test_a_read_only_grant_is_no_destination(house: GrantingDomains, offered: tuple[Page, Page]) -> None:
    mine = house.dom2.page(0)
    status = house.dom2.copy(by_frame(DOMID_SELF, mine.mfn), by_ref(1, 8), 8, TO)
    assert status == GNTST_general_error
    assert house.dom1.loads(offered[0].va, 8) == bytes(range(8))


def test_a_page_table_is_no_destination(house: GrantingDomains, offered: tuple[Page, Page]) -> None:
    mine = house.dom2.page(0)
    own_table = house.dom2.pte_address(mine.va) >> PAGE_SHIFT
    status = house.dom2.copy(by_frame(DOMID_SELF, mine.mfn), by_frame(DOMID_SELF, own_table), 8, 0)
    assert status == GNTST_general_error
    table = house.dom1.pte_address(offered[0].va) >> PAGE_SHIFT
    house.dom1.offer(9, 2, table)
    before = house.refs(table)
    status = house.dom2.copy(by_frame(DOMID_SELF, mine.mfn), by_ref(1, 9), 8, TO)
    assert (status, house.refs(table)) == (GNTST_general_error, before)


def test_wrong_domains_and_references_are_refused(house: GrantingDomains, offered: tuple[Page, Page]) -> None:
    mine = by_frame(DOMID_SELF, house.dom2.page(0).mfn)
    assert house.dom2.copy(by_ref(77, 8), mine, 8, FROM) == GNTST_bad_domain
    assert house.dom2.copy(by_ref(0x7FF1, 8), mine, 8, FROM) == GNTST_bad_domain
    assert house.dom2.copy(by_ref(1, 512), mine, 8, FROM) == GNTST_bad_gntref
    assert house.dom2.copy(by_ref(1, 2**32 - 1), mine, 8, FROM) == GNTST_bad_gntref
    assert house.dom2.copy(by_ref(1, 10), mine, 8, FROM) == GNTST_general_error
    assert house.dom0.copy(by_ref(1, 8), by_frame(DOMID_SELF, house.dom0.page(0).mfn), 8, FROM) < 0


def test_a_domain_copies_its_own_grants_under_its_name_for_itself(
    house: GrantingDomains, offered: tuple[Page, Page]
) -> None:
    house.dom1.offer(10, 1, offered[0].mfn)
    dest = by_frame(DOMID_SELF, house.dom1.page(5).mfn)
    assert house.dom1.copy(by_ref(DOMID_SELF, 10), dest, 16, FROM) == GNTST_okay


def test_version_1_knows_no_sub_pages(house: GrantingDomains, offered: tuple[Page, Page]) -> None:
    house.dom1.offer(8, 2, offered[0].mfn, PERMIT | int(GTF_sub_page))
    mine = by_frame(DOMID_SELF, house.dom2.page(0).mfn)
    assert house.dom2.copy(by_ref(1, 8), mine, 4096, FROM) == GNTST_okay


def test_overlapping_bytes_of_one_frame_are_moved_as_by_memmove(house: GrantingDomains) -> None:
    mine = house.dom2.page(0)
    house.dom2.poke(mine.va, bytes(range(64)))
    frame = by_frame(DOMID_SELF, mine.mfn)
    assert house.dom2.copy(frame, by_frame(DOMID_SELF, mine.mfn, 8), 32, 0) == GNTST_okay
    assert house.dom2.loads(mine.va, 48) == bytes(range(8)) + bytes(range(32)) + bytes(range(40, 48))


def test_a_copy_of_a_mapped_grant_uses_the_frame_that_is_mapped(
    house: GrantingDomains, offered: tuple[Page, Page]
) -> None:
    """G3, XSA-500: the entry leads elsewhere by now."""
    house.honest = {house.dom0.domid, house.dom2.domid}
    house.dom1.offer(11, 1, offered[0].mfn)
    house.dom1.map(house.dom1, 11, house.dom1.page(7).va, HOST | READONLY)
    house.dom1.offer(11, 2, house.dom1.page(3).mfn)
    dest = house.dom1.page(5)
    assert house.dom1.copy(by_ref(1, 11), by_frame(DOMID_SELF, dest.mfn), 16, FROM) == GNTST_okay
    assert house.dom1.loads(dest.va) == bytes(range(16))
