"""A domain's end: everything comes back, in any portions, and what others hold stays until they let go (K2-K5)."""

import os
from collections.abc import Iterator

import numpy as np
import pytest

from hypervisor.machine.paging import pte
from hypervisor.mm.budget import Budget
from hypervisor.mm.extents import PUNCH_BATCH
from hypervisor.mm.layout import EXTENT_FRAMES, INVALID_M2P_ENTRY
from hypervisor.public.errno import XenError
from tests.hypervisor.mm.small_machine import RO, RW, Guest, SmallMachine, small_machine


@pytest.fixture
def machine() -> Iterator[SmallMachine]:
    with small_machine() as machine:
        yield machine


def end(guest: Guest, entries: int) -> int:
    """Slices that a death took."""
    guest.d.dying = True
    portions = 1
    while not guest.mmu.relinquish(guest.d, Budget(entries)):
        guest.machine.recount()
        portions += 1
    guest.machine.recount()
    return portions


def busy_guest(machine: SmallMachine) -> Guest:
    """A guest with tables in all kinds of use."""
    guest = machine.domain(64, nr_vcpus=2)
    l1s = [guest.l1(guest.take(2)) for _ in range(3)]
    l4, l3, l2 = guest.tower(l1s)
    guest.run_on(l4)
    for mfn, level in ((l2, 2), (l3, 3), (l1s[0], 1)):
        guest.pin(mfn, level)
    user = guest.table([pte(l3, RW)])
    guest.until_done(lambda s: machine.mmu.bases.new_user_baseptr(guest.v, user, s))
    hub = guest.table([])
    guest.pin(hub, 4)
    guest.pin(guest.table({3: pte(hub, RO)}), 4)
    machine.mmu.descriptors.set_gdt(guest.v, list(guest.take(2)), 600)
    return guest


@pytest.mark.parametrize("entries", [1, 2, 17, 1 << 20])
def test_nothing_is_left_of_a_busy_domain(machine: SmallMachine, entries: int) -> None:
    used = machine.mmu.allocator.used_frames
    guest = busy_guest(machine)
    portions = end(guest, entries)
    assert (portions == 1) == (entries > 1000)
    assert guest.d.tot_pages == 0
    assert machine.mmu.release_extents(guest.d)
    assert machine.mmu.allocator.used_frames == used


def test_relinquishing_again_changes_nothing(machine: SmallMachine) -> None:
    """K3."""
    guest = busy_guest(machine)
    end(guest, 5)
    assert machine.mmu.relinquish(guest.d, Budget(1))
    machine.recount()


def test_a_frame_that_another_domain_maps_outlives_its_owner(machine: SmallMachine) -> None:
    """K4: it keeps its owner, cannot be mapped anew, and the address space comes back only after it."""
    control = machine.domain(8, privileged=True)
    guest = machine.domain(8)
    frame = guest.pages[0]
    l1 = control.table([])
    control.pin(l1, 1)
    assert control.set_entry(l1, 0, pte(frame, RW), foreigndom=guest.d.domid).done == 1
    machine.memory.frames[frame, 0] = 99
    end(guest, 3)
    assert guest.d.tot_pages == 1
    assert not machine.mmu.release_extents(guest.d)
    assert int(machine.memory.frames[frame, 0]) == 99
    assert control.set_entry(l1, 0, 0).done == 1
    machine.recount()
    assert guest.d.tot_pages == 0
    assert machine.mmu.release_extents(guest.d)


def test_a_domain_without_vcpus_can_end_too(machine: SmallMachine) -> None:
    control = machine.domain(2, privileged=True)
    guest = machine.domain(8, nr_vcpus=0)
    l1 = guest.l1(guest.take(1))
    control.until_done(lambda s: machine.mmu.pins.pin(l1, 1, guest.d, s))
    end(guest, 1)
    assert guest.d.tot_pages == 0


def test_released_address_space_is_used_again_and_reads_as_zeros(machine: SmallMachine) -> None:
    guest = machine.domain(4)
    old = list(guest.d.extents.bases)
    machine.memory.frames[guest.pages[0]] = 7
    end(guest, 100)
    machine.mmu.release_extents(guest.d)
    assert not machine.memory.frames[old[0]].any()
    again = machine.domain(4)
    assert set(again.d.extents.bases) == set(old)
    for mfn in again.pages:
        assert not machine.memory.frames[mfn].any()


class TestExtents:
    def test_each_extent_is_announced_before_a_frame_of_it_is_given(self, machine: SmallMachine) -> None:
        guest = machine.domain(2 * EXTENT_FRAMES)
        told = {mfn: offset for domid, mfn, nr, offset in machine.extents if domid == guest.d.domid}
        assert told == guest.d.extents.bases
        assert sorted(told.values()) == [0, EXTENT_FRAMES, 2 * EXTENT_FRAMES]

    def test_frames_of_two_domains_share_no_extent(self, machine: SmallMachine) -> None:
        bases = [set(machine.domain(10).d.extents.bases) for _ in range(3)]
        assert not bases[0] & bases[1] | bases[1] & bases[2]

    def test_consecutive_frames_are_not_contiguous(self, machine: SmallMachine) -> None:
        pages = machine.domain(100).pages
        assert not (np.diff(np.array(pages)) == 1).any()

    def test_freed_frames_come_back_zeroed_and_their_memory_goes_to_the_host(
        self, machine: SmallMachine
    ) -> None:
        """M2."""
        guest = machine.domain(PUNCH_BATCH + 10)
        fd = guest.d.extents.fd
        for mfn in guest.pages:
            machine.memory.frames[mfn] = 0xDEAD
        held = os.fstat(fd).st_blocks
        for mfn in guest.pages:
            machine.mmu.reservation.remove_page(guest.d, mfn)
        machine.recount()
        assert os.fstat(fd).st_blocks < held // 4
        for _ in range(EXTENT_FRAMES):
            mfn = machine.mmu.allocator.alloc_page(guest.d)
            assert not machine.memory.frames[mfn].any()
            assert machine.mmu.m2p.get(mfn) == INVALID_M2P_ENTRY

    def test_runs_are_found_between_single_frames(self, machine: SmallMachine) -> None:
        guest = machine.domain(100, max_pages=1 << 12)
        runs = [machine.mmu.reservation.increase(guest.d, order) for order in (1, 4, 9, 2)]
        machine.recount()
        assert [run % (1 << order) for run, order in zip(runs, (1, 4, 9, 2), strict=True)] == [0, 0, 0, 0]

    def test_the_machines_quota_and_the_memfds_size_end_in_enomem(self) -> None:
        with small_machine(quota_frames=50) as machine:
            guest = machine.domain(30)
            with pytest.raises(XenError):
                machine.domain(30)
            machine.recount()
            guest.d.extents.capacity = EXTENT_FRAMES
            machine.mmu.allocator.quota_frames = 1 << 20
            guest.d.max_pages = 1 << 20
            while len(set(guest.d.extents.free) - set(guest.pages)) and guest.d.tot_pages < EXTENT_FRAMES - 3:
                machine.mmu.allocator.alloc_page(guest.d)
            with pytest.raises(XenError):
                machine.mmu.allocator.alloc_page(guest.d)
            machine.recount()
