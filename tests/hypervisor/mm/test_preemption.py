"""Validation and tear-down stopped after every single entry: resumed, torn down, met by somebody else (Q1-Q5)."""

from collections.abc import Iterator
from itertools import product

import pytest

from hypervisor.machine.frame_types import PGC, PGT
from hypervisor.machine.paging import pte, pte_mfn
from hypervisor.mm.budget import Budget, Portion, Restart
from hypervisor.public.errno import XenError
from hypervisor.public.types import Mfn
from tests.hypervisor.mm.small_machine import RW, Guest, SmallMachine, small_machine


@pytest.fixture
def machine() -> Iterator[SmallMachine]:
    with small_machine() as machine:
        yield machine


def tower(guest: Guest) -> tuple[int, list[int]]:
    """An L4 with 2 L3s, 4 L2s and 8 L1s, of which neighbours share one; and all its frames."""
    l1s = [guest.l1(guest.take(2)) for _ in range(4)]
    l2s = [guest.table({0: pte(l1s[i % 4], RW), 511: pte(l1s[(i + 1) % 4], RW)}) for i in range(4)]
    l3s = [guest.table([pte(l2s[2 * i], RW), pte(l2s[2 * i + 1], RW)]) for i in range(2)]
    l4 = guest.table({0: pte(l3s[0], RW), 511: pte(l3s[1], RW)})
    return l4, [l4, *l3s, *l2s, *l1s]


def pin_portion(guest: Guest, vcpu: int, mfn: int, level: int, entries: int = 1) -> bool:
    """One portion of a pin; True when done. XenError."""
    s = Portion(guest.d.vcpus[vcpu], Budget(entries))
    try:
        guest.mmu.types.finish_old_table(s)
        guest.mmu.pins.pin(mfn, level, guest.d, s)
    except Restart:
        return False
    return True


def finish(guest: Guest, vcpu: int) -> None:
    """Slices until the vCPU's old table is gone."""
    while True:
        try:
            guest.mmu.types.finish_old_table(Portion(guest.d.vcpus[vcpu], Budget(1)))
        except Restart:
            guest.machine.recount()
        else:
            guest.machine.recount()
            return


def slices_to_pin(guest: Guest, vcpu: int, mfn: int, level: int) -> int:
    portions = 1
    while not pin_portion(guest, vcpu, mfn, level):
        guest.machine.recount()
        portions += 1
    guest.machine.recount()
    return portions


def nothing_is_typed(guest: Guest, tables: list[int]) -> bool:
    return all(guest.mmu.frames.tcount[m] == 0 and guest.mmu.frames.refs[m] == 1 for m in tables)


def test_each_slice_does_at_least_one_entry_and_at_most_its_budget(machine: SmallMachine) -> None:
    """Q4: a table of 512 entries takes 512 portions of one entry, and a few of many."""
    guest = machine.domain(520)
    l1 = guest.table([])
    l2 = guest.table([pte(l1, RW)] * 512)
    assert 512 <= slices_to_pin(guest, 0, l2, 2) <= 514
    guest.unpin(l2)
    assert machine.mmu.frames.tcount[l1] == 0


def test_a_table_whose_frames_go_with_it_costs_what_they_cost(machine: SmallMachine) -> None:
    """Q4: an L1 table that is dropped as a whole may hold the last reference of each of its frames."""
    guest = machine.domain(1100)
    tables = [guest.l1(guest.take(500)) for _ in range(2)]
    l2 = guest.table([pte(l1, RW) for l1 in tables])
    guest.pin(l2, 2)
    for l1 in tables:
        for entry in machine.memory.frames[l1][:500].tolist():
            machine.mmu.allocator.put_page_alloc_ref(pte_mfn(entry))
    before = guest.d.tot_pages
    machine.mmu.pins.unpin(l2, guest.d, Portion(guest.v, Budget()))
    assert guest.d.tot_pages == before - 500
    guest.until_done(machine.mmu.types.finish_old_table)
    assert guest.d.tot_pages == before - 1000


def test_validation_in_single_steps_ends_as_validation_at_once(machine: SmallMachine) -> None:
    guest = machine.domain(64)
    l4, tables = tower(guest)
    assert slices_to_pin(guest, 0, l4, 4) == 8, "one stop before each entry but a table's first"
    by_steps = [machine.mmu.frames.refs[m] for m in tables]
    guest.unpin(l4)
    assert nothing_is_typed(guest, tables)
    guest.pin(l4, 4)
    assert [machine.mmu.frames.refs[m] for m in tables] == by_steps


STOPS = range(1, 9)


@pytest.mark.parametrize("stop", STOPS)
def test_a_death_at_any_stop_leaves_nothing(machine: SmallMachine, stop: int) -> None:
    """Q5: the caller is never heard of again."""
    guest = machine.domain(64)
    l4, _ = tower(guest)
    for _ in range(stop):
        if pin_portion(guest, 0, l4, 4):
            break
    while not machine.mmu.relinquish(guest.d, Budget(1)):
        machine.recount()
    assert guest.d.tot_pages == 0
    assert machine.mmu.release_extents(guest.d)


@pytest.mark.parametrize("stop", STOPS)
def test_another_vcpu_resumes_a_parked_table(machine: SmallMachine, stop: int) -> None:
    """Q3: and the first one then finds it done; the pin counts once."""
    guest = machine.domain(64, nr_vcpus=2)
    l4, tables = tower(guest)
    for _ in range(stop):
        pin_portion(guest, 0, l4, 4)
    if not machine.mmu.frames.flags[l4] & PGC.PINNED:
        slices_to_pin(guest, 1, l4, 4)
        with pytest.raises(XenError):
            pin_portion(guest, 0, l4, 4)
        finish(guest, 0)
    guest.unpin(l4)
    assert nothing_is_typed(guest, tables)


@pytest.mark.parametrize(("stop", "other"), list(product(range(1, 10, 2), range(1, 10, 2))))
def test_two_vcpus_take_turns_on_a_shared_subtree(machine: SmallMachine, stop: int, other: int) -> None:
    """Q2: a parked table is met through another parent, which goes on with it."""
    guest = machine.domain(64, nr_vcpus=2)
    l4, tables = tower(guest)
    second = guest.table({3: pte(tables[1], RW), 4: pte(tables[2], RW)})
    todo = {0: l4, 1: second}
    turns = [0] * stop + [1] * other
    while todo:
        vcpu = turns.pop() if turns and turns[-1] in todo else next(iter(todo))
        if turns and turns[-1] not in todo:
            turns.pop()
        if pin_portion(guest, vcpu, todo[vcpu], 4):
            del todo[vcpu]
        machine.recount()
    for table in (l4, second):
        guest.unpin(table)
    assert nothing_is_typed(guest, [*tables, second])


@pytest.mark.parametrize("stop", range(1, 20))
def test_tear_down_stopped_anywhere_can_be_turned_round(machine: SmallMachine, stop: int) -> None:
    """A table half de-validated is pinned again: its dropped entries are taken anew, the others are not (Q1)."""
    guest = machine.domain(64, nr_vcpus=2)
    l4, tables = tower(guest)
    guest.pin(l4, 4)
    machine.mmu.pins.unpin(l4, guest.d, Portion(guest.v, Budget(1)))
    for _ in range(stop):
        try:
            machine.mmu.types.finish_old_table(Portion(guest.v, Budget(1)))
            break
        except Restart:
            machine.recount()
    slices_to_pin(guest, 1, l4, 4)
    finish(guest, 0)
    assert machine.mmu.frames.flags[l4] & PGC.VALIDATED
    guest.unpin(l4)
    assert nothing_is_typed(guest, tables)


@pytest.mark.parametrize("bad", range(7))
def test_a_refusal_late_in_a_preempted_validation_is_undone_in_portions(
    machine: SmallMachine, bad: int
) -> None:
    """Q3, XSA-310: wherever in the tower the bad L1 is met."""
    guest = machine.domain(64)
    l4, tables = tower(guest)
    l1s = tables[-4:]
    victim = l1s[bad % 4]
    guest.write(victim, 5, pte(l4, RW))
    with pytest.raises(XenError):
        slices_to_pin(guest, 0, l4, 4)
    finish(guest, 0)
    assert nothing_is_typed(guest, tables)
    assert machine.mmu.frames.type[l4] == PGT.none


def test_nobody_uses_or_changes_a_parked_table(machine: SmallMachine) -> None:
    """Q2."""
    guest = machine.domain(64, nr_vcpus=2)
    l4, tables = tower(guest)
    for _ in range(4):
        pin_portion(guest, 0, l4, 4)
    parked = [m for m in tables if machine.mmu.frames.flags[m] & PGC.PARTIAL]
    assert l4 in parked
    for mfn in parked:
        progress = guest.set_entry(mfn, 9, 0)
        assert progress.error is not None
        with pytest.raises(XenError):
            machine.mmu.types.get_page_and_type(Mfn(mfn), guest.d.domid, PGT.writable_page)
        with pytest.raises(XenError):
            machine.mmu.pins.clear_page(mfn, guest.d.domid)


@pytest.mark.parametrize("budget", [1, 2, 3])
def test_a_new_base_pointer_survives_preemption(machine: SmallMachine, budget: int) -> None:
    """X3: the old table goes in portions, the CPU runs on the new one."""
    guest = machine.domain(64)
    (one, _), (two, _) = tower(guest), tower(guest)
    guest.run_on(one)
    guest.until_done(lambda s: machine.mmu.bases.new_baseptr(guest.v, two, s), budget=budget)
    assert guest.v.cr3 == two
    assert machine.mmu.frames.tcount[one] == 0
    assert guest.cpu.told[-1] == ("load_cr3", two)


@pytest.mark.parametrize("length", [2, 3, 5])
@pytest.mark.parametrize("level", [2, 3, 4])
def test_linear_loops_are_broken_at_death(machine: SmallMachine, level: int, length: int) -> None:
    """K2: tables of one level that name each other's neighbour keep themselves alive, until their owner dies."""
    guest = machine.domain(32)
    hub = guest.table([])
    guest.pin(hub, level)
    for _ in range(length):
        user = guest.table({1: pte(hub, RW & ~2)})
        guest.write(user, 2, pte(user, RW & ~2))
        guest.pin(user, level)
        guest.mmu.reservation.remove_page(guest.d, user)
    machine.recount()
    while not machine.mmu.relinquish(guest.d, Budget(1)):
        machine.recount()
    assert guest.d.tot_pages == 0
