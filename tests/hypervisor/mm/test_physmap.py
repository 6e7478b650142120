"""A translated domain's P2M: every entry counts, a frame is in one place, and whatever is done the recount agrees.

Negative control: without `put_page_and_type` in Physmap.remove_page the random run stops at its first removal ("F2"), and
without the removal of a frame's old place in add_page it stops with "P2M: frame … is in two places".
"""

import random
from collections.abc import Iterator

import numpy as np
import pytest

from hypervisor.machine.paging import pte_mfn
from hypervisor.mm.budget import Budget
from hypervisor.mm.p2m import GFN_BITS
from hypervisor.mm.physmap import POOL_FRAMES
from hypervisor.public.errno import Errno, XenError
from tests.hypervisor.mm.small_machine import Guest, SmallMachine, small_machine


@pytest.fixture
def machine() -> Iterator[SmallMachine]:
    with small_machine() as machine:
        yield machine


@pytest.fixture
def guest(machine: SmallMachine) -> Guest:
    return machine.domain(translated=True)


def walked(machine: SmallMachine, guest: Guest, gfn: int) -> int | None:
    """The machine frame that a CPU finds in the tables, from the top; None: no translation."""
    assert guest.d.p2m is not None
    table = int(guest.d.p2m.top)
    for level in (3, 2, 1, 0):
        entry = int(machine.memory.frames[table][gfn >> 9 * level & 511])
        if not entry & 1:
            return None
        table = pte_mfn(entry)
    return table


def test_what_is_populated_is_what_a_cpu_finds(machine: SmallMachine, guest: Guest) -> None:
    reservation = machine.mmu.reservation
    many = np.array([0, 1, 511, 512, 0x3FFFF, 0xFEFF8], np.uint64)
    mfns = reservation.populate_many(guest.d, many)
    one = reservation.populate(guest.d, 0x100, 3)
    assert [walked(machine, guest, gfn) for gfn in many.tolist()] == mfns.tolist()
    assert [walked(machine, guest, 0x100 + i) for i in range(9)] == [*range(one, one + 8), None]
    assert guest.d.tot_pages == len(many) + 8
    machine.recount()


def test_a_frame_that_moves_leaves_its_old_place(machine: SmallMachine, guest: Guest) -> None:
    mfn = machine.mmu.reservation.populate(guest.d, 5, 0)
    machine.mmu.physmap.add_page(guest.d, 9, mfn)
    assert (walked(machine, guest, 5), walked(machine, guest, 9)) == (None, mfn)
    machine.recount()


def test_a_frame_in_the_p2m_becomes_no_page_table(machine: SmallMachine, guest: Guest) -> None:
    mfn = machine.mmu.reservation.populate(guest.d, 5, 0)
    with pytest.raises(XenError, match="F4"):
        machine.mmu.types.get_page_and_type(mfn, guest.d.domid, 1)


@pytest.mark.parametrize("gfn", [1 << GFN_BITS, (1 << GFN_BITS) - 1, 1 << 63, (1 << 64) - 1])
def test_guest_frames_that_do_not_exist_are_refused(machine: SmallMachine, guest: Guest, gfn: int) -> None:
    """… also an extent that begins before the end and goes beyond it."""
    for order in (1, 9):
        with pytest.raises(XenError) as refusal:
            machine.mmu.reservation.populate(guest.d, gfn, order)
        assert refusal.value.errno == Errno.EINVAL
    assert not len(machine.mmu.reservation.populate_many(guest.d, np.array([gfn | 1 << 40], np.uint64)))
    assert guest.d.tot_pages == 0
    machine.recount()


def test_tables_are_bounded_whatever_places_a_guest_names(machine: SmallMachine, guest: Guest) -> None:
    guest.d.max_pages = 1
    mfn = machine.mmu.reservation.populate(guest.d, 0, 0)
    moved = 0

    def move_through_all_places() -> None:
        nonlocal moved
        for moved in range(1 << 12):
            machine.mmu.physmap.add_page(guest.d, moved << 9, mfn)

    with pytest.raises(XenError) as refusal:
        move_through_all_places()
    assert refusal.value.errno == Errno.ENOMEM
    assert moved < POOL_FRAMES
    machine.recount()


def test_a_dying_domain_lets_go_in_small_portions(machine: SmallMachine, guest: Guest) -> None:
    machine.mmu.reservation.populate_many(guest.d, np.arange(0, 1200, dtype=np.uint64))
    portions = 1
    while not machine.mmu.relinquish(guest.d, Budget(64)):
        machine.recount()
        portions += 1
    assert portions > 3
    machine.recount()
    assert machine.mmu.release_extents(guest.d)


OPERATIONS = ("populate", "populate_many", "move", "remove", "give_back", "hold", "let_go", "write_down")


@pytest.mark.parametrize("seed", range(3))
def test_every_count_is_right_whatever_is_done(machine: SmallMachine, steps: int | None, seed: int) -> None:
    draw = random.Random(seed)
    domid = machine.domain(translated=True, max_pages=300).d.domid

    def somewhere() -> int:
        return draw.choice((draw.randrange(40), draw.randrange(1 << GFN_BITS + 1), 511, 512))

    for _ in range(steps or 400):
        mmu, d = machine.mmu, machine.domains[domid]
        assert d.p2m is not None
        shown = [
            number << 9 | int(slot) for number, leaf in d.p2m.leaves.items() for slot in np.flatnonzero(leaf)
        ]
        gfn = draw.choice(shown) if shown and draw.random() < 0.7 else somewhere()
        operation = draw.choice(OPERATIONS)
        try:
            if operation == "populate":
                mmu.reservation.populate(d, somewhere(), draw.randrange(4))
            elif operation == "populate_many":
                mmu.reservation.populate_many(d, np.array([somewhere() for _ in range(6)], np.uint64))
            elif operation == "move" and (mfn := d.p2m.mfn(gfn)) is not None:
                mmu.physmap.add_page(d, somewhere(), mfn)
            elif operation == "remove":
                mmu.physmap.remove_page(d, gfn)
            elif operation == "give_back":
                mmu.reservation.remove_page(d, gfn)
            elif operation == "hold" and (mfn := d.p2m.mfn(gfn)) is not None:
                mmu.frames.get_page(mfn, domid)
                machine.held.append((mfn, False))
            elif operation == "let_go" and machine.held:
                mmu.frames.put_page(machine.held.pop(draw.randrange(len(machine.held)))[0])
            elif operation == "write_down" and draw.random() < 0.1:
                machine.write_down_and_read_back()
        except XenError:
            pass
        machine.recount()
    for frame, _ in machine.held:
        machine.mmu.frames.put_page(frame)
    machine.held.clear()
    assert machine.mmu.relinquish(machine.domains[domid], Budget(1 << 30))
    machine.recount()
