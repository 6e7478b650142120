"""Linear page tables: read-only, own, validated, one level deep (P11, XSA-182, XSA-240)."""

from collections.abc import Iterator

import pytest

from hypervisor.machine.paging import pte
from hypervisor.mm import linear
from hypervisor.public.errno import XenError
from tests.hypervisor.mm.small_machine import RO, RW, Guest, SmallMachine, small_machine

LEVELS = pytest.mark.parametrize("level", [2, 3, 4])


@pytest.fixture
def machine() -> Iterator[SmallMachine]:
    with small_machine() as machine:
        yield machine


@pytest.fixture
def guest(machine: SmallMachine) -> Guest:
    return machine.domain(64)


@LEVELS
def test_a_table_may_name_itself_read_only_and_holds_nothing_by_it(guest: Guest, level: int) -> None:
    (table,) = guest.take()
    guest.write(table, 5, pte(table, RO))
    guest.pin(table, level)
    assert guest.mmu.frames.tcount[table] == 1
    assert guest.set_entry(table, 5, pte(table, RW)).error is not None
    assert guest.set_entry(table, 6, pte(table, RO)).done == 1
    guest.unpin(table)
    assert guest.mmu.frames.tcount[table] == 0


@LEVELS
def test_the_mapping_may_never_be_writable(guest: Guest, level: int) -> None:
    (table, other) = guest.take(2)
    guest.pin(other, level)
    guest.write(table, 5, pte(other, RW))
    with pytest.raises(XenError):
        guest.pin(table, level)
    guest.write(table, 5, pte(table, RW))
    with pytest.raises(XenError):
        guest.pin(table, level)


@LEVELS
def test_chains_are_refused_in_both_orders(guest: Guest, level: int) -> None:
    one, two, three = guest.take(3)
    for table in (one, two, three):
        guest.pin(table, level)
    assert guest.set_entry(two, 0, pte(three, RO)).done == 1
    assert guest.set_entry(one, 0, pte(two, RO)).error is not None, "one -> two -> three"
    assert guest.set_entry(three, 0, pte(one, RO)).error is not None, "two -> three -> one"
    assert guest.set_entry(one, 0, pte(three, RO)).done == 1
    assert guest.set_entry(two, 0, 0).done == 1
    assert guest.set_entry(one, 0, 0).done == 1
    assert guest.set_entry(one, 0, pte(two, RO)).done == 1, "the counters came back to zero"


@pytest.mark.parametrize("level", [3, 4])
def test_only_a_validated_table_can_be_a_target(guest: Guest, level: int) -> None:
    table, other = guest.take(2)
    guest.write(table, 0, pte(other, RO))
    guest.write(other, 0, pte(table, RO))
    with pytest.raises(XenError):
        guest.pin(table, level)


@LEVELS
def test_a_table_dropped_with_its_linear_entries_gives_the_counters_back(guest: Guest, level: int) -> None:
    target = guest.table([])
    guest.pin(target, level)
    user = guest.table({7: pte(target, RO), 9: pte(target, RO)})
    guest.pin(user, level)
    assert guest.mmu.frames.linear[target] == -2
    guest.unpin(target)
    assert guest.mmu.frames.tcount[target] == 2
    guest.unpin(user)
    assert guest.mmu.frames.tcount[target] == 0
    guest.pin(target, level)
    assert guest.mmu.frames.linear[target] == 0


@LEVELS
def test_the_counter_stops_at_its_limits(guest: Guest, level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "MAX_LINEAR", 3)
    user, target = guest.take(2)
    guest.pin(user, level)
    guest.pin(target, level)
    results = [guest.set_entry(user, slot, pte(target, RO)).done for slot in range(5)]
    assert sum(results) == guest.mmu.frames.linear[user] <= 3


def test_another_domains_table_is_no_target(machine: SmallMachine, guest: Guest) -> None:
    other = machine.domain(2)
    (theirs,) = other.take()
    other.pin(theirs, 4)
    (mine,) = guest.take()
    guest.write(mine, 0, pte(theirs, RO))
    with pytest.raises(XenError):
        guest.pin(mine, 4)


def test_a_guest_sees_its_tables_through_a_linear_entry(guest: Guest) -> None:
    """What it is for: L4 slot 300 names the L4 itself."""
    l1 = guest.l1(guest.take(1))
    l4, l3, l2 = guest.tower([l1])
    guest.write(l4, 300, pte(l4, RO))
    guest.run_on(l4)
    base = 0xFFFF << 48 | 300 << 39
    seen = [
        guest.mmu.walker.walk(guest.v, base).mfn,
        guest.mmu.walker.walk(guest.v, base | 300 << 30).mfn,
        guest.mmu.walker.walk(guest.v, base | 300 << 30 | 300 << 21).mfn,
        guest.mmu.walker.walk(guest.v, base | 300 << 30 | 300 << 21 | 300 << 12).mfn,
    ]
    assert seen == [l1, l2, l3, l4]
    for va in (base, base | 300 << 30):
        with pytest.raises(XenError):
            guest.mmu.walker.walk(guest.v, va, write=True)
        with pytest.raises(XenError):
            guest.mmu.va_mapping.update(guest.v, base | 300 << 30 | 300 << 21, 0, guest.d.domid)
