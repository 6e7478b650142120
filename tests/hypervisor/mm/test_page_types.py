"""Page types: one use at a time, validated before use, references counted exactly (F1-F14)."""

from collections.abc import Iterator

import pytest

from hypervisor.machine.frame_types import PGC, PGT
from hypervisor.machine.paging import PAGE_PSE, PAGE_RW, pte
from hypervisor.public.errno import Errno, XenError
from tests.hypervisor.mm.small_machine import RO, RW, Guest, SmallMachine, small_machine


@pytest.fixture
def machine() -> Iterator[SmallMachine]:
    with small_machine() as machine:
        yield machine


@pytest.fixture
def guest(machine: SmallMachine) -> Guest:
    return machine.domain(64)


def test_a_fresh_frame_is_zeroed_and_has_one_reference(machine: SmallMachine, guest: Guest) -> None:
    (mfn,) = guest.take()
    assert guest.mmu.frames.refs[mfn] == 1
    assert guest.mmu.frames.flags[mfn] == PGC.ALLOCATED
    assert not machine.memory.page(mfn).any()
    machine.recount()


def test_pinning_a_tower_takes_exactly_the_references_of_its_entries(guest: Guest) -> None:
    data = guest.take(8)
    l4, l3, l2 = guest.tower([guest.l1(data)])
    guest.pin(l4, 4)
    frames = guest.mmu.frames
    assert [frames.tcount[m] for m in (l4, l3, l2, *data)] == [1] * 11
    guest.unpin(l4)
    assert [frames.refs[m] for m in (l4, l3, l2, *data)] == [1] * 11


def test_l1_cannot_map_a_page_table_writable(guest: Guest) -> None:
    l1 = guest.l1(guest.take(1))
    guest.pin(l1, 1)
    other = guest.l1([l1])
    with pytest.raises(XenError) as refused:
        guest.pin(other, 1)
    assert refused.value.errno is Errno.EBUSY
    read_only = guest.l1([l1], RO)
    guest.pin(read_only, 1)


def test_l1_cannot_map_itself_writable(guest: Guest) -> None:
    (l1,) = guest.take()
    guest.write(l1, 0, pte(l1, RW))
    with pytest.raises(XenError):
        guest.pin(l1, 1)
    guest.write(l1, 0, pte(l1, RO))
    guest.pin(l1, 1)


def test_a_frame_mapped_writable_cannot_become_a_table(guest: Guest) -> None:
    (frame,) = guest.take()
    guest.pin(guest.l1([frame]), 1)
    for level in (1, 2, 3, 4):
        with pytest.raises(XenError):
            guest.pin(frame, level)


@pytest.mark.parametrize("bad", range(0, 512, 73))
def test_a_refused_l1_leaves_no_trace(guest: Guest, bad: int) -> None:
    """F9, wherever the bad entry stands."""
    data = guest.take(2)
    (l1,) = guest.take()
    for slot in range(512):
        guest.write(l1, slot, pte(data[slot % 2], RW))
    guest.write(l1, bad, pte(data[0], RW | 1 << 3))
    with pytest.raises(XenError):
        guest.pin(l1, 1)
    assert guest.mmu.frames.type[l1] == PGT.none
    assert [guest.mmu.frames.refs[m] for m in data] == [1, 1]


def test_a_refused_l2_leaves_no_trace(guest: Guest) -> None:
    l1s = [guest.l1(guest.take(2)) for _ in range(3)]
    l2 = guest.table([*(pte(l1, RW) for l1 in l1s), pte(l1s[0], RW | PAGE_PSE)])
    with pytest.raises(XenError):
        guest.pin(l2, 2)
    assert [guest.mmu.frames.type[m] for m in (l2, *l1s)] == [PGT.none, 1, 1, 1]
    assert [guest.mmu.frames.tcount[m] for m in (l2, *l1s)] == [0, 0, 0, 0]


def test_a_domain_cannot_reference_anothers_frames(machine: SmallMachine, guest: Guest) -> None:
    other = machine.domain(4)
    with pytest.raises(XenError):
        guest.pin(guest.l1(other.take(1), RO), 1)
    theirs = other.l1([])
    other.pin(theirs, 1)
    with pytest.raises(XenError):
        guest.pin(guest.table([pte(theirs, RW)]), 2)


def test_a_frame_keeps_its_type_when_the_last_use_goes(guest: Guest) -> None:
    """F6."""
    (frame,) = guest.take()
    l1 = guest.l1([frame])
    guest.pin(l1, 1)
    guest.unpin(l1)
    frames = guest.mmu.frames
    assert (frames.type[frame], frames.tcount[frame]) == (PGT.writable_page, 0)


def test_a_general_reference_is_refused_before_the_counter_wraps(guest: Guest) -> None:
    """F7: one below the limit is kept back."""
    frames = guest.mmu.frames
    frames.max_refs = 3
    (frame,) = guest.take()
    l1 = guest.l1([frame] * 4, RO)
    with pytest.raises(XenError):
        guest.pin(l1, 1)
    guest.write(l1, 2, 0)
    guest.write(l1, 3, 0)
    guest.pin(l1, 1)
    assert frames.refs[frame] == 3


def test_a_type_reference_is_refused_before_the_counter_wraps(guest: Guest) -> None:
    guest.mmu.frames.max_tcount = 2
    (frame,) = guest.take()
    with pytest.raises(XenError):
        guest.pin(guest.l1([frame] * 3), 1)
    guest.pin(guest.l1([frame] * 2), 1)


def test_xen_frames_are_mapped_as_they_were_shared_and_no_other_way(guest: Guest) -> None:
    """F12."""
    mmu = guest.mmu
    shared = mmu.allocator.alloc_xen_page(guest.d, writable=True)
    hidden = mmu.allocator.alloc_xen_page(guest.d, writable=False)
    guest.pin(guest.l1([shared]), 1)
    with pytest.raises(XenError):
        guest.pin(guest.l1([hidden]), 1)
    guest.pin(guest.l1([hidden], RO), 1)
    for frame in (shared, hidden):
        for level in (1, 2, 3, 4):
            with pytest.raises(XenError):
                guest.pin(frame, level)
        with pytest.raises(XenError):
            mmu.allocator.steal_page(frame, guest.d)
        with pytest.raises(XenError):
            mmu.reservation.remove_page(guest.d, frame)


def test_a_freed_xen_frame_stays_while_the_guest_maps_it(guest: Guest) -> None:
    shared = guest.mmu.allocator.alloc_xen_page(guest.d, writable=True)
    l1 = guest.l1([shared])
    guest.pin(l1, 1)
    guest.mmu.allocator.free_xen_page(shared)
    guest.machine.recount()
    assert guest.mmu.frames.refs[shared] == 1
    guest.unpin(l1)
    assert guest.mmu.frames.refs[shared] == 0


def test_stealing_needs_a_frame_that_nobody_uses(guest: Guest) -> None:
    """F13."""
    mapped, free = guest.take(2)
    guest.pin(guest.l1([mapped], RO), 1)
    with pytest.raises(XenError):
        guest.mmu.allocator.steal_page(mapped, guest.d)
    guest.mmu.allocator.steal_page(free, guest.d)
    guest.mmu.allocator.unsteal_page(free, guest.d)


def test_a_page_is_given_back_once(guest: Guest) -> None:
    """F14: while it is mapped, a second decrease finds it gone already."""
    (frame,) = guest.take()
    l1 = guest.l1([frame])
    guest.pin(l1, 1)
    guest.mmu.reservation.remove_page(guest.d, frame)
    with pytest.raises(XenError):
        guest.mmu.reservation.remove_page(guest.d, frame)
    guest.machine.recount()
    guest.unpin(l1)
    assert guest.mmu.frames.refs[frame] == 0


def test_a_type_change_flushes_what_could_still_be_written_through(
    machine: SmallMachine, guest: Guest
) -> None:
    """T1: once for all frames that were dropped before the flush, and not for a frame that never had a mapping."""
    first, second, fresh = guest.take(3)
    l1 = guest.l1([first, second])
    guest.pin(l1, 1)
    guest.unpin(l1)
    assert machine.flushed == []
    guest.pin(fresh, 1)
    assert machine.flushed == []
    guest.write(first, 0, 0)
    guest.pin(first, 1)
    assert machine.flushed == [guest.d.domid]
    guest.pin(second, 1)
    assert machine.flushed == [guest.d.domid]


def test_the_flush_comes_before_the_content_is_looked_at(machine: SmallMachine, guest: Guest) -> None:
    """XSA-401: a store that lands until the flush is seen by the validation, and refused."""
    (frame,) = guest.take()
    l1 = guest.l1([frame])
    guest.pin(l1, 1)
    guest.unpin(l1)
    guest.mmu.types._flush = lambda d: guest.write(frame, 7, pte(frame, RW))
    with pytest.raises(XenError):
        guest.pin(frame, 1)


def test_a_table_is_an_image_of_what_was_checked(machine: SmallMachine, guest: Guest) -> None:
    """P10: what the domain's process stores into its table afterwards changes nothing that Xen believes."""
    data = guest.take(2)
    l1 = guest.l1(data)
    l4, *_ = guest.tower([l1])
    guest.run_on(l4)
    machine.honest = False
    secret = machine.domain(1).take()[0]
    guest.write(l1, 0, pte(secret, RW))
    assert guest.mmu.walker.walk(guest.v, 0).mfn == data[0]
    guest.write(l1, 1, pte(l1, RW))
    assert guest.set_entry(l1, 1, 0).error is None
    assert guest.mmu.frames.tcount[data[1]] == 0
    assert guest.mmu.frames.refs[secret] == 1


def test_not_present_entries_hold_nothing_and_may_be_anything(guest: Guest) -> None:
    """P2."""
    guest.pin(guest.table([0xFFFF_FFFF_FFFF_FFFE] * 512), 1)
    guest.pin(guest.table([0xFFFF_FFFF_FFFF_FFFE] * 512), 4)


def test_writable_is_not_needed_above_l1(guest: Guest) -> None:
    l1 = guest.l1(guest.take(1))
    l2 = guest.table([pte(l1, RO)])
    guest.pin(l2, 2)
    assert guest.mmu.frames.tcount[l1] == 1
    assert not int(guest.machine.memory.frames[l2, 0]) & PAGE_RW
