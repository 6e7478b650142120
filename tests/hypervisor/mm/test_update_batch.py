"""Updates by array operations leave exactly what one update at a time leaves, or they are not done at all (U6).

Two machines get the same guest and the same batch; one takes the array path, the other never. Everything must be
equal afterwards: progress, every count and type, every entry.
"""

from collections.abc import Iterator
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hypervisor.machine.paging import pte
from hypervisor.mm import update_batch
from hypervisor.mm.budget import Progress
from hypervisor.mm.layout import XEN_FRAMES
from hypervisor.mm.p2m import MOST_LEAVES
from hypervisor.public.types import DomId, Mfn
from tests.hypervisor.mm.small_machine import RO, RW, Guest, SmallMachine

NR_DATA, NR_L1S = 12, 2
FLAGS = st.sampled_from([0, RO, RW, RW | 1 << 63, RW | 0x60, 3, RW | 1 << 3, RW | 1 << 8])


class Twins:
    """Two machines with equal guests."""

    def __init__(self) -> None:
        self.guests = [self.make(), self.make()]

    def make(self) -> Guest:
        guest = SmallMachine().domain(40)
        self.data = guest.take(NR_DATA)
        self.l1s = [guest.l1(self.data[: 4 + i]) for i in range(NR_L1S)]
        self.read_only = guest.l1([self.l1s[0], *self.data[:2]], RO)
        for l1 in (*self.l1s, self.read_only):
            guest.pin(l1, 1)
        guest.mmu.reservation.remove_page(guest.d, self.data[0])
        return guest

    def close(self) -> None:
        for guest in self.guests:
            guest.machine.close()


@pytest.fixture(scope="module")
def twins() -> Iterator[Twins]:
    twins = Twins()
    yield twins
    twins.close()


def state(guest: Guest, progress: Progress) -> tuple[object, ...]:
    frames = guest.mmu.frames
    span = slice(XEN_FRAMES, frames.top)
    columns = [frames.owner_np, frames.refs_np, frames.type_np, frames.tcount_np, frames.flags_np]
    idle = frames.tcount_np[span] == 0
    return (
        progress.done,
        progress.error and progress.error.errno,
        [column[span].tobytes() for column in columns],
        (frames.stamp_np[span] * idle).tobytes(),
        guest.d.tot_pages,
        guest.d.flush_clock,
        [
            guest.machine.memory.frames[m].tobytes()
            for m in range(XEN_FRAMES, frames.top)
            if m in guest.mmu.tables
        ],
    )


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_arrays_and_single_entries_agree(twins: Twins, data: st.DataObject) -> None:
    tables = st.sampled_from([*twins.l1s, *twins.l1s, *twins.l1s, twins.read_only, twins.data[5]])
    targets = st.sampled_from([*twins.data, *twins.data, twins.l1s[0], twins.read_only, 0, 1 << 30])
    slots = st.integers(0, 40)
    requests = data.draw(
        st.lists(st.tuples(tables, slots, targets, FLAGS), min_size=update_batch.MIN_RUN, max_size=24)
    )
    words = [(table << 12 | slot << 3, pte(target, flags)) for table, slot, target, flags in requests]
    by_arrays, one_by_one = twins.guests
    left = state(by_arrays, by_arrays.update(*words))
    with patch.object(update_batch, "try_updates", lambda *_, **__: False):
        right = state(one_by_one, one_by_one.update(*words))
    assert left == right


def test_uniform_runs_do_take_the_array_path(twins: Twins) -> None:
    """Or the comparison above would compare nothing."""
    guest = twins.guests[0]
    ptrs = np.array([twins.l1s[0] << 12 | i << 3 for i in range(100, 140)], dtype=np.uint64)
    for flags in (RW, RO, 0):
        values = np.array([pte(twins.data[5 + i % 7], flags) for i in range(40)], dtype=np.uint64)
        assert update_batch.try_updates(guest.mmu.types, guest.d, ptrs, values)
        guest.machine.recount()
    twins.guests[1].update(*zip(ptrs.tolist(), values.tolist(), strict=True))


class ControllingTwins(Twins):
    """The guests are Dom0s, and have a neighbour each; `data` are frames of the neighbours."""

    def make(self) -> Guest:
        guest = SmallMachine().domain(20, privileged=True)
        neighbour = guest.machine.domain(40)
        self.neighbour = neighbour.d.domid
        self.data = neighbour.take(NR_DATA)
        self.l1s = [guest.l1([]) for _ in range(NR_L1S)]
        self.read_only = neighbour.l1(self.data[:2], RO)
        for owner, l1 in ((guest, self.l1s[0]), (guest, self.l1s[1]), (neighbour, self.read_only)):
            owner.pin(l1, 1)
        neighbour.mmu.reservation.remove_page(neighbour.d, self.data[0])
        return guest


class TranslatedNeighbours(ControllingTwins):
    """The neighbours are translated; `data` are their own numbers of their frames, some with a P2M's table each."""

    def make(self) -> Guest:
        guest = SmallMachine().domain(20, privileged=True)
        neighbour = guest.machine.domain(translated=True)
        self.neighbour = neighbour.d.domid
        gfns = [*range(3, NR_DATA), 0x600, 0x5000, 0xFEFFC]
        neighbour.mmu.reservation.populate_many(neighbour.d, np.array(gfns, np.uint64))
        self.data = [Mfn(gfn) for gfn in gfns]
        self.l1s = [guest.l1([]) for _ in range(NR_L1S)]
        self.read_only = guest.l1([])
        for l1 in (*self.l1s, self.read_only):
            guest.pin(l1, 1)
        return guest


@pytest.fixture(scope="module", params=[ControllingTwins, TranslatedNeighbours])
def controlling(request: pytest.FixtureRequest) -> Iterator[ControllingTwins]:
    twins: ControllingTwins = request.param()
    yield twins
    twins.close()


def test_frames_of_a_translated_domain_that_are_too_far_apart_are_mapped_one_by_one() -> None:
    twins = TranslatedNeighbours()
    guest = twins.guests[0]
    p2m = guest.machine.domains[DomId(twins.neighbour)].p2m
    assert p2m is not None
    near = np.array([pte(gfn, RW) for gfn in twins.data], np.uint64)
    assert p2m.entries_of(near) is not None
    assert p2m.entries_of(np.append(near, np.uint64(pte(0x7000, RW)))) is None
    far = np.array([pte(gfn << 9, RW) for gfn in range(MOST_LEAVES + 1)], np.uint64)
    assert p2m.entries_of(far) is None
    twins.close()


def maps(guest: Guest, domid: int, words: list[tuple[int, int]]) -> Progress:
    """Updates of the guest's tables with frames of a domain."""
    progress = Progress()
    requests = np.array(words, "<u8").tobytes()
    owners = guest.mmu.update_requests.owners(guest.d, domid)
    guest.mmu.update_requests.run(guest.d, owners, requests, guest.portion(), progress)
    return progress


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_arrays_and_single_entries_agree_on_frames_of_others(
    controlling: ControllingTwins, data: st.DataObject
) -> None:
    tables = st.sampled_from([*controlling.l1s, *controlling.l1s, controlling.read_only])
    targets = st.sampled_from(
        [*controlling.data, *controlling.data, controlling.l1s[0], controlling.read_only]
    )
    requests = data.draw(
        st.lists(
            st.tuples(tables, st.integers(0, 40), targets, FLAGS), min_size=update_batch.MIN_RUN, max_size=24
        )
    )
    words = [(table << 12 | slot << 3, pte(target, flags)) for table, slot, target, flags in requests]
    by_arrays, one_by_one = controlling.guests
    left = state(by_arrays, maps(by_arrays, controlling.neighbour, words))
    with patch.object(update_batch, "try_updates", lambda *_, **__: False):
        right = state(one_by_one, maps(one_by_one, controlling.neighbour, words))
    assert left == right


def test_many_frames_of_others_do_take_the_array_path(controlling: ControllingTwins) -> None:
    guest = controlling.guests[0]
    words = [
        (controlling.l1s[0] << 12 | (100 + i) << 3, pte(controlling.data[5 + i % 7], RW)) for i in range(40)
    ]
    with patch.object(guest.mmu.update_requests, "perform", side_effect=AssertionError("one by one")):
        assert maps(guest, controlling.neighbour, words).done == len(words)
    guest.machine.recount()
    for one in controlling.guests:
        one.update(*[(where, 0) for where, _ in words])
    array = np.array(words, np.uint64)
    assert not update_batch.try_updates(guest.mmu.types, guest.d, array[:, 0], array[:, 1])
