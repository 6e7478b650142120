"""L1 entries of grant maps: where they may be written, and what an unmap demands (G8-G10)."""

from collections.abc import Iterator

import pytest

from hypervisor.machine.entries import PAGE_GNTTAB, PAGE_GUEST_KERNEL
from hypervisor.machine.paging import PAGE_GLOBAL, PAGE_RW, pte
from hypervisor.public.errno import XenError
from hypervisor.public.grant_table import (
    GNTMAP_application_map,
    GNTMAP_contains_pte,
    GNTMAP_host_map,
    GNTMAP_readonly,
)
from tests.hypervisor.mm.small_machine import RO, RW, Guest, SmallMachine, small_machine

MAP = int(GNTMAP_host_map)
BY_PTE = MAP | int(GNTMAP_contains_pte)
READONLY = int(GNTMAP_readonly)


@pytest.fixture
def machine() -> Iterator[SmallMachine]:
    with small_machine() as machine:
        yield machine


@pytest.fixture
def granter(machine: SmallMachine) -> Guest:
    return machine.domain(8)


@pytest.fixture
def mapper(machine: SmallMachine) -> Guest:
    """Runs with an L1 for the first 2 MiB, its first entry in use."""
    guest = machine.domain(32)
    guest.run_on(guest.tower([guest.l1(guest.take(1))])[0])
    return guest


def l1_of(guest: Guest) -> int:
    walked = guest.mmu.walker.to_l1(guest.v, 0)
    assert walked is not None
    return int(walked.l1)


@pytest.mark.parametrize("flags", [MAP, MAP | READONLY, BY_PTE, BY_PTE | READONLY])
def test_an_entry_holds_references_of_its_own_until_it_is_destroyed(
    granter: Guest, mapper: Guest, flags: int
) -> None:
    frame = granter.pages[0]
    addr = 0x5000 if not flags & int(GNTMAP_contains_pte) else l1_of(mapper) << 12 | 5 << 3
    mmu = mapper.mmu
    mmu.grant_entries.create(mapper.v, addr, frame, flags)
    mapper.machine.recount()
    assert mmu.frames.refs[frame] == 2
    assert mmu.frames.tcount[frame] == int(not flags & READONLY)
    assert mmu.walker.walk(mapper.v, 0x5000).mfn == frame
    mmu.grant_entries.destroy(mapper.v, addr, frame, flags)
    mapper.machine.recount()
    assert mmu.frames.refs[frame] == 1


def test_an_entry_is_the_kernels_unless_it_is_for_an_application(granter: Guest, mapper: Guest) -> None:
    frame, memory = granter.pages[0], mapper.machine.memory
    mapper.mmu.grant_entries.create(mapper.v, 0x5000, frame, MAP)
    entry = int(memory.frames[l1_of(mapper), 5])
    assert entry & (PAGE_GUEST_KERNEL | PAGE_GLOBAL | PAGE_GNTTAB) == PAGE_GUEST_KERNEL | PAGE_GNTTAB
    mapper.mmu.grant_entries.create(mapper.v, 0x6000, frame, MAP | int(GNTMAP_application_map) | 3 << 16)
    entry = int(memory.frames[l1_of(mapper), 6])
    assert entry & (PAGE_GUEST_KERNEL | PAGE_GLOBAL) == PAGE_GLOBAL
    assert entry >> 9 & 7 == 3


@pytest.mark.parametrize("low", range(1, 8))
def test_an_unaligned_entry_is_refused(granter: Guest, mapper: Guest, low: int) -> None:
    """G9, XSA-227."""
    with pytest.raises(XenError):
        mapper.mmu.grant_entries.create(mapper.v, l1_of(mapper) << 12 | 40 | low, granter.pages[0], BY_PTE)


def test_only_the_mappers_own_validated_l1_is_written(granter: Guest, mapper: Guest) -> None:
    """G9."""
    plain = mapper.pages[0]
    theirs = granter.l1([])
    granter.pin(theirs, 1)
    upper = mapper.v.cr3
    for mfn in (plain, theirs, upper, 0, 1, 1 << 30):
        with pytest.raises(XenError):
            mapper.mmu.grant_entries.create(mapper.v, mfn << 12, granter.pages[0], BY_PTE)  # type: ignore[operator]
    for va in (1 << 21, 1 << 39, 1 << 47, 0xFFFF_8000_0000_0000):
        with pytest.raises(XenError):
            mapper.mmu.grant_entries.create(mapper.v, va, granter.pages[0], MAP)
    mapper.machine.recount()


def test_what_was_there_before_is_given_back(granter: Guest, mapper: Guest) -> None:
    old = mapper.mmu.walker.walk(mapper.v, 0).mfn
    mapper.mmu.grant_entries.create(mapper.v, 0, granter.pages[0], MAP)
    assert (mapper.mmu.frames.refs[old], mapper.mmu.frames.tcount[old]) == (1, 0)


@pytest.mark.parametrize("change", ["gone", "other frame", "read-only"])
def test_an_unmap_needs_the_entry_as_it_was_mapped(granter: Guest, mapper: Guest, change: str) -> None:
    """G8, XSA-234; G10: what overwrote it has dropped the entry's references, once."""
    frame, l1 = granter.pages[0], l1_of(mapper)
    mapper.mmu.grant_entries.create(mapper.v, 0x5000, frame, MAP)
    value = {
        "gone": 0,
        "other frame": pte(mapper.pages[0], RW),
        "read-only": int(mapper.machine.memory.frames[l1, 5]) & ~PAGE_RW & ~PAGE_GNTTAB,
    }[change]
    if change == "read-only":
        assert mapper.set_entry(l1, 5, value).error is not None, "it is another domain's frame"
        with pytest.raises(XenError):
            mapper.mmu.grant_entries.destroy(mapper.v, 0x5000, frame, MAP | READONLY)
        return
    assert mapper.set_entry(l1, 5, value).done == 1
    assert mapper.mmu.frames.refs[frame] == 1
    with pytest.raises(XenError):
        mapper.mmu.grant_entries.destroy(mapper.v, 0x5000, frame, MAP)
    mapper.machine.recount()


def test_replace_moves_an_entry_to_where_the_grant_was(granter: Guest, mapper: Guest) -> None:
    frame, own = granter.pages[0], mapper.mmu.walker.walk(mapper.v, 0).mfn
    mapper.mmu.grant_entries.create(mapper.v, 0x5000, frame, MAP)
    mapper.mmu.grant_entries.replace(mapper.v, 0x5000, frame, 0, MAP)
    mapper.machine.recount()
    assert mapper.mmu.walker.walk(mapper.v, 0x5000).mfn == own
    with pytest.raises(XenError):
        mapper.mmu.walker.walk(mapper.v, 0)
    assert mapper.mmu.frames.refs[frame] == 1


def test_a_failed_replace_drops_what_it_took_as_xen_does(granter: Guest, mapper: Guest) -> None:
    own = mapper.mmu.walker.walk(mapper.v, 0).mfn
    with pytest.raises(XenError):
        mapper.mmu.grant_entries.replace(mapper.v, 0x5000, granter.pages[0], 0, MAP)
    mapper.machine.recount()
    assert mapper.mmu.frames.refs[own] == 1


def test_a_mapper_that_dies_lets_go(granter: Guest, mapper: Guest) -> None:
    """G18, the entry's part of it."""
    from hypervisor.mm.budget import Budget

    mapper.mmu.grant_entries.create(mapper.v, 0x5000, granter.pages[0], MAP)
    while not mapper.mmu.relinquish(mapper.d, Budget(3)):
        mapper.machine.recount()
    assert mapper.mmu.frames.refs[granter.pages[0]] == 1
    assert mapper.mmu.frames.tcount[granter.pages[0]] == 0


def test_an_entry_needs_a_frame_that_may_be_written(granter: Guest, mapper: Guest) -> None:
    table = granter.l1([])
    granter.pin(table, 1)
    with pytest.raises(XenError):
        mapper.mmu.grant_entries.create(mapper.v, 0x5000, table, MAP)
    mapper.mmu.grant_entries.create(mapper.v, 0x5000, table, MAP | READONLY)
    mapper.machine.recount()
    assert RO
