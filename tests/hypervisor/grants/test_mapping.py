"""Mapping and unmapping grants, one rule after the other (docs/invariants.md, Grants)."""

import pytest

from hypervisor.public.grant_table import (
    GNTMAP_contains_pte,
    GNTMAP_device_map,
    GNTST_bad_dev_addr,
    GNTST_bad_domain,
    GNTST_bad_gntref,
    GNTST_bad_handle,
    GNTST_bad_page,
    GNTST_eagain,
    GNTST_general_error,
    GNTST_no_space,
    GNTST_okay,
    GrantTableOp,
    GTF_accept_transfer,
    GTF_reading,
    GTF_readonly,
    GTF_sub_page,
    GTF_transitive,
    GTF_writing,
    gnttab_map_grant_ref,
    gnttab_swap_grant_ref,
    gnttab_unmap_and_replace,
)
from hypervisor.public.types import PAGE_SHIFT, DomId, GrantRef
from hypervisor.public.xen import DOMID_SELF
from tests.hypervisor.grants.granting import HOST, PERMIT, PTE_FLAGS, READONLY, GrantingDomains, Page

DEVICE = int(GNTMAP_device_map)
READING, WRITING = int(GTF_reading), int(GTF_writing)


@pytest.fixture
def offered(house: GrantingDomains) -> Page:
    """Entry 8 of domain 1 offers its page 0, which holds a greeting, to Dom0."""
    page = house.dom1.page(0)
    house.dom1.poke(page.va, b"from domain 1   ")
    house.dom1.offer(8, 0, page.mfn)
    return page


def test_a_mapped_grant_shows_the_granters_bytes(house: GrantingDomains, offered: Page) -> None:
    va = house.dom0.page(0).va
    op = house.dom0.map(house.dom1, 8, va)
    assert op.status == GNTST_okay
    assert op.dev_bus_addr == offered.mfn << PAGE_SHIFT
    assert house.dom0.loads(va) == b"from domain 1   "
    house.dom0.poke(va, b"from domain 0   ")
    assert house.dom1.loads(offered.va) == b"from domain 0   "
    assert house.dom0.unmap(op.handle, va) == GNTST_okay


def test_the_granter_sees_in_its_entry_how_it_is_used_and_when_no_longer(
    house: GrantingDomains, offered: Page
) -> None:
    first = house.dom0.map(house.dom1, 8, house.dom0.page(0).va, HOST | READONLY)
    assert house.dom1.entry(8).flags == PERMIT | READING
    second = house.dom0.map(house.dom1, 8, house.dom0.page(1).va)
    assert house.dom1.entry(8).flags == PERMIT | READING | WRITING
    house.dom0.unmap(second.handle, house.dom0.page(1).va)
    assert house.dom1.entry(8).flags == PERMIT | READING
    house.dom0.unmap(first.handle, house.dom0.page(0).va)
    assert house.dom1.entry(8).flags == PERMIT


def test_map_and_unmap_leave_every_count_as_it_was(house: GrantingDomains, offered: Page) -> None:
    before = house.refs(offered.mfn)
    va = house.dom0.page(0).va
    for flags in (HOST, HOST | READONLY, DEVICE, DEVICE | READONLY, HOST | DEVICE, HOST | DEVICE | READONLY):
        op = house.dom0.map(house.dom1, 8, va, flags)
        assert op.status == GNTST_okay
        parts = bin(flags & (HOST | DEVICE)).count("1")
        entries = 1 if flags & HOST else 0
        writers = 0 if flags & READONLY else parts + entries
        assert house.refs(offered.mfn) == (before[0] + parts + entries, before[1] + writers)
        dev = op.dev_bus_addr if flags & DEVICE else 0
        assert house.dom0.unmap(op.handle, va if flags & HOST else 0, dev) == GNTST_okay
        assert house.refs(offered.mfn) == before
        assert house.dom1.entry(8).flags == PERMIT


def test_a_read_only_grant_is_mapped_read_only_only(house: GrantingDomains, offered: Page) -> None:
    house.dom1.offer(8, 0, offered.mfn, PERMIT | int(GTF_readonly))
    va = house.dom0.page(0).va
    assert house.dom0.map(house.dom1, 8, va).status == GNTST_general_error
    assert house.dom0.map(house.dom1, 8, va, HOST | READONLY).status == GNTST_okay
    assert not house.dom0.may_store(va)


def test_only_the_named_domain_may_use_a_grant(house: GrantingDomains, offered: Page) -> None:
    house.dom1.offer(8, 2, offered.mfn)
    assert house.dom0.map(house.dom1, 8, house.dom0.page(0).va).status == GNTST_general_error
    assert house.dom1.entry(8).flags == PERMIT


def test_no_other_kind_of_entry_can_be_mapped(house: GrantingDomains, offered: Page) -> None:
    for flags in (0, int(GTF_accept_transfer), int(GTF_transitive), PERMIT | int(GTF_sub_page)):
        house.dom1.offer(8, 0, offered.mfn, flags)
        assert house.dom0.map(house.dom1, 8, house.dom0.page(0).va).status == GNTST_general_error
        assert house.dom1.entry(8).flags == flags


def test_references_beyond_the_table_are_refused(house: GrantingDomains, offered: Page) -> None:
    for ref in (512, 513, 32768, 2**31, 2**32 - 1):
        assert house.dom0.map(house.dom1, ref, house.dom0.page(0).va).status == GNTST_bad_gntref


def test_only_frames_of_the_granter_can_be_granted(house: GrantingDomains, offered: Page) -> None:
    strange = [house.dom2.page(0).mfn, house.dom0.page(5).mfn, 0, 1, 2**24 - 1, 2**24, 2**32 - 1]
    for frame in strange:
        house.dom1.offer(8, 0, frame)
        assert house.dom0.map(house.dom1, 8, house.dom0.page(0).va).status == GNTST_bad_page
        assert house.dom1.entry(8).flags == PERMIT


def test_a_page_table_is_not_granted_for_writing(house: GrantingDomains, offered: Page) -> None:
    table = house.dom1.pte_address(offered.va) >> PAGE_SHIFT
    house.dom1.offer(8, 0, table)
    before = house.refs(table)
    assert house.dom0.map(house.dom1, 8, house.dom0.page(0).va).status == GNTST_general_error
    assert house.dom1.entry(8).flags == PERMIT
    assert house.refs(table) == before
    op = house.dom0.map(house.dom1, 8, house.dom0.page(0).va, HOST | READONLY)
    assert op.status == GNTST_okay


def test_domains_that_are_not_there_are_refused(house: GrantingDomains, offered: Page) -> None:
    for domid in (77, DOMID_SELF, 0x7FF1, 0x7FF4, 0xFFFF):
        op = gnttab_map_grant_ref(
            host_addr=house.dom0.page(0).va, flags=HOST, ref=GrantRef(8), dom=DomId(domid)
        )
        assert house.dom0.one(GrantTableOp.GNTTABOP_map_grant_ref, op).status == GNTST_bad_domain


def test_a_map_must_ask_for_a_part(house: GrantingDomains, offered: Page) -> None:
    for flags in (0, READONLY, int(GNTMAP_contains_pte)):
        assert house.dom0.map(house.dom1, 8, house.dom0.page(0).va, flags).status == GNTST_bad_gntref


def test_an_unprivileged_domain_maps_its_own_grants_only(house: GrantingDomains, offered: Page) -> None:
    house.dom1.offer(9, 1, offered.mfn)
    house.dom1.offer(10, 2, offered.mfn)
    assert house.dom1.map(house.dom1, 9, house.dom1.page(1).va).status == GNTST_okay
    assert house.dom1.loads(house.dom1.page(1).va) == b"from domain 1   "
    assert house.dom2.map(house.dom1, 10, house.dom2.page(1).va).status == GNTST_general_error
    assert house.dom1.entry(10).flags == PERMIT


def test_an_address_without_a_page_table_leaves_no_trace(house: GrantingDomains, offered: Page) -> None:
    before = house.refs(offered.mfn)
    for va in (0x1000, 0xFFFF_8000_0000_0000, 0x8000_0000_0000_0000, 2**64 - 1):
        assert house.dom0.map(house.dom1, 8, va).status == GNTST_general_error
    assert house.refs(offered.mfn) == before
    assert house.dom1.entry(8).flags == PERMIT


# --- G3: the active record counts, not the entry ----------------------------------------------------------


def test_later_edits_of_the_entry_change_nothing_for_a_pinned_grant(
    house: GrantingDomains, offered: Page
) -> None:
    house.honest = {house.dom0.domid, house.dom2.domid}
    first = house.dom0.map(house.dom1, 8, house.dom0.page(0).va)
    house.dom1.offer(8, 2, house.dom1.page(1).mfn, 0)
    second = house.dom0.map(house.dom1, 8, house.dom0.page(1).va)
    assert second.status == GNTST_okay
    assert second.dev_bus_addr == offered.mfn << PAGE_SHIFT
    assert house.dom0.unmap(first.handle, house.dom0.page(0).va) == GNTST_okay
    assert house.dom0.unmap(second.handle, house.dom0.page(1).va) == GNTST_okay


def test_the_128th_pin_of_a_kind_is_refused(house: GrantingDomains, offered: Page) -> None:
    handles = [house.dom0.map(house.dom1, 8, 0, DEVICE).handle for _ in range(128)]
    assert house.dom0.map(house.dom1, 8, 0, DEVICE).status == GNTST_general_error
    assert house.dom0.map(house.dom1, 8, house.dom0.page(0).va, HOST | DEVICE).status == GNTST_general_error
    other = house.dom0.map(house.dom1, 8, 0, DEVICE | READONLY)
    assert other.status == GNTST_okay
    house.dom0.unmap(handles[0], 0, other.dev_bus_addr)
    assert house.dom0.map(house.dom1, 8, 0, DEVICE).status == GNTST_okay


# --- G6, G7: handles and parts ----------------------------------------------------------------------------


def test_a_wrong_stale_or_foreign_handle_changes_nothing(house: GrantingDomains, offered: Page) -> None:
    va = house.dom0.page(0).va
    op = house.dom0.map(house.dom1, 8, va)
    for handle in (op.handle + 1, 255, 256, 2**31, 2**32 - 1):
        assert house.dom0.unmap(handle, va) == GNTST_bad_handle
    assert house.dom2.unmap(op.handle, va) == GNTST_bad_handle
    assert house.dom0.unmap(op.handle, va) == GNTST_okay
    assert house.dom0.unmap(op.handle, va) == GNTST_bad_handle


def test_host_and_device_part_go_separately_each_once(house: GrantingDomains, offered: Page) -> None:
    va = house.dom0.page(0).va
    op = house.dom0.map(house.dom1, 8, va, HOST | DEVICE)
    assert house.dom0.unmap(op.handle, 0, op.dev_bus_addr + 4096) == GNTST_bad_dev_addr
    assert house.dom0.unmap(op.handle, 0, op.dev_bus_addr) == GNTST_okay
    assert house.dom1.entry(8).flags == PERMIT | READING | WRITING
    assert house.dom0.unmap(op.handle, 0, op.dev_bus_addr) == GNTST_okay  # nothing left to do there
    assert house.dom0.unmap(op.handle, va) == GNTST_okay
    assert house.dom1.entry(8).flags == PERMIT
    assert house.dom0.unmap(op.handle, va) == GNTST_bad_handle


def test_there_are_only_so_many_handles(house: GrantingDomains, offered: Page) -> None:
    house.dom0.grants.maptrack._max = 256
    for ref in (8, 9):
        house.dom1.offer(ref, 0, offered.mfn)
        for _ in range(128):
            assert house.dom0.map(house.dom1, ref, 0, DEVICE | READONLY).status == GNTST_okay
    house.dom1.offer(10, 0, offered.mfn)
    assert house.dom0.map(house.dom1, 10, 0, DEVICE).status == GNTST_no_space
    assert house.dom1.entry(10).flags == PERMIT


# --- G8, G9, G10: the page-table entry --------------------------------------------------------------------


def test_unmap_demands_that_the_entry_is_still_the_grants(house: GrantingDomains, offered: Page) -> None:
    mine, other = house.dom0.page(0), house.dom0.page(1)
    op = house.dom0.map(house.dom1, 8, mine.va)
    held = house.refs(offered.mfn)
    assert house.dom0.unmap(op.handle, other.va) == GNTST_general_error
    assert house.refs(offered.mfn) == held
    assert house.dom0.update_va_mapping(mine.va, mine.mfn << PAGE_SHIFT | PTE_FLAGS) == 0
    assert house.refs(offered.mfn) == (held[0] - 1, held[1] - 1)  # the entry's own, no more (G10)
    assert house.dom0.unmap(op.handle, mine.va) == GNTST_general_error
    assert house.dom1.entry(8).flags == PERMIT | READING | WRITING


def test_a_pin_whose_entry_was_overwritten_ends_with_its_mapper(
    house: GrantingDomains, offered: Page
) -> None:
    before = house.refs(offered.mfn)
    mine = house.dom1.page(1)
    house.dom1.offer(9, 1, offered.mfn)
    house.dom1.map(house.dom1, 9, mine.va)
    house.dom0.map(house.dom1, 8, house.dom0.page(0).va)
    house.dom0.update_va_mapping(house.dom0.page(0).va, 0)
    house.machine.destroy(house.dom0.built.domain)
    assert house.dom1.entry(8).flags == PERMIT
    assert house.refs(offered.mfn) == (before[0] + 2, before[1] + 2)  # domain 1's own map


def test_a_pte_is_named_by_its_machine_address(house: GrantingDomains, offered: Page) -> None:
    va = house.dom0.page(0).va
    pte = house.dom0.pte_address(va)
    flags = HOST | int(GNTMAP_contains_pte)
    for low in range(1, 8):
        assert house.dom0.map(house.dom1, 8, pte + low, flags).status == GNTST_general_error
    op = house.dom0.map(house.dom1, 8, pte, flags)
    assert op.status == GNTST_okay
    assert house.dom0.loads(va) == b"from domain 1   "
    assert house.dom0.unmap(op.handle, pte) == GNTST_okay


def test_a_pte_lies_in_an_l1_of_ones_own(house: GrantingDomains, offered: Page) -> None:
    flags = HOST | int(GNTMAP_contains_pte)
    page = house.dom0.page(3)
    foreign = house.dom1.pte_address(offered.va)
    for address in (page.mfn << PAGE_SHIFT, foreign, 0, 1 << PAGE_SHIFT, 2**52, 2**63):
        assert house.dom0.map(house.dom1, 8, address, flags).status == GNTST_general_error
    assert house.dom1.entry(8).flags == PERMIT


def test_unmap_and_replace_moves_the_other_entry_in(house: GrantingDomains, offered: Page) -> None:
    mapped, other = house.dom0.page(0), house.dom0.page(1)
    house.dom0.poke(other.va, b"moved           ")
    before = house.refs(offered.mfn)
    op = house.dom0.map(house.dom1, 8, mapped.va)
    swap = gnttab_unmap_and_replace(host_addr=mapped.va, new_addr=other.va, handle=op.handle)
    assert house.dom0.one(GrantTableOp.GNTTABOP_unmap_and_replace, swap).status == GNTST_okay
    assert house.dom0.loads(mapped.va) == b"moved           "
    assert house.refs(offered.mfn) == before
    assert house.dom1.entry(8).flags == PERMIT


# --- G12, G16, G18, K4 ------------------------------------------------------------------------------------


def test_a_granter_in_use_cannot_swap_its_entry(house: GrantingDomains, offered: Page) -> None:
    house.dom0.map(house.dom1, 8, house.dom0.page(0).va)
    for pair in ((8, 9), (9, 8)):
        op = gnttab_swap_grant_ref(ref_a=pair[0], ref_b=pair[1])
        assert house.dom1.one(GrantTableOp.GNTTABOP_swap_grant_ref, op).status == GNTST_eagain
    same = gnttab_swap_grant_ref(ref_a=8, ref_b=8)
    assert house.dom1.one(GrantTableOp.GNTTABOP_swap_grant_ref, same).status == GNTST_okay
    beyond = gnttab_swap_grant_ref(ref_a=512, ref_b=512)
    assert house.dom1.one(GrantTableOp.GNTTABOP_swap_grant_ref, beyond).status == GNTST_bad_gntref


def test_free_entries_are_swapped_whole(house: GrantingDomains, offered: Page) -> None:
    before = house.dom1.entry(8), house.dom1.entry(9)
    op = gnttab_swap_grant_ref(ref_a=8, ref_b=9)
    assert house.dom1.one(GrantTableOp.GNTTABOP_swap_grant_ref, op).status == GNTST_okay
    assert (house.dom1.entry(9), house.dom1.entry(8)) == before


def test_the_mappers_death_lets_go_of_everything(house: GrantingDomains, offered: Page) -> None:
    before = house.refs(offered.mfn)
    for i in range(3):
        house.dom0.map(house.dom1, 8, house.dom0.page(i).va, HOST | DEVICE)
    house.machine.destroy(house.dom0.built.domain)
    assert house.dom1.entry(8).flags == PERMIT
    assert house.refs(offered.mfn) == before


def test_a_dead_granters_frame_stays_until_the_last_mapper_lets_go(
    house: GrantingDomains, offered: Page
) -> None:
    va = house.dom0.page(0).va
    op = house.dom0.map(house.dom1, 8, va)
    house.machine.destroy(house.dom1.built.domain)
    assert house.dom1.domid in house.machine.hv.domains, "K4: the id is free while its frame is held"
    assert house.dom0.loads(va) == b"from domain 1   "
    assert house.dom0.map(house.dom1, 9, house.dom0.page(1).va).status < 0
    assert house.dom0.unmap(op.handle, va) == GNTST_okay
    assert house.machine.hv.frames.refs[offered.mfn] == 0
