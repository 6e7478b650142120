"""XSA-148: a superpage in a guest's L2 table, by the quick path.

The flaw. An update that changed only some flags of an L2 entry was not validated again, and PSE was among
those flags. An entry that named an L1 table became one that maps 2 MiB of machine memory, whoever owns it,
writable.

The probe. An L2, L3 and L4 entry gets PSE: together with a new frame, on its own to an entry that is there,
with RW before and after it, and in a table that is only going to be pinned. Every time EINVAL, and nothing
to be read behind it. Negative control: with PSE permitted the quick path takes it, and the recount sees it.
"""

import pytest

from hypervisor.machine.entries import NOT_FASTPATH, UPPER_DISALLOW
from hypervisor.machine.paging import PAGE_PSE, PAGE_RW, pte
from hypervisor.mm import pv_rules, update
from hypervisor.public.errno import Errno, XenError
from tests.hypervisor.mm.small_machine import RO, RW, Guest, SmallMachine, small_machine


def table_of(guest: Guest, level: int) -> int:
    """A pinned table whose entry 0 names a table of the level below."""
    table = guest.l1(guest.take(1))
    for _ in range(level - 1):
        table = guest.table([pte(table, RW)])
    guest.pin(table, level)
    return table


@pytest.mark.parametrize("level", [2, 3, 4])
@pytest.mark.parametrize("first", [0, PAGE_RW])
def test_no_order_of_updates_makes_a_superpage(level: int, first: int) -> None:
    with small_machine() as machine:
        guest = machine.domain(16)
        table = table_of(guest, level)
        before = int(machine.memory.frames[table, 0])
        for value in (
            before ^ first,
            (before ^ first) | PAGE_PSE,
            before | PAGE_PSE,
            pte(512, RW | PAGE_PSE),
        ):
            for slot in (0, 1):
                progress = guest.set_entry(table, slot, value)
                if value & PAGE_PSE:
                    assert progress.error is not None
                    assert progress.error.errno is Errno.EINVAL
        for entry in machine.memory.frames[table].tolist():
            assert not entry & PAGE_PSE


@pytest.mark.parametrize("level", [2, 3, 4])
def test_a_table_with_a_superpage_cannot_be_pinned(level: int) -> None:
    with small_machine() as machine:
        guest = machine.domain(4)
        table = guest.table([pte(512, RO | PAGE_PSE)])
        with pytest.raises(XenError):
            guest.pin(table, level)


def test_without_the_check_the_recount_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pv_rules, "UPPER_DISALLOW", UPPER_DISALLOW & ~PAGE_PSE)
    monkeypatch.setattr(update, "NOT_FASTPATH", NOT_FASTPATH & ~PAGE_PSE)
    machine = SmallMachine()
    guest = machine.domain(16)
    table = table_of(guest, 2)
    with pytest.raises(AssertionError, match="XSA-148"):
        guest.set_entry(table, 0, int(machine.memory.frames[table, 0]) | PAGE_PSE)
    machine.close()
