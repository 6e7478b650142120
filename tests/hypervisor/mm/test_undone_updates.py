"""An update that raises anything at all leaves every count as it was (P9, F2).

A domain's process once sent an entry less 2^64: its bits were those of a good entry, so its references were taken, and
only the store refused the number. The references stayed, and the domain could never be taken down. Negative control: the
recount at the end of each test, which finds a reference that nothing holds.
"""

from collections.abc import Callable, Iterator

import pytest

from hypervisor.machine.paging import pte
from hypervisor.public.grant_table import GNTMAP_host_map
from hypervisor.public.types import Mfn
from hypervisor.public.xen import DOMID_SELF
from tests.hypervisor.mm.small_machine import RO, RW, Guest, small_machine

TOO_SMALL = 1 << 64


@pytest.fixture
def guest() -> Iterator[Guest]:
    """A guest that runs on four levels of tables, with one page mapped at address 0."""
    with small_machine() as machine:
        guest = machine.domain(20)
        guest.run_on(guest.tower([guest.l1(guest.take(1))])[0])
        yield guest


def l1(guest: Guest) -> int:
    return guest.mmu.walker.walk(guest.v, 0).l1


def l2(guest: Guest) -> int:
    assert guest.v.cr3 is not None
    l3 = guest.mmu.tables[guest.v.cr3].words[0] >> 12 & (1 << 40) - 1
    return guest.mmu.tables[l3].words[0] >> 12 & (1 << 40) - 1


def by_address(guest: Guest, entry: int) -> None:
    guest.mmu.va_mapping.update(guest.v, 0x1000, entry, guest.d.domid)


def by_machine_address(guest: Guest, entry: int) -> None:
    guest.mmu.updates.pt_update(
        l1(guest) << 12 | 8, entry, guest.d, guest.d.domid, guest.portion(), preserve_ad=False
    )


@pytest.mark.parametrize("update", [by_address, by_machine_address])
@pytest.mark.parametrize("flags", [RO, RW])
def test_an_entry_that_cannot_be_stored_holds_nothing(
    guest: Guest, update: Callable[[Guest, int], None], flags: int
) -> None:
    (frame,) = guest.take()
    with pytest.raises((ValueError, OverflowError, TypeError)):
        update(guest, pte(frame, flags) - TOO_SMALL)
    assert (guest.mmu.frames.refs[frame], guest.mmu.frames.tcount[frame]) == (1, 0)
    guest.machine.recount()


def test_a_table_that_cannot_be_named_is_dropped_again(guest: Guest) -> None:
    table = guest.l1(guest.take(2))
    with pytest.raises((ValueError, OverflowError, TypeError)):
        guest.mmu.updates.pt_update(
            l2(guest) << 12 | 8,
            pte(table, RW) - TOO_SMALL,
            guest.d,
            guest.d.domid,
            guest.portion(),
            preserve_ad=False,
        )
    guest.machine.recount()
    assert guest.update(foreigndom=DOMID_SELF).error is None  # tears down what was left
    assert (guest.mmu.frames.refs[table], guest.mmu.frames.tcount[table]) == (1, 0)


def test_a_grant_that_cannot_be_entered_holds_nothing(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    (frame,) = guest.take()

    def full(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(guest.mmu.tables, "write_entry", full)
        with pytest.raises(MemoryError):
            guest.mmu.grant_entries.create(guest.v, 0x1000, Mfn(frame), int(GNTMAP_host_map))
    guest.machine.recount()
