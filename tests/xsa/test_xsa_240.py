"""XSA-240: chains of linear page tables of any length.

The flaw. A table could be a linear entry's target and have linear entries itself, so a guest could chain
hundreds of tables of one level. Dropping the first one dropped the next, recursively, until the hypervisor's
stack was gone.

The probe. Chains and loops of 1 to 40 tables at each level, built by pinning and by updates, from either
end: what is longer than one step is refused. Tearing down what was permitted nests no deeper than four
levels and one step. Negative control: with counters that nobody looks at a chain of 40 is accepted, and its
tear-down nests as deep.
"""

from itertools import pairwise

import pytest

from hypervisor.machine.paging import pte
from hypervisor.mm import linear
from hypervisor.mm.frame_table import FrameTable
from hypervisor.mm.page_types import PageTypes
from hypervisor.public.errno import XenError
from tests.hypervisor.mm.small_machine import RO, Guest, SmallMachine, small_machine


def chain(guest: Guest, level: int, length: int, *, upwards: bool) -> int:
    """Let each of `length` pinned tables name the next one; how many could."""
    tables = guest.take(length)
    for table in tables:
        guest.pin(table, level)
    links = list(pairwise(tables))
    if upwards:
        links.reverse()
    return sum(guest.set_entry(table, 5, pte(named, RO)).done for table, named in links)


@pytest.mark.parametrize("level", [2, 3, 4])
@pytest.mark.parametrize("upwards", [False, True])
@pytest.mark.parametrize("length", [2, 3, 4, 40])
def test_no_chain_is_longer_than_one_step(level: int, upwards: bool, length: int) -> None:
    with small_machine() as machine:
        guest = machine.domain(length)
        assert chain(guest, level, length, upwards=upwards) == length // 2


@pytest.mark.parametrize("level", [2, 3, 4])
def test_a_chain_written_beforehand_is_refused_at_the_pin(level: int) -> None:
    with small_machine() as machine:
        guest = machine.domain(3)
        one, two, three = guest.take(3)
        guest.pin(three, level)
        guest.write(two, 0, pte(three, RO))
        guest.pin(two, level)
        guest.write(one, 0, pte(two, RO))
        with pytest.raises(XenError):
            guest.pin(one, level)


def deepest_tear_down(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Nested drops of a table while the domain dies."""
    deepest = depth = 0
    original = PageTypes._put_final

    def counted(self: PageTypes, *args: object) -> None:
        nonlocal deepest, depth
        depth += 1
        deepest = max(deepest, depth)
        try:
            original(self, *args)  # type: ignore[arg-type]
        finally:
            depth -= 1

    monkeypatch.setattr(PageTypes, "_put_final", counted)
    s = guest.portion()
    for mfn in [m for m in range(guest.mmu.frames.top) if m in guest.mmu.tables]:
        if guest.mmu.frames.flags[mfn] & 2:
            guest.mmu.pins.unpin(mfn, guest.d, s)
    return deepest


def test_tear_down_nests_four_levels_and_one_step_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    with small_machine() as machine:
        guest = machine.domain(32)
        for level in (4, 3, 2):
            chain(guest, level, 4, upwards=True)
        guest.pin(guest.tower([guest.l1(guest.take(1))])[0], 4)
        assert deepest_tear_down(guest, monkeypatch) <= 5


def test_without_the_counters_a_chain_of_any_length_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(frames: FrameTable, entry: int, parent: int) -> None:
        mfn = entry >> 12 & (1 << 40) - 1
        if mfn != parent:
            frames.get_page(mfn, frames.owner[parent])
            frames.tcount[mfn] += 1

    monkeypatch.setattr(linear, "get", get)
    monkeypatch.setattr(linear, "put", lambda *_: None)
    machine = SmallMachine()
    guest = machine.domain(40)
    machine.recount = lambda: None  # type: ignore[method-assign]
    assert chain(guest, 4, 40, upwards=False) == 39
    assert deepest_tear_down(guest, monkeypatch) > 10
    machine.close()
