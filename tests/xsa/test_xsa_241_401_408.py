"""XSA-241, XSA-401, XSA-408: a stale writable translation to a frame that is a page table by now.

The flaw. Before a frame that was mapped writable becomes a page table, no CPU may still have a writable translation to
it. The flush was missed when only the last general reference was looked at (241), came before the new type was
visible, so that a fresh writable mapping could slip in between (401), or was skipped because the decision looked at
the wrong type (408).

The probe. A CPU with a translation cache of its own goes on storing through what it has remembered until it is told
to flush; the frame is unmapped without a flush and pinned as L1, as a descriptor page, freed and given again and then
pinned. Once Xen has looked at the content no store may land any more. Negative control: without the flush the store
lands in a validated page table.
"""

from dataclasses import dataclass, field

import pytest

from hypervisor.machine.paging import pte
from hypervisor.mm.page_types import PageTypes
from hypervisor.public.errno import XenError
from tests.hypervisor.mm.small_machine import RW, Guest, SmallMachine, small_machine


@dataclass
class StoringCpu:
    """Stores to everything it has a writable translation of, each time it is told to flush, and then forgets it."""

    guest: Guest
    tlb: set[int] = field(default_factory=set)

    def load(self, l1: int, slot: int) -> int:
        mfn = int(self.guest.machine.memory.frames[l1, slot]) >> 12 & (1 << 40) - 1
        self.tlb.add(mfn)
        return mfn

    def store(self) -> None:
        for mfn in self.tlb:
            self.guest.write(mfn, 9, pte(mfn, RW))

    def flush(self) -> None:
        self.store()
        self.tlb.clear()


def remembered_and_unmapped(machine: SmallMachine) -> tuple[Guest, StoringCpu, int]:
    """A frame that no entry maps any more, with a writable translation left in a CPU."""
    guest = machine.domain(16)
    cpu = StoringCpu(guest)
    machine.mmu.types._flush = lambda d: cpu.flush()
    (frame,) = guest.take()
    l1 = guest.l1([frame])
    guest.pin(l1, 1)
    assert cpu.load(l1, 0) == frame
    guest.set_entry(l1, 0, 0)
    return guest, cpu, frame


def pin_as_l1(guest: Guest, frame: int) -> int:
    guest.pin(frame, 1)
    return frame


def use_as_gdt(guest: Guest, frame: int) -> int:
    guest.mmu.descriptors.set_gdt(guest.v, [frame], 512)
    return frame


def free_and_pin(guest: Guest, frame: int) -> int:
    guest.mmu.reservation.remove_page(guest.d, frame)
    again = next(m for m in iter(lambda: guest.mmu.allocator.alloc_page(guest.d), None) if m == frame)
    guest.pin(again, 1)
    return int(again)


@pytest.mark.parametrize("use", [pin_as_l1, use_as_gdt, free_and_pin])
def test_no_store_lands_after_the_content_was_checked(use) -> None:  # type: ignore[no-untyped-def]
    with small_machine() as machine:
        guest, cpu, frame = remembered_and_unmapped(machine)
        try:
            use(guest, frame)
        except XenError:
            assert guest.mmu.frames.tcount[frame] == 0, "the last store made it a bad table: refused"
        assert not cpu.tlb
        before = bytes(machine.memory.frames[frame])
        cpu.store()
        assert bytes(machine.memory.frames[frame]) == before


def test_the_new_type_is_visible_when_the_flush_happens() -> None:
    """XSA-401: at the flush nobody can get a writable mapping any more."""
    with small_machine() as machine:
        guest, _, frame = remembered_and_unmapped(machine)
        attempts: list[XenError] = []

        def attempt(_: object) -> None:
            with pytest.raises(XenError) as refused:
                machine.mmu.types.get_page_and_type(frame, guest.d.domid, 7)
            attempts.append(refused.value)

        machine.mmu.types._flush = attempt
        guest.pin(frame, 1)
        assert len(attempts) == 1


def test_without_the_flush_a_store_lands_in_a_page_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PageTypes, "flush", lambda self, d: None)
    machine = SmallMachine()
    guest, cpu, frame = remembered_and_unmapped(machine)
    guest.pin(frame, 1)
    cpu.store()
    with pytest.raises(AssertionError, match="P10"):
        machine.recount()
    machine.close()
