"""XSA-182: write access to a recursive L4 mapping, by the quick path.

The flaw. RW was among the flags that could be changed without validation above L1. A read-only linear entry,
with which a guest may look at its own page tables, could so be made writable, and with it all page tables.

The probe. Every single bit of every kind of entry at every level is flipped, alone, by mmu_update; whatever
is answered, every count must be right, no table writable and no linear entry writable. Negative control:
with RW among the quick path's flags the recount sees the writable mapping.
"""

import pytest

from hypervisor.machine.entries import NOT_FASTPATH
from hypervisor.machine.paging import PAGE_RW, pte
from hypervisor.mm import update
from tests.hypervisor.mm.small_machine import RO, RW, Guest, SmallMachine, small_machine


def tables_with_entries(guest: Guest) -> list[tuple[int, int]]:
    """(table, slot) of an entry of each kind: data, a table read-only, next level, linear, self."""
    data = guest.take(2)
    l1 = guest.l1(data)
    l2 = guest.table([pte(l1, RW)])
    l3 = guest.table([pte(l2, RW)])
    l4 = guest.table([pte(l3, RW)])
    guest.pin(l4, 4)
    other = guest.table([pte(data[0], RO), pte(l4, RO)])
    guest.pin(other, 1)
    found: list[tuple[int, int]] = [(l1, 0), (l1, 9), (l2, 0), (l3, 0), (l4, 0), (other, 0), (other, 1)]
    for level in (2, 3, 4):
        (target, user) = guest.take(2)
        guest.pin(target, level)
        guest.fill(user, [pte(target, RO), pte(user, RO)])
        guest.pin(user, level)
        found += [(user, 0), (user, 1)]
    return found


@pytest.mark.parametrize("kind", range(13))
def test_no_flip_of_one_bit_breaks_a_count(kind: int) -> None:
    with small_machine() as machine:
        guest = machine.domain(64)
        table, slot = tables_with_entries(guest)[kind]
        start = int(machine.memory.frames[table, slot])
        for bit in range(64):
            guest.set_entry(table, slot, start ^ 1 << bit)
            guest.set_entry(table, slot, start)
        guest.set_entry(table, slot, start)


def test_with_rw_on_the_quick_path_the_recount_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update, "NOT_FASTPATH", NOT_FASTPATH & ~PAGE_RW)
    machine = SmallMachine()
    guest = machine.domain(4)
    (l4,) = guest.take()
    guest.write(l4, 300, pte(l4, RO))
    guest.pin(l4, 4)
    with pytest.raises(AssertionError, match="P11"):
        guest.set_entry(l4, 300, pte(l4, RW))
    machine.close()
