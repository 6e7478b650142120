"""XSA-299, XSA-310: references of partly validated tables dropped twice, or not at all.

The flaw. The entry at which (de)validation of a table had stopped, and the one table that was parked when it failed,
were accounted for in several places that did not agree: resuming from another vCPU, or killing the domain there, left
a page table with too few references, which a guest then wrote to.

The probe. L2, L3 and L4 tables with entries in shrunk positions are stopped at every entry, on the way up and on the
way down, alone and while another vCPU pins, unpins or changes a table above the parked one, and then resumed, turned
round or killed; recount at each stop. Negative controls: a resume that takes the reference of the entry where it
stopped again, and one that forgets the reference of the parked table, are noticed.
"""

from itertools import product

import pytest

from hypervisor.machine.paging import pte
from hypervisor.mm import validate
from hypervisor.mm.budget import Budget, Portion, Restart
from hypervisor.mm.page_types import PageTypes
from hypervisor.public.errno import XenError
from tests.hypervisor.mm.small_machine import RO, RW, Guest, SmallMachine, small_machine

SLOTS = [0, 1, 255, 511]


def subject(guest: Guest, level: int) -> int:
    """A table with entries at the edges, over tables that have some, too; with a linear entry in the middle."""
    tables = [guest.l1(guest.take(1)) for _ in range(4)]
    for above in range(2, level + 1):
        linear = guest.table([])
        guest.pin(linear, above)
        named = [*tables[:2], None, tables[-1]]
        tables = [
            guest.table(
                {s: pte(linear, RO) if m is None else pte(m, RW) for s, m in zip(SLOTS, named, strict=True)}
            )
            for _ in range(3)
        ]
    return tables[0]


def one_portion(guest: Guest, vcpu: int, operation) -> bool:  # type: ignore[no-untyped-def]
    """True when done or refused."""
    s = Portion(guest.d.vcpus[vcpu], Budget(1))
    try:
        guest.mmu.types.finish_old_table(s)
        operation(s)
    except Restart:
        return False
    except XenError:
        return True
    finally:
        guest.machine.recount()
    return True


def to_the_end(guest: Guest, vcpu: int, operation) -> None:  # type: ignore[no-untyped-def]
    for step in (operation, lambda s: None):
        for _ in range(5000):
            if one_portion(guest, vcpu, step):
                break
        else:
            raise AssertionError("no end")


def pin(guest: Guest, mfn: int, level: int):  # type: ignore[no-untyped-def]
    return lambda s: guest.mmu.pins.pin(mfn, level, guest.d, s)


def unpin(guest: Guest, mfn: int):  # type: ignore[no-untyped-def]
    return lambda s: guest.mmu.pins.unpin(mfn, guest.d, s)


@pytest.mark.parametrize(("level", "up", "down"), list(product([2, 3, 4], range(0, 14, 3), range(0, 14, 4))))
def test_all_pairs_of_stops_on_the_way_up_and_down(level: int, up: int, down: int) -> None:
    with small_machine() as machine:
        guest = machine.domain(64, nr_vcpus=2)
        table = subject(guest, level)
        for _ in range(up):
            one_portion(guest, 0, pin(guest, table, level))
        to_the_end(guest, 1, pin(guest, table, level))
        to_the_end(guest, 0, lambda s: None)
        one_portion(guest, 0, unpin(guest, table))
        for _ in range(down):
            one_portion(guest, 0, lambda s: None)
        to_the_end(guest, 1, pin(guest, table, level))
        to_the_end(guest, 0, lambda s: None)
        to_the_end(guest, 1, unpin(guest, table))
        assert machine.mmu.frames.refs[table] == 1


@pytest.mark.parametrize(("level", "stop", "down"), list(product([2, 3, 4], range(1, 14, 2), [False, True])))
def test_killed_at_every_stop(level: int, stop: int, down: bool) -> None:
    with small_machine() as machine:
        guest = machine.domain(64, nr_vcpus=2)
        table = subject(guest, level)
        if down:
            to_the_end(guest, 0, pin(guest, table, level))
            one_portion(guest, 0, unpin(guest, table))
        for _ in range(stop):
            one_portion(guest, 0, (lambda s: None) if down else pin(guest, table, level))
        while not machine.mmu.relinquish(guest.d, Budget(1)):
            machine.recount()
        assert guest.d.tot_pages == 0


@pytest.mark.parametrize(("level", "stop"), list(product([3, 4], range(1, 10, 2))))
def test_the_table_above_a_parked_one_is_changed_meanwhile(level: int, stop: int) -> None:
    """The parked table is met again through an entry that another vCPU adds and takes away."""
    with small_machine() as machine:
        guest = machine.domain(64, nr_vcpus=2)
        below = subject(guest, level - 1)
        above = guest.table([])
        guest.pin(above, level)
        for _ in range(stop):
            one_portion(guest, 0, pin(guest, below, level - 1))
        for value in (pte(below, RW), 0):
            to_the_end(
                guest,
                1,
                lambda s, value=value: machine.mmu.updates.pt_update(
                    above << 12, value, guest.d, guest.d.domid, s, preserve_ad=False
                ),
            )
        to_the_end(guest, 0, pin(guest, below, level - 1))
        to_the_end(guest, 0, unpin(guest, below))
        assert machine.mmu.frames.refs[below] == 1


def stop_and_resume(machine: SmallMachine) -> None:
    guest = machine.domain(64, nr_vcpus=2)
    table = subject(guest, 4)
    for _ in range(3):
        one_portion(guest, 0, pin(guest, table, 4))
    to_the_end(guest, 1, pin(guest, table, 4))


def test_a_reference_taken_twice_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = validate.get_page_from_upper
    monkeypatch.setattr(
        validate,
        "get_page_from_upper",
        lambda *a, partial_set, retain: original(*a, partial_set=False, retain=retain),
    )
    machine = SmallMachine()
    with pytest.raises(AssertionError):
        stop_and_resume(machine)
    machine.close()


def test_a_parked_table_without_its_reference_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(self: PageTypes, mfn: int) -> None:
        self.frames.flags[mfn] |= 8

    monkeypatch.setattr(PageTypes, "_park", forgetful)
    machine = SmallMachine()
    with pytest.raises(AssertionError):
        stop_and_resume(machine)
    machine.close()
