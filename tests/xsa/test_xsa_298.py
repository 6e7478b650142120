"""XSA-298: the LDT's limit was forgotten when a selector was emulated.

The flaw. Emulating an instruction loaded a descriptor from the LDT without looking at its limit. A selector beyond
it promoted whatever lay behind the LDT to a descriptor page, through a stale slot of the shadow mapping.

The probe. For LDTs of many lengths every page index, and offsets around the limit, are touched: nothing at or beyond
the limit is ever taken, and what a smaller or moved LDT leaves behind is given back. Negative control: without the
limit a page beyond it is promoted.
"""

import pytest

from hypervisor.machine.frame_types import PGT
from hypervisor.mm.descriptors import Descriptors
from hypervisor.mm.domain_memory import VcpuMemory
from tests.hypervisor.mm.small_machine import RO, Guest, SmallMachine, small_machine

PAGES = 16


def guest_with_pages(machine: SmallMachine) -> tuple[Guest, list[int]]:
    """A guest running with 16 frames mapped read-only from address 0 on, and these."""
    guest = machine.domain(32)
    frames = guest.take(PAGES)
    guest.run_on(guest.tower([guest.l1(frames, RO)])[0])
    return guest, [int(m) for m in frames]


@pytest.mark.parametrize("entries", [0, 1, 2, 511, 512, 513, 1024, 4097, 8191, 8192])
def test_no_index_at_or_beyond_the_limit_promotes_anything(entries: int) -> None:
    with small_machine() as machine:
        guest, frames = guest_with_pages(machine)
        guest.mmu.descriptors.set_ldt(guest.v, 0, entries)
        edges = {
            8 * entries - 1,
            8 * entries,
            8 * entries + 1,
            *range(0, 0x11000, 0x800),
            1 << 20,
            1 << 40,
            -8,
        }
        for offset in sorted(edges):
            guest.mmu.descriptors.map_ldt_page(guest.v, offset)
            machine.recount()
        limit = -(-entries * 8 // 4096)
        typed = [machine.mmu.frames.type[m] == PGT.seg_desc_page for m in frames]
        assert typed == [True] * limit + [False] * (PAGES - limit)


def test_a_smaller_ldt_gives_back_what_it_does_not_reach() -> None:
    with small_machine() as machine:
        guest, frames = guest_with_pages(machine)
        guest.mmu.descriptors.set_ldt(guest.v, 0, 8192)
        for page in range(PAGES):
            assert guest.mmu.descriptors.map_ldt_page(guest.v, page << 12)
        guest.mmu.descriptors.set_ldt(guest.v, 0x1000, 10)
        machine.recount()
        assert not machine.mmu.frames.tcount_np[frames].any()
        window = guest.d.window
        assert window is not None
        assert not machine.memory.frames[window.l1s[0], 16:32].any()


def test_without_the_limit_a_page_beyond_it_is_promoted(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Descriptors.map_ldt_page

    def unlimited(self: Descriptors, v: VcpuMemory, offset: int) -> bool:
        entries, v.ldt_entries = v.ldt_entries, 8192
        try:
            return original(self, v, offset)
        finally:
            v.ldt_entries = entries

    monkeypatch.setattr(Descriptors, "map_ldt_page", unlimited)
    machine = SmallMachine()
    guest, frames = guest_with_pages(machine)
    guest.mmu.descriptors.set_ldt(guest.v, 0, 1)
    assert guest.mmu.descriptors.map_ldt_page(guest.v, 0x5000)
    assert machine.mmu.frames.type[frames[5]] == PGT.seg_desc_page
    machine.close()
