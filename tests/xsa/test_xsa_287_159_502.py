"""XSA-287, XSA-159, XSA-502: exchange and death meet half-way.

The flaw. A stolen page was for a moment referenced and nobody's (287); a domain that died in the middle of an exchange
kept a count of pages it did not have any more, and was never freed (159, 502).

The probe. Every step that an exchange or a transfer takes can fail, and the domain can die between any two portions: each
time the counts hold at the return, and the dead domain ends with no page. Negative control: an exchange that does not
give its frames back when it fails is noticed.
"""

import pytest

from hypervisor.mm.allocator import Allocator
from hypervisor.mm.budget import Budget
from hypervisor.public.errno import Errno, XenError
from tests.hypervisor.mm.small_machine import Guest, SmallMachine, small_machine

STEPS = ["steal_page", "take"]


def fail_at(monkeypatch: pytest.MonkeyPatch, name: str, nth: int) -> None:
    """The nth call of that method of the allocator fails."""
    original = getattr(Allocator, name)
    calls = 0

    def failing(self: Allocator, *args: object) -> object:
        nonlocal calls
        calls += 1
        if calls == nth:
            raise XenError(Errno.ENOMEM, "injected")
        return original(self, *args)

    monkeypatch.setattr(Allocator, name, failing)


def exchange(guest: Guest) -> None:
    guest.mmu.reservation.exchange_chunk(guest.d, list(guest.pages[:4]), [1, 2], 1)


def end(guest: Guest) -> None:
    guest.d.dying = True
    while not guest.mmu.relinquish(guest.d, Budget(1)):
        guest.machine.recount()
    assert guest.d.tot_pages == 0
    assert guest.mmu.release_extents(guest.d)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("nth", [1, 2, 3, 4])
def test_a_step_that_fails_restores_precisely(monkeypatch: pytest.MonkeyPatch, step: str, nth: int) -> None:
    with small_machine() as machine:
        guest = machine.domain(8)
        if step == "take" and nth > 2:
            nth -= 2
        fail_at(monkeypatch, step, nth)
        with pytest.raises(XenError):
            exchange(guest)
        machine.recount()
        assert machine.mmu.reservation.in_transit() == 0
        assert [machine.mmu.frames.owner[m] for m in guest.pages] == [guest.d.domid] * 8
        monkeypatch.undo()
        end(guest)


def test_a_domain_that_dies_between_two_chunks_ends_with_nothing() -> None:
    with small_machine() as machine:
        guest = machine.domain(8)
        exchange(guest)
        end(guest)


def test_a_dying_domain_gets_no_new_page() -> None:
    """K1."""
    with small_machine() as machine:
        guest = machine.domain(2)
        guest.d.dying = True
        with pytest.raises(XenError):
            machine.mmu.reservation.increase(guest.d, 0)
        guest.d.dying = False


def test_frames_that_are_not_given_back_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = SmallMachine()
    guest = machine.domain(8)
    fail_at(monkeypatch, "take", 2)
    monkeypatch.setattr(Allocator, "unsteal_page", lambda self, mfn, d: None)
    with pytest.raises(XenError):
        exchange(guest)
    with pytest.raises(AssertionError):
        machine.recount()
    machine.close()
