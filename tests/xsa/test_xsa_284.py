"""XSA-284: a transferred page that had to be moved lost its reference.

The flaw. When the frame of a grant transfer had to be replaced by one that the recipient can address, the new frame
was given to it without the reference that ALLOCATED stands for: the first mapping that went away freed it in use.

The probe. A change of owner always copies here. The new frame has exactly one reference, can be mapped and unmapped,
given back once, and has the old one's content; the old one is free, empty, and nobody's. Negative control: with a
recipient's frame that lacks its reference the recount fails.
"""

import pytest

from hypervisor.machine.frame_types import PGC
from hypervisor.mm.allocator import Allocator
from hypervisor.public.errno import XenError
from tests.hypervisor.mm.small_machine import Guest, SmallMachine, small_machine


def transfer(giver: Guest, taker: Guest) -> tuple[int, int]:
    (old,) = giver.take()
    giver.write(old, 7, 4711)
    giver.mmu.allocator.steal_page(old, giver.d)
    return old, int(giver.mmu.allocator.assign_copy(old, giver.d, taker.d))


def test_the_new_frame_is_the_recipients_as_any_other() -> None:
    with small_machine() as machine:
        giver, taker = machine.domain(2), machine.domain(4)
        old, new = transfer(giver, taker)
        machine.recount()
        frames = machine.mmu.frames
        assert (frames.refs[new], frames.flags[new], frames.owner[new]) == (1, PGC.ALLOCATED, taker.d.domid)
        assert int(machine.memory.frames[new, 7]) == 4711
        assert (frames.refs[old], frames.owner[old]) == (0, -1)
        assert (giver.d.tot_pages, taker.d.tot_pages) == (1, 5)
        l1 = taker.l1([new])
        taker.pin(l1, 1)
        taker.unpin(l1)
        machine.mmu.reservation.remove_page(taker.d, new)
        with pytest.raises(XenError):
            machine.mmu.reservation.remove_page(taker.d, new)
        again = [giver.mmu.allocator.alloc_page(giver.d) for _ in range(1000)]
        assert old in again
        assert not machine.memory.frames[old].any()


def test_a_recipient_without_room_gets_nothing_and_nothing_is_lost() -> None:
    with small_machine() as machine:
        giver, taker = machine.domain(2), machine.domain(4)
        taker.d.max_pages = taker.d.tot_pages
        (old,) = giver.take()
        giver.mmu.allocator.steal_page(old, giver.d)
        with pytest.raises(XenError):
            giver.mmu.allocator.assign_copy(old, giver.d, taker.d)
        giver.mmu.allocator.unsteal_page(old, giver.d)
        machine.recount()


def test_a_frame_without_its_reference_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Allocator.assign

    def forgetful(self: Allocator, d, first: int, order: int) -> None:  # type: ignore[no-untyped-def]
        original(self, d, first, order)
        self.frames.refs[first] = 0

    machine = SmallMachine()
    giver, taker = machine.domain(2), machine.domain(4)
    monkeypatch.setattr(Allocator, "assign", forgetful)
    transfer(giver, taker)
    with pytest.raises(AssertionError):
        machine.recount()
    machine.close()
