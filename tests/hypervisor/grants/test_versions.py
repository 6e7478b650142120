"""Version 2 of the grant table ABI, and changing between the two (G15)."""

import pytest

from hypervisor.grants.shared_entries import SharedEntriesV2
from hypervisor.public.errno import Errno
from hypervisor.public.grant_table import (
    GNTST_bad_copy_arg,
    GNTST_bad_gntref,
    GNTST_general_error,
    GNTST_okay,
    GrantTableOp,
    GTF_reading,
    GTF_readonly,
    GTF_transitive,
    GTF_writing,
    gnttab_get_status_frames,
    gnttab_get_version,
    gnttab_setup_table,
    gnttab_swap_grant_ref,
    grant_entry_header,
    grant_entry_v2_full_page,
    grant_entry_v2_transitive,
)
from hypervisor.public.types import DomId, GrantRef
from hypervisor.public.xen import DOMID_SELF
from tests.hypervisor.grants.granting import (
    HOST,
    PERMIT,
    READONLY,
    USED,
    GrantingDomains,
    Guest,
    by_frame,
    by_ref,
)

READING, WRITING = int(GTF_reading), int(GTF_writing)


@pytest.fixture
def granter(house: GrantingDomains) -> Guest:
    """Domain 1, with a version 2 table."""
    assert house.dom1.set_version(2) == 0
    return house.dom1


def status_frames(guest: Guest, count: int) -> tuple[int, list[int]]:
    """(status, frame numbers)."""
    va = guest.page(20).va
    op = gnttab_get_status_frames(dom=DOMID_SELF, nr_frames=count, frame_list=va)
    status = guest.one(GrantTableOp.GNTTABOP_get_status_frames, op).status
    words = guest.loads(va, 8 * count) if status == GNTST_okay and count else b""
    return int(status), [int.from_bytes(words[i : i + 8], "little") for i in range(0, len(words), 8)]


# --- choosing -------------------------------------------------------------------------------------------


def test_a_table_begins_as_version_1_and_a_guest_chooses(house: GrantingDomains) -> None:
    get = GrantTableOp.GNTTABOP_get_version
    for asked, result, then in (
        (1, 0, 1),
        (0, -Errno.EINVAL, 1),
        (2, 0, 2),
        (3, -Errno.EINVAL, 2),
        (1, 0, 1),
    ):
        assert (house.dom1.set_version(asked), house.dom1.version) == (result, then)
        assert house.dom1.one(get, gnttab_get_version(dom=DOMID_SELF)).version == then
        assert house.dom0.one(get, gnttab_get_version(dom=house.dom1.domid)).version == then


def test_a_domain_limited_to_version_1_does_not_get_2(house: GrantingDomains) -> None:
    house.dom1.grants.max_version = 1
    assert (house.dom1.set_version(2), house.dom1.version) == (-Errno.ENOSYS, 1)


def test_no_version_changes_while_an_entry_is_in_use(house: GrantingDomains) -> None:
    guest = house.dom1
    guest.offer(8, 0, guest.page(0).mfn)
    op = house.dom0.map(guest, 8, house.dom0.page(0).va)
    assert (guest.set_version(2), guest.version) == (-Errno.EBUSY, 1)
    assert house.dom0.unmap(op.handle, house.dom0.page(0).va) == GNTST_okay
    assert guest.set_version(2) == 0
    guest.offer(8, 0, guest.page(0).mfn)
    op = house.dom0.map(guest, 8, house.dom0.page(0).va)
    assert (guest.set_version(1), guest.version) == (-Errno.EBUSY, 2)


def test_entries_go_but_for_the_reserved_ones_which_stay_in_use(house: GrantingDomains) -> None:
    guest, va = house.dom1, house.dom0.page(0).va
    guest.offer(1, 0, guest.page(1).mfn, PERMIT | int(GTF_readonly))
    guest.offer(8, 0, guest.page(2).mfn)
    op = house.dom0.map(guest, 1, va, HOST | READONLY)
    for version in (2, 1, 2):
        assert guest.set_version(version) == 0
        assert (guest.entry(1).frame, guest.used(1)) == (guest.page(1).mfn, READING)
        own = READING if version == 1 else 0
        assert guest.head(1) == (PERMIT | int(GTF_readonly) | own, 0)
        assert guest.head(8) == (0, 0)
        guest.offer(8, 0, guest.page(2).mfn)
    assert house.dom0.unmap(op.handle, va) == GNTST_okay
    assert guest.used(1) == 0


@pytest.mark.parametrize("entry", ["transitive", "far"])
def test_a_reserved_entry_that_version_1_cannot_hold_keeps_version_2(granter: Guest, entry: str) -> None:
    if entry == "transitive":
        hdr = grant_entry_header(flags=int(GTF_transitive), domid=DomId(0))
        granter.write_entry(3, grant_entry_v2_transitive(hdr=hdr, trans_domid=DomId(2), gref=GrantRef(8)))
    else:
        granter.offer(3, 0, 1 << 32)
    assert (granter.set_version(1), granter.version) == (-Errno.ERANGE, 2)
    granter.write_entry(3, grant_entry_v2_full_page())
    assert granter.set_version(1) == 0


def test_without_a_frame_for_the_status_a_table_stays_version_1(house: GrantingDomains) -> None:
    allocator = house.machine.hv.mmu.allocator
    quota, allocator.quota_frames = allocator.quota_frames, allocator.used_frames
    assert (house.dom1.set_version(2), house.dom1.version) == (-Errno.ENOMEM, 1)
    allocator.quota_frames = quota
    assert house.dom1.set_version(2) == 0


# --- status frames --------------------------------------------------------------------------------------


def test_every_entry_has_a_status_word_however_far_the_table_grows(
    house: GrantingDomains, granter: Guest
) -> None:
    first = list(granter.grants.status_frames)
    op = gnttab_setup_table(dom=DOMID_SELF, nr_frames=9, frame_list=granter.page(20).va)
    assert granter.one(GrantTableOp.GNTTABOP_setup_table, op).status == GNTST_okay
    assert granter.grants.status_frames[:1] == first
    assert status_frames(granter, 2) == (GNTST_okay, granter.grants.status_frames)
    va = house.dom0.page(0).va
    for ref in (9, 255, 256, 2047, 2048, 2303):
        granter.offer(ref, 0, granter.page(0).mfn)
        handle = house.dom0.map(granter, ref, va).handle
        assert granter.used(ref) == USED
        assert house.dom0.unmap(handle, va) == GNTST_okay
    assert house.dom0.map(granter, 2304, va).status == GNTST_bad_gntref


def test_status_frames_are_listed_as_far_as_there_are_any(house: GrantingDomains, granter: Guest) -> None:
    assert status_frames(granter, 0) == (GNTST_okay, [])
    assert status_frames(granter, 1) == (GNTST_okay, granter.grants.status_frames)
    assert status_frames(granter, 2) == (GNTST_general_error, [])
    assert status_frames(house.dom2, 1) == (GNTST_general_error, [])


# --- using entries --------------------------------------------------------------------------------------


def test_the_status_of_a_whole_frame_is_xens_and_the_entry_stays_as_it_is(
    house: GrantingDomains, granter: Guest
) -> None:
    va, page = house.dom0.page(0).va, granter.page(0)
    granter.poke(page.va, b"version two")
    granter.offer(8, 0, page.mfn)
    readable = house.dom0.map(granter, 8, va, HOST | READONLY)
    assert (granter.used(8), granter.head(8)) == (READING, (PERMIT, 0))
    assert house.dom0.loads(va, 11) == b"version two"
    writable = house.dom0.map(granter, 8, house.dom0.page(1).va)
    assert (granter.used(8), granter.head(8)) == (USED, (PERMIT, 0))
    assert house.dom0.unmap(writable.handle, house.dom0.page(1).va) == GNTST_okay
    assert granter.used(8) == READING
    assert house.dom0.unmap(readable.handle, va) == GNTST_okay
    assert granter.used(8) == 0


def test_a_read_only_entry_is_not_written(house: GrantingDomains, granter: Guest) -> None:
    granter.offer(8, 0, granter.page(0).mfn, PERMIT | int(GTF_readonly))
    mine = by_frame(DOMID_SELF, house.dom0.page(1).mfn)
    assert house.dom0.map(granter, 8, house.dom0.page(0).va).status == GNTST_general_error
    assert house.dom0.copy(mine, by_ref(1, 8), 16, 2) == GNTST_general_error
    assert house.dom0.copy(by_ref(1, 8), mine, 16, 1) == GNTST_okay
    assert granter.used(8) == 0


def test_a_part_of_a_frame_is_copied_and_nothing_beside_it(house: GrantingDomains, granter: Guest) -> None:
    page, dest = granter.page(0), house.dom2.page(1)
    granter.poke(page.va, bytes(range(256)) * 16)
    granter.offer_part(8, 2, page.mfn, 16, 32)
    for offset, length, status in (
        (16, 32, GNTST_okay),
        (20, 4, GNTST_okay),
        (15, 4, GNTST_general_error),
        (16, 33, GNTST_general_error),
        (47, 1, GNTST_okay),
        (48, 1, GNTST_general_error),
        (4090, 7, GNTST_bad_copy_arg),
    ):
        house.dom2.poke(dest.va, bytes(64))
        there = by_frame(DOMID_SELF, dest.mfn)
        assert house.dom2.copy(by_ref(1, 8, offset), there, length, 1) == status
        copied = bytes(range(offset, offset + length)) if status == GNTST_okay else b""
        assert house.dom2.loads(dest.va, 64) == copied.ljust(64, b"\0")
        assert house.dom2.copy(there, by_ref(1, 8, offset), length, 2) == status
    assert granter.used(8) == 0


def test_a_part_of_a_frame_is_not_mapped(house: GrantingDomains, granter: Guest) -> None:
    granter.offer_part(8, 0, granter.page(0).mfn, 0, 4096)
    assert house.dom0.map(granter, 8, house.dom0.page(0).va).status == GNTST_general_error
    assert granter.used(8) == 0


def test_what_a_transitive_entry_leads_to_is_refused(house: GrantingDomains, granter: Guest) -> None:
    house.dom2.offer(8, 1, house.dom2.page(0).mfn)
    hdr = grant_entry_header(flags=int(GTF_transitive), domid=DomId(0))
    granter.write_entry(8, grant_entry_v2_transitive(hdr=hdr, trans_domid=DomId(2), gref=GrantRef(8)))
    mine = by_frame(DOMID_SELF, house.dom0.page(0).mfn)
    assert house.dom0.copy(by_ref(1, 8), mine, 16, 1) == GNTST_general_error
    assert house.dom0.copy(mine, by_ref(1, 8), 16, 2) == GNTST_general_error
    assert house.dom0.map(granter, 8, house.dom0.page(1).va).status == GNTST_general_error
    assert (granter.used(8), house.dom2.used(8)) == (0, 0)


@pytest.mark.parametrize("change", [0, PERMIT | int(GTF_readonly)])
def test_an_entry_taken_back_just_before_its_status_shows_is_not_used(
    house: GrantingDomains, granter: Guest, monkeypatch: pytest.MonkeyPatch, change: int
) -> None:
    """The granter looks at the status after it changed the entry; Xen looks at the entry after the status."""
    granter.offer(8, 0, granter.page(0).mfn)
    house.honest = {house.dom0.domid, house.dom2.domid}
    set_status = SharedEntriesV2.set_status

    def taken_back(self: SharedEntriesV2, ref: GrantRef, flags: int) -> None:
        granter.offer(8, 0, granter.page(0).mfn, change)
        set_status(self, ref, flags)

    monkeypatch.setattr(SharedEntriesV2, "set_status", taken_back)
    assert house.dom0.map(granter, 8, house.dom0.page(0).va).status == GNTST_general_error
    assert (granter.used(8), granter.grants.active) == (0, {})


def test_a_reader_stays_when_a_writer_is_refused_at_the_last_moment(
    house: GrantingDomains, granter: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    granter.offer(8, 0, granter.page(0).mfn)
    house.dom0.map(granter, 8, house.dom0.page(0).va, HOST | READONLY)
    set_status = SharedEntriesV2.set_status

    def made_read_only(self: SharedEntriesV2, ref: GrantRef, flags: int) -> None:
        granter.offer(8, 0, granter.page(0).mfn, PERMIT | int(GTF_readonly))
        set_status(self, ref, flags)

    monkeypatch.setattr(SharedEntriesV2, "set_status", made_read_only)
    assert house.dom0.map(granter, 8, house.dom0.page(1).va).status == GNTST_general_error
    assert granter.used(8) == READING


def test_swapped_entries_take_their_form_with_them(house: GrantingDomains, granter: Guest) -> None:
    granter.offer_part(8, 2, granter.page(0).mfn, 16, 32)
    granter.offer(9, 0, granter.page(1).mfn)
    eight, nine = granter.head(8), granter.head(9)
    op = gnttab_swap_grant_ref(ref_a=GrantRef(8), ref_b=GrantRef(9))
    assert granter.one(GrantTableOp.GNTTABOP_swap_grant_ref, op).status == GNTST_okay
    assert (granter.head(8), granter.head(9)) == (nine, eight)
    mine = by_frame(DOMID_SELF, house.dom2.page(1).mfn)
    assert house.dom2.copy(by_ref(1, 9, 16), mine, 32, 1) == GNTST_okay
    assert house.dom2.copy(by_ref(1, 9, 15), mine, 32, 1) == GNTST_general_error
