"""Many frames populated at once are what one after the other would have been (M1, M2)."""

from contextlib import nullcontext

import pytest

from hypervisor.hypercalls import memory_lists
from hypervisor.public.memory import (
    XENMEM_decrease_reservation,
    XENMEM_populate_physmap,
    xen_memory_reservation,
)
from hypervisor.public.xen import DOMID_SELF
from tests.hypervisor.mm.caller import Caller, callers, tiny_portions

COUNT = 300
LIST = 0x100


def populate(guest: Caller, pfns: list[int]) -> int:
    guest.numbers(pfns, LIST)
    request = xen_memory_reservation(
        extent_start=guest.scratch + LIST, nr_extents=len(pfns), domid=DOMID_SELF
    )
    return guest.memory_op(XENMEM_populate_physmap, guest.record(request))


def state(guest: Caller) -> list[tuple[int, ...]]:
    """The domain's size; then the frames in the order told, relative to its first extent, and all that is known of them."""
    frames, base = guest.mmu.frames, min(guest.d.extents.bases)
    return [(guest.d.tot_pages, guest.mmu.allocator.used_frames)] + [
        (
            mfn - base,
            frames.owner[mfn] - guest.d.domid,
            frames.refs[mfn],
            frames.type[mfn],
            frames.tcount[mfn],
            frames.flags[mfn],
            guest.mmu.m2p.get(mfn),
        )
        for mfn in guest.read_numbers(COUNT, LIST)
    ]


@pytest.mark.parametrize("entries", [None, 40])
def test_at_once_and_one_by_one_lead_to_the_same(
    monkeypatch: pytest.MonkeyPatch, entries: int | None
) -> None:
    pfns = [9000 + 3 * i for i in range(COUNT)]
    with callers() as (_, at_once):
        with tiny_portions(at_once.machine, entries) if entries else nullcontext():
            assert populate(at_once, pfns) == COUNT
        found = state(at_once)
    monkeypatch.setattr(memory_lists, "MIN_RUN", 1 << 30)
    with callers() as (_, one_by_one):
        assert populate(one_by_one, pfns) == COUNT
        assert state(one_by_one) == found


@pytest.mark.parametrize("room", [0, 1, 20, COUNT - 1])
def test_the_limit_stops_at_the_frame_where_it_is_reached(room: int) -> None:
    with callers(1) as (_, guest):
        guest.d.max_pages = guest.d.tot_pages + room
        assert populate(guest, list(range(COUNT))) == room
        assert guest.d.tot_pages == guest.d.max_pages


def test_frames_given_back_come_cleared() -> None:
    with callers(1) as (_, guest):
        assert populate(guest, list(range(COUNT))) == COUNT
        given = guest.read_numbers(COUNT, LIST)
        for mfn in given:
            guest.write(mfn, 7, 0x1234)
        request = xen_memory_reservation(
            extent_start=guest.scratch + LIST, nr_extents=COUNT, domid=DOMID_SELF
        )
        assert guest.memory_op(XENMEM_decrease_reservation, guest.record(request)) == COUNT
        assert populate(guest, list(range(COUNT))) == COUNT
        for mfn in guest.read_numbers(COUNT, LIST):
            assert not guest.machine.memory.frames[mfn].any()
