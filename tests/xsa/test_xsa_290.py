"""XSA-290: one call that validates page tables for minutes.

The flaw. Validation of an L3 could go on through all tables below it without a point at which it could stop, and a
guest could arrange tables so that one hypercall kept a CPU for minutes.

The probe. A tree in which every table names many tables of the level below, all shared, so that each level multiplies
the work; pinned, unpinned and torn down at death in slices. No portion looks at more entries than its budget and one
table's last step, at each depth. Negative control: with a budget that nobody asks, one portion does it all.
"""

import pytest

from hypervisor.machine.paging import pte
from hypervisor.mm.budget import COST_OF_L1, COST_OF_UPPER_ENTRY, Budget, Portion, Restart
from tests.hypervisor.mm.small_machine import RW, Guest, SmallMachine, small_machine

BUDGET = 600
OVERRUN = COST_OF_L1 + 4 * COST_OF_UPPER_ENTRY
"""An L1 table is checked at once; and each of the levels above may have one entry under way."""


def tree(guest: Guest, width: int) -> int:
    """An L4 over `width` L3s, each over `width` L2s, each over `width` L1s: as many tables, all different."""
    tables = [guest.l1(guest.take(1) * 512) for _ in range(width**3)]
    for level in (2, 3, 4):
        groups = [tables[i : i + width] for i in range(0, len(tables), width)]
        tables = [guest.table([pte(m, RW) for m in group]) for group in groups]
        assert level
    return tables[0]


def portions(guest: Guest, operation) -> list[int]:  # type: ignore[no-untyped-def]
    """Entries that each portion of an operation looked at."""
    spent = []
    while True:
        s = Portion(guest.v, Budget(BUDGET))
        try:
            guest.mmu.types.finish_old_table(s)
            operation(s)
        except Restart:
            spent.append(BUDGET - s.budget.left)
            continue
        spent.append(BUDGET - s.budget.left)
        return spent


def test_no_slice_exceeds_its_budget_by_more_than_one_step() -> None:
    with small_machine() as machine:
        guest = machine.domain(200)
        l4 = tree(guest, 4)
        pinning = portions(guest, lambda s: machine.mmu.pins.pin(l4, 4, guest.d, s))
        assert len(pinning) > 20
        assert max(pinning) <= BUDGET + OVERRUN
        unpinning = portions(guest, lambda s: guest.mmu.pins.unpin(l4, guest.d, s))
        unpinning += portions(guest, guest.mmu.types.finish_old_table)
        assert max(unpinning) <= BUDGET + OVERRUN
        guest.pin(l4, 4)
        spent = []
        while True:
            budget = Budget(BUDGET)
            done = machine.mmu.relinquish(guest.d, budget)
            spent.append(BUDGET - budget.left)
            if done:
                break
        assert max(spent) <= BUDGET + OVERRUN
        assert guest.d.tot_pages == 0


def test_a_budget_that_never_ends_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Budget, "exhausted", property(lambda self: False))
    machine = SmallMachine()
    guest = machine.domain(200)
    l4 = tree(guest, 4)
    assert max(portions(guest, lambda s: machine.mmu.pins.pin(l4, 4, guest.d, s))) > 10 * (BUDGET + OVERRUN)
    machine.close()
