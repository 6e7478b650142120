"""XSA-214: a descriptor page keeps its type when it changes its owner.

The flaw. A frame that had been checked as a descriptor page kept that type after its last use. When it was
exchanged or transferred the type word stayed, so the new owner, who had written whatever it liked into the
frame, could load it as a GDT without its content being checked: call gates into the hypervisor.

The probe. A frame is made a descriptor page and dropped; then it is stolen, or freed and given again, its
next owner writes a forbidden descriptor, and loads it. It must be checked again and refused. Negative
control: with a type word that survives the theft the forbidden descriptor is loaded.
"""

import pytest

from hypervisor.machine.frame_types import PGC, PGT
from hypervisor.mm.allocator import Allocator
from hypervisor.mm.domain_memory import DomainMemory
from hypervisor.public.errno import XenError
from hypervisor.public.types import Mfn
from tests.hypervisor.mm.small_machine import Guest, SmallMachine, small_machine

TSS = 0x0000_8900_0000_0000


def was_a_descriptor_page(guest: Guest) -> int:
    (frame,) = guest.take()
    guest.mmu.descriptors.set_gdt(guest.v, [frame], 512)
    guest.mmu.descriptors.set_gdt(guest.v, [], 0)
    frames = guest.mmu.frames
    assert (frames.type[frame], frames.tcount[frame]) == (PGT.seg_desc_page, 0)
    return frame


def stolen_and_back(guest: Guest, frame: int) -> int:
    guest.mmu.allocator.steal_page(frame, guest.d)
    guest.mmu.allocator.unsteal_page(frame, guest.d)
    return frame


def exchanged(guest: Guest, frame: int) -> int:
    (new,) = guest.mmu.reservation.exchange_chunk(guest.d, [frame], [0], 0)
    return int(new)


def freed_and_given_again(guest: Guest, frame: int) -> int:
    guest.mmu.reservation.remove_page(guest.d, frame)
    return next(m for m in iter(lambda: guest.mmu.allocator.alloc_page(guest.d), None) if m == frame)


@pytest.mark.parametrize("way", [stolen_and_back, exchanged, freed_and_given_again])
def test_a_frame_is_checked_again_after_it_changed_hands(way) -> None:  # type: ignore[no-untyped-def]
    with small_machine() as machine:
        guest = machine.domain(4)
        frame = way(guest, was_a_descriptor_page(guest))
        guest.write(frame, 3, TSS)
        with pytest.raises(XenError):
            guest.mmu.descriptors.set_gdt(guest.v, [frame], 512)


def test_a_transferred_frame_is_a_fresh_one() -> None:
    with small_machine() as machine:
        giver, taker = machine.domain(4), machine.domain(4)
        frame = Mfn(was_a_descriptor_page(giver))
        giver.mmu.allocator.steal_page(frame, giver.d)
        new = giver.mmu.allocator.assign_copy(frame, giver.d, taker.d)
        assert machine.mmu.frames.type[new] == PGT.none
        taker.write(new, 3, TSS)
        with pytest.raises(XenError):
            taker.mmu.descriptors.set_gdt(taker.v, [new], 512)


def test_with_a_type_word_that_survives_the_attack_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    def keep_type(self: Allocator, mfn: int) -> None:
        self.frames.refs[mfn] = 0
        self.frames.flags[mfn] &= int(PGC.VALIDATED)

    monkeypatch.setattr(Allocator, "_reset", keep_type)
    monkeypatch.setattr(
        Allocator,
        "unsteal_page",
        _give,
    )
    machine = SmallMachine()
    guest = machine.domain(4)
    frame = stolen_and_back(guest, was_a_descriptor_page(guest))
    guest.write(frame, 3, TSS)
    guest.mmu.descriptors.set_gdt(guest.v, [frame], 512)
    assert int(machine.memory.frames[frame, 3]) == TSS
    machine.close()


def _give(allocator: Allocator, mfn: Mfn, d: DomainMemory) -> None:
    d.tot_pages += 1
    allocator.frames.owner[mfn] = d.domid
    allocator.frames.refs[mfn] = 1
    allocator.frames.flags[mfn] |= int(PGC.ALLOCATED)
