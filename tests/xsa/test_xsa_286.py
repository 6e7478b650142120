"""XSA-286: update_va_mapping through page tables that a multicall had just replaced.

The flaw. update_va_mapping found the L1 table through the CPU's cached walk. Within one multicall an mmu_update that
changed an upper level had not flushed that cache yet, so the next entry wrote into a frame that was no page table of
the guest's any more.

The probe. Random multicalls of L2, L3 and L4 updates and update_va_mapping; after each, a walk from scratch through the
frames themselves must lead to the same L1 as the remembered one, and the counts hold. Negative control: with walks that
are never forgotten they disagree.
"""

import random

import pytest

from hypervisor.machine.paging import pte, table_index
from hypervisor.mm.tables import Tables
from hypervisor.public.errno import XenError
from hypervisor.public.types import Mfn
from tests.hypervisor.mm.small_machine import RW, Guest, SmallMachine, small_machine

VAS = [l3 << 30 | l2 << 21 for l3 in range(2) for l2 in range(2)]


def from_scratch(guest: Guest, va: int) -> int | None:
    """The L1 table that the guest's CPU would use."""
    table = guest.v.cr3
    for level in (4, 3, 2):
        entry = int(guest.machine.memory.frames[table, table_index(va, level)])
        if not entry & 1:
            return None
        table = entry >> 12 & (1 << 40) - 1  # type: ignore[assignment]
    return table


def world(machine: SmallMachine) -> tuple[Guest, list[list[Mfn]]]:
    """A guest on an L4, and its tables by level."""
    guest = machine.domain(32)
    l1s = [guest.l1(guest.take(1)) for _ in range(3)]
    l2s = [guest.table([pte(l1s[i], RW), pte(l1s[1 - i], RW)]) for i in range(2)]
    l3s = [guest.table([pte(l2s[i], RW), pte(l2s[1 - i], RW)]) for i in range(2)]
    l4 = guest.table([pte(l3s[0], RW)])
    for level, tables in enumerate((l1s, l2s, l3s), 1):
        for table in tables:
            guest.pin(table, level)
    guest.run_on(l4)
    return guest, [[], l1s, l2s, l3s, [l4]]


def multicalls(guest: Guest, tables: list[list[Mfn]], seed: int, steps: int) -> None:
    rng = random.Random(seed)
    for _ in range(steps):
        for _ in range(rng.randint(1, 4)):
            level = rng.choice([2, 2, 3, 4])
            target = rng.choice([0, *(pte(m, RW) for m in tables[level - 1])])
            guest.set_entry(rng.choice(tables[level]), rng.randrange(2), target)
            va = rng.choice(VAS)
            walked = guest.mmu.walker.to_l1(guest.v, va)
            assert (walked.l1 if walked else None) == from_scratch(guest, va), f"{va:#x}"
            try:
                guest.mmu.va_mapping.update(guest.v, va | rng.randrange(4) << 12, 0, guest.d.domid)
            except XenError:
                assert walked is None
    guest.machine.recount()


@pytest.mark.parametrize("seed", range(4))
def test_a_remembered_walk_is_the_walk_from_scratch(seed: int) -> None:
    with small_machine() as machine:
        multicalls(*world(machine), seed=seed, steps=60)


def test_walks_that_are_never_forgotten_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = SmallMachine()
    guest, tables = world(machine)
    monkeypatch.setattr(Tables, "walks_changed", lambda self: None)
    with pytest.raises(AssertionError):
        multicalls(guest, tables, seed=0, steps=60)
    machine.close()
