"""memory_op through the dispatcher: exact progress, limits, exchange, whom one may ask about (M1-M5)."""

from collections.abc import Iterator

import pytest

from hypervisor.mm.layout import INVALID_M2P_ENTRY, NR_FRAMES, RO_MPT_VIRT_START
from hypervisor.public.errno import Errno
from hypervisor.public.memory import (
    XENMEM_add_to_physmap,
    XENMEM_claim_pages,
    XENMEM_current_reservation,
    XENMEM_decrease_reservation,
    XENMEM_exchange,
    XENMEM_get_sharing_freed_pages,
    XENMEM_increase_reservation,
    XENMEM_machine_memory_map,
    XENMEM_machphys_mapping,
    XENMEM_machphys_mfn_list,
    XENMEM_maximum_ram_page,
    XENMEM_maximum_reservation,
    XENMEM_memory_map,
    XENMEM_populate_physmap,
    XENMEM_remove_from_physmap,
    XENMEM_set_memory_map,
    e820entry,
    xen_add_to_physmap,
    xen_foreign_memory_map,
    xen_machphys_mapping,
    xen_machphys_mfn_list,
    xen_memory_domain,
    xen_memory_exchange,
    xen_memory_map,
    xen_memory_reservation,
    xen_remove_from_physmap,
)
from hypervisor.public.xen import DOMID_SELF
from tests.hypervisor.mm.caller import Caller, callers, tiny_portions

LIST = 0x100
"""Where in the scratch page lists of frame numbers lie."""


@pytest.fixture
def everybody() -> Iterator[list[Caller]]:
    with callers(2) as found:
        yield found


@pytest.fixture
def guest(everybody: list[Caller]) -> Caller:
    return everybody[1]


def reservation(
    guest: Caller, count: int, order: int = 0, *, domid: int = DOMID_SELF, flags: int = 0, at: int = LIST
) -> xen_memory_reservation:
    return xen_memory_reservation(
        extent_start=guest.scratch + at, nr_extents=count, extent_order=order, mem_flags=flags, domid=domid
    )


@pytest.mark.parametrize("order", [0, 1, 9])
def test_increase_gives_zeroed_runs_of_frames(guest: Caller, order: int) -> None:
    before = guest.d.tot_pages
    assert guest.memory_op(XENMEM_increase_reservation, guest.record(reservation(guest, 3, order))) == 3
    assert guest.d.tot_pages == before + 3 * (1 << order)
    for first in guest.read_numbers(3, LIST):
        assert first % (1 << order) == 0
        for mfn in range(first, first + (1 << order)):
            assert guest.mmu.frames.owner[mfn] == guest.d.domid
            assert not guest.machine.memory.frames[mfn].any()


def test_populate_names_the_frames_in_the_m2p(guest: Caller) -> None:
    guest.numbers([5000, 7000], LIST)
    assert guest.memory_op(XENMEM_populate_physmap, guest.record(reservation(guest, 2, 1))) == 2
    one, two = guest.read_numbers(2, LIST)
    assert [guest.mmu.m2p.get(m) for m in (one, one + 1, two, two + 1)] == [5000, 5001, 7000, 7001]


def test_the_limit_stops_a_list_where_it_is_reached(guest: Caller) -> None:
    """M1, M2."""
    guest.d.max_pages = guest.d.tot_pages + 2
    assert guest.memory_op(XENMEM_increase_reservation, guest.record(reservation(guest, 5))) == 2
    assert guest.d.tot_pages == guest.d.max_pages


def test_a_list_that_ends_in_unwritable_memory_loses_no_frame(guest: Caller) -> None:
    """M2: what could not be told is not allocated."""
    before = guest.d.tot_pages
    inside = (4096 - LIST) // 8
    count = inside + 100_000
    result = guest.memory_op(XENMEM_increase_reservation, guest.record(reservation(guest, count)))
    assert inside <= result < count
    assert guest.d.tot_pages == before + result


def test_decrease_gives_back_ones_own_frames_once(everybody: list[Caller], guest: Caller) -> None:
    """M3, F14."""
    mine, theirs = guest.spare(2), everybody[2].spare(1)
    before = guest.d.tot_pages
    guest.numbers([mine[0], mine[0], mine[1]], LIST)
    assert guest.memory_op(XENMEM_decrease_reservation, guest.record(reservation(guest, 3))) == 1
    guest.numbers([mine[1], theirs[0]], LIST)
    assert guest.memory_op(XENMEM_decrease_reservation, guest.record(reservation(guest, 2))) == 1
    assert guest.d.tot_pages == before - 2
    assert guest.mmu.m2p.get(mine[0]) == INVALID_M2P_ENTRY


def test_a_frame_given_back_stays_while_it_is_mapped(guest: Caller) -> None:
    mapped = int(guest.mmu.walker.walk(guest.v, guest.scratch).mfn)
    before = guest.d.tot_pages
    guest.numbers([mapped], LIST)
    assert guest.memory_op(XENMEM_decrease_reservation, guest.record(reservation(guest, 1))) == 1
    assert guest.d.tot_pages == before
    assert guest.get(LIST, 8) == mapped.to_bytes(8, "little")


@pytest.mark.parametrize("entries", [1, 5, 40])
def test_lists_in_tiny_portions_repeat_nothing_and_skip_nothing(guest: Caller, entries: int) -> None:
    before = guest.d.tot_pages
    with tiny_portions(guest.machine, entries):
        assert guest.memory_op(XENMEM_increase_reservation, guest.record(reservation(guest, 9))) == 9
        mfns = guest.read_numbers(9, LIST)
        assert len(set(mfns)) == 9
        assert guest.memory_op(XENMEM_decrease_reservation, guest.record(reservation(guest, 9))) == 9
    assert guest.d.tot_pages == before


@pytest.mark.parametrize(
    ("order", "allowed"), [(9, True), (10, False), (18, False), (32, False), (63, False)]
)
def test_orders_are_limited(guest: Caller, order: int, allowed: bool) -> None:
    """M2, XSA-158."""
    guest.d.max_pages = 1 << 20
    result = guest.memory_op(XENMEM_increase_reservation, guest.record(reservation(guest, 1, order)))
    assert result == int(allowed)


def test_acting_on_another_domain_needs_control_of_it(everybody: list[Caller], guest: Caller) -> None:
    """M5."""
    control, other = everybody[0], everybody[2]
    before = other.d.tot_pages
    named = reservation(guest, 1, domid=other.d.domid)
    assert guest.memory_op(XENMEM_increase_reservation, guest.record(named)) == 0
    for domid in (0, other.d.domid, 999):
        for op in (XENMEM_current_reservation, XENMEM_maximum_reservation):
            assert guest.memory_op(op, guest.record(xen_memory_domain(domid=domid))) == -Errno.EPERM
    named = reservation(control, 1, domid=other.d.domid)
    assert control.memory_op(XENMEM_increase_reservation, control.record(named)) == 1
    asked = control.record(xen_memory_domain(domid=other.d.domid))
    assert control.memory_op(XENMEM_current_reservation, asked) == before + 1
    unknown = control.record(xen_memory_domain(domid=999))
    assert control.memory_op(XENMEM_current_reservation, unknown) == -Errno.ESRCH


def exchange(
    guest: Caller, given: list[int], in_order: int, pfns: list[int], out_order: int, done: int = 0
) -> int:
    guest.numbers(given, LIST)
    guest.numbers(pfns, LIST + 0x400)
    request = xen_memory_exchange(
        in_=reservation(guest, len(given), in_order),
        out=reservation(guest, len(pfns), out_order, at=LIST + 0x400),
        nr_exchanged=done,
    )
    return guest.memory_op(XENMEM_exchange, guest.record(request))


def exchanged(guest: Caller) -> int:
    return int.from_bytes(guest.get(xen_memory_exchange.offsetof("nr_exchanged"), 8), "little")


def test_exchange_gives_a_run_for_single_frames(guest: Caller) -> None:
    """M4."""
    given, before = guest.spare(8), guest.d.tot_pages
    assert exchange(guest, given, 0, [100, 200], 2) == 0
    assert exchanged(guest) == 8
    new = guest.read_numbers(2, LIST + 0x400)
    assert all(first % 4 == 0 for first in new)
    assert [guest.mmu.m2p.get(new[0] + i) for i in range(4)] == [100, 101, 102, 103]
    assert all(guest.mmu.frames.refs[m] == 0 for m in given if not any(f <= m < f + 4 for f in new))
    assert guest.d.tot_pages == before


def test_exchange_gives_single_frames_for_a_run(guest: Caller) -> None:
    guest.memory_op(XENMEM_increase_reservation, guest.record(reservation(guest, 1, 2)))
    (run,) = guest.read_numbers(1, LIST)
    assert exchange(guest, [run], 2, [1, 2, 3, 4], 0) == 0
    assert len(set(guest.read_numbers(4, LIST + 0x400))) == 4


@pytest.mark.parametrize("bad", range(4))
def test_a_failing_chunk_leaves_its_frames_with_their_owner(guest: Caller, bad: int) -> None:
    given, before = guest.spare(4), guest.d.tot_pages
    mapped = int(guest.mmu.walker.walk(guest.v, guest.scratch).mfn)
    frames = [*given[:bad], mapped, *given[bad + 1 :]]
    assert exchange(guest, frames, 0, [1, 2], 1) == -Errno.EINVAL
    assert exchanged(guest) == bad // 2 * 2
    assert guest.d.tot_pages == before
    kept = frames[exchanged(guest) :]
    assert all(guest.mmu.frames.owner[m] == guest.d.domid for m in kept)


def test_exchanging_a_frame_twice_is_refused(guest: Caller) -> None:
    given = guest.spare(1)
    assert exchange(guest, [given[0], given[0]], 0, [1], 1) == -Errno.EINVAL
    assert guest.mmu.frames.refs[given[0]] == 1


def test_an_exchange_works_when_the_machine_and_the_domain_are_full(guest: Caller) -> None:
    given = guest.spare(2)
    guest.d.max_pages = guest.d.tot_pages
    guest.mmu.allocator.quota_frames = guest.mmu.allocator.used_frames
    assert exchange(guest, given, 0, [1, 2], 0) == 0


@pytest.mark.parametrize("entries", [1, 9])
def test_an_exchange_in_tiny_portions(guest: Caller, entries: int) -> None:
    given, before = guest.spare(6), guest.d.tot_pages
    with tiny_portions(guest.machine, entries):
        assert exchange(guest, given, 0, [1, 2, 3], 1) == 0
    assert (exchanged(guest), guest.d.tot_pages) == (6, before)


def test_maps_and_limits_answer_as_documented(guest: Caller) -> None:
    assert guest.memory_op(XENMEM_maximum_ram_page, 0) == NR_FRAMES
    assert guest.memory_op(XENMEM_get_sharing_freed_pages, 0) == 0
    assert guest.memory_op(XENMEM_machphys_mapping, guest.scratch) == 0
    mapping = xen_machphys_mapping.unpack(guest.get(0, xen_machphys_mapping.sizeof))
    assert (mapping.v_start, mapping.max_mfn) == (RO_MPT_VIRT_START, NR_FRAMES - 1)
    request = xen_machphys_mfn_list(max_extents=3, extent_start=guest.scratch + LIST)
    assert guest.memory_op(XENMEM_machphys_mfn_list, guest.record(request)) == 0
    assert guest.read_numbers(3, LIST) == [1024, 1536, 2048]


def test_a_memory_map_is_what_the_builder_set(everybody: list[Caller], guest: Caller) -> None:
    control = everybody[0]
    request = xen_memory_map(nr_entries=9, buffer=guest.scratch + LIST)
    assert guest.memory_op(XENMEM_memory_map, guest.record(request)) == -Errno.ENOSYS
    entry = e820entry(addr=0, size=1 << 22, type=1)
    control.record(entry, LIST)
    told = xen_foreign_memory_map(
        domid=guest.d.domid, map=xen_memory_map(nr_entries=1, buffer=control.scratch + LIST)
    )
    assert control.memory_op(XENMEM_set_memory_map, control.record(told)) == 0
    assert guest.memory_op(XENMEM_memory_map, guest.record(request)) == 0
    assert xen_memory_map.unpack(guest.get(0, 16)).nr_entries == 1
    assert guest.get(LIST, 20) == entry.pack()
    assert guest.memory_op(XENMEM_machine_memory_map, guest.record(request)) == -Errno.EPERM
    assert control.memory_op(XENMEM_machine_memory_map, control.record(request)) == 0


def test_what_concerns_translated_guests_is_refused_as_xen_does(guest: Caller) -> None:
    assert (
        guest.memory_op(XENMEM_add_to_physmap, guest.record(xen_add_to_physmap(domid=DOMID_SELF)))
        == -Errno.EACCES
    )
    removed = guest.record(xen_remove_from_physmap(domid=DOMID_SELF))
    assert guest.memory_op(XENMEM_remove_from_physmap, removed) == -Errno.EACCES
    for op in (int(XENMEM_claim_pages), 8, 63):
        assert guest.memory_op(op, guest.scratch) == -Errno.ENOSYS
