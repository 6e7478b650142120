"""Page tables of 32-bit PV guests: three levels, Xen's slots in the last L2, and no way to a writable page table.

Negative control: without `validate._check_unshared` test_an_l3_needs_its_last_entry_and_shares_it_with_none fails; others are in
test_recount_notices.py.
"""

from collections.abc import Iterator

import pytest

from hypervisor.machine.frame_types import PAE_XEN_L2, PGT
from hypervisor.machine.paging import PAGE_GLOBAL, PAGE_NX, PAGE_PRESENT, PAGE_PSE, PAGE_RW, PAGE_USER, pte
from hypervisor.mm.budget import Budget
from hypervisor.mm.layout import COMPAT_M2P_MFN
from hypervisor.public.errno import Errno, XenError
from tests.hypervisor.mm.small_machine import RO, RW, Guest, SmallMachine, small_machine

P = PAGE_PRESENT
HOLE = 0xF580_0000


@pytest.fixture
def machine() -> Iterator[SmallMachine]:
    with small_machine() as machine:
        yield machine


@pytest.fixture
def guest(machine: SmallMachine) -> Guest:
    return machine.domain(40, address_size=32)


def refused(guest: Guest, mfn: int, level: int) -> bool:
    try:
        guest.pin(mfn, level)
    except XenError as error:
        return error.errno is Errno.EINVAL
    return False


def live(guest: Guest, table: int, slot: int) -> int:
    return int(guest.machine.memory.frames[table, slot])


def test_a_tower_of_three_levels_is_walked_and_run_on(guest: Guest) -> None:
    data = guest.take(2)
    l3, l2s = guest.pae_tower([guest.l1(data, RW)])
    guest.run_on(l3)
    walk = guest.mmu.walker.walk(guest.v, 0x1234, write=True)
    assert (walk.maddr, guest.v.cr3) == (data[1] << 12 | 0x234, l3)
    assert ("load_cr3", guest.v.compat_l4) in guest.cpu.told
    assert live(guest, guest.v.compat_l4 or 0, 0) >> 12 == l3
    assert [guest.mmu.frames.type[l2] for l2 in l2s] == [2, 2, 2, PAE_XEN_L2]
    assert [live(guest, l3, i) & (RW | P) for i in range(4)] == [RW | P] * 4


def test_the_guest_kernels_pages_stay_without_the_user_bit(guest: Guest) -> None:
    kernel, user = guest.take(2)
    l1 = guest.table([pte(kernel, P | PAGE_RW | PAGE_GLOBAL), pte(user, RW)])
    l3, _ = guest.pae_tower([l1])
    guest.pin(l3, 3)
    assert live(guest, l1, 0) == pte(kernel, P | PAGE_RW | PAGE_GLOBAL)
    assert live(guest, l1, 1) == pte(user, RW)
    (other,) = guest.take()
    assert guest.set_entry(l1, 2, pte(other, P)).done == 1
    assert live(guest, l1, 2) == pte(other, P)


def test_xens_slots_of_the_last_l2(guest: Guest) -> None:
    """They show the M2P, whatever the guest wrote there, and nobody can change them."""
    (theirs,) = guest.take()
    l3, l2s = guest.pae_tower([])
    guest.write(l2s[3], 428, pte(theirs, RW))
    guest.write(l2s[3], 511, pte(theirs, RW | PAGE_PSE))
    guest.run_on(l3)
    assert live(guest, l2s[3], 428) >> 12 & 0xFF_FFFF == COMPAT_M2P_MFN
    assert not live(guest, l2s[3], 428) & (PAGE_RW | PAGE_USER)
    assert live(guest, l2s[3], 511) == 0
    for slot in (428, 470, 511):
        assert guest.set_entry(l2s[3], slot, 0).error is not None
    assert guest.set_entry(l2s[3], 427, pte(guest.l1([]), RW)).done == 1
    with pytest.raises(XenError):
        guest.mmu.walker.walk(guest.v, HOLE)
    assert (
        guest.mmu.m2p.get(l3) & 0xFFFF_FFFF
        == guest.mmu.contents.octets.cast("I")[(COMPAT_M2P_MFN << 10) + l3]
    )


def test_an_l3_shows_four_entries_and_no_more(guest: Guest) -> None:
    """In long mode the CPU would see all 512."""
    l3, l2s = guest.pae_tower([])
    guest.write(l3, 4, pte(l2s[0], P))
    guest.write(l3, 511, pte(l3, RW))
    guest.pin(l3, 3)
    assert (live(guest, l3, 4), live(guest, l3, 511)) == (0, 0)
    for slot in (3, 4, 511):
        assert guest.set_entry(l3, slot, 0).error is not None, slot
        assert guest.set_entry(l3, slot, pte(l2s[0], P)).error is not None, slot
    assert guest.set_entry(l3, 1, 0).done == 1


def test_an_l3_needs_its_last_entry_and_shares_it_with_none(guest: Guest) -> None:
    l3, l2s = guest.pae_tower([])
    bare = guest.table([pte(l2s[0], P)])
    assert refused(guest, bare, 3)
    guest.pin(l3, 3)
    sharing = guest.table({0: pte(l2s[0], P), 3: pte(l2s[3], P)})
    assert refused(guest, sharing, 3)
    elsewhere = guest.table({1: pte(l2s[3], P), 3: pte(guest.table([]), P)})
    assert refused(guest, elsewhere, 3)
    twice = guest.table([])
    assert refused(guest, guest.table({1: pte(twice, P), 3: pte(twice, P)}), 3)
    assert guest.set_entry(l3, 1, pte(l2s[3], P)).error is not None
    plain = guest.table([])
    guest.pin(plain, 2)
    assert refused(guest, guest.table({3: pte(plain, P)}), 3)
    assert refused(guest, l2s[3], 2)


@pytest.mark.parametrize("bit", [1 << 3, 1 << 4, PAGE_PSE, PAGE_GLOBAL, PAGE_NX, 1 << 52, 1 << 62])
def test_an_l3_entry_has_no_rights(guest: Guest, bit: int) -> None:
    l3, l2s = guest.pae_tower([])
    for slot in (0, 3):
        guest.write(l3, slot, pte(l2s[slot], P) | bit)
        assert refused(guest, l3, 3)
        guest.write(l3, slot, pte(l2s[slot], P))
    guest.pin(l3, 3)
    assert guest.set_entry(l3, 0, pte(l2s[0], P) | bit).error is not None


def test_no_table_of_a_32_bit_guest_is_mapped_writable(guest: Guest) -> None:
    """By an entry of any of its L1s, in any order: F4 as for a 64-bit one."""
    (data,) = guest.take()
    l1 = guest.l1([data])
    l3, l2s = guest.pae_tower([l1])
    guest.run_on(l3)
    for table in (l1, l3, *l2s, guest.v.compat_l4 or 0):
        assert guest.set_entry(l1, 5, pte(table, RW)).error is not None, table
    assert guest.set_entry(l1, 5, pte(l2s[3], RO)).done == 1
    mapped = guest.l1([data], RW)
    assert refused(guest, guest.table([pte(data, RW)]), 2), "a frame that is mapped writable became an L1"
    assert guest.set_entry(l2s[0], 1, pte(mapped, RW)).done == 1
    assert guest.set_entry(l1, 6, pte(mapped, RW)).error is not None


def test_an_l3_is_no_linear_table_and_an_l2_may_be(guest: Guest) -> None:
    l3, l2s = guest.pae_tower([])
    guest.pin(l3, 3)
    assert guest.set_entry(l3, 1, pte(l3, P)).error is not None
    assert guest.set_entry(l2s[0], 9, pte(l2s[1], RO)).done == 1
    assert guest.set_entry(l2s[0], 10, pte(l2s[1], RW)).error is not None
    assert guest.set_entry(l2s[0], 11, pte(l2s[3], RO)).error is not None


def test_there_is_no_l4_and_no_second_base_pointer(guest: Guest) -> None:
    l3, _ = guest.pae_tower([])
    guest.run_on(l3)
    with pytest.raises(XenError):
        guest.until_done(lambda s: guest.mmu.bases.new_user_baseptr(guest.v, l3, s))
    with pytest.raises(XenError):
        guest.until_done(lambda s: guest.mmu.bases.new_baseptr(guest.v, guest.table([pte(l3, RW)]), s))


def test_addresses_beyond_32_bits_lead_nowhere(guest: Guest) -> None:
    l3, _ = guest.pae_tower([guest.l1(guest.take(1))])
    guest.run_on(l3)
    assert guest.mmu.walker.to_l1(guest.v, 0x1000) is not None
    for va in (1 << 32, 1 << 38, HOLE, 0xFFFF_FFFF, 0xFFFF_8000_0000_0000):
        assert guest.mmu.walker.to_l1(guest.v, va) is None, hex(va)


def test_the_upper_half_of_an_entry_may_be_stored_first(guest: Guest) -> None:
    """P12: a store of the upper half alone makes the entry not present until the lower half comes."""
    data = guest.take(2)
    l1 = guest.l1([data[0]])
    guest.write(l1, 1, pte(l1, RO))
    l3, _ = guest.pae_tower([l1])
    guest.run_on(l3)
    assert guest.mmu.va_mapping.ptwr_emulated_update(guest.v, 0x1004, 4, PAGE_NX >> 32)
    assert live(guest, l1, 0) & (P | PAGE_NX) == PAGE_NX
    assert guest.mmu.va_mapping.ptwr_emulated_update(guest.v, 0x1000, 4, pte(data[1], RW) & 0xFFFF_FFFF)
    assert live(guest, l1, 0) == pte(data[1], RW) | PAGE_NX


@pytest.mark.parametrize("budget", [1, 40, 1 << 20])
def test_death_in_portions_leaves_nothing(machine: SmallMachine, budget: int) -> None:
    guest = machine.domain(40, address_size=32)
    l3, _ = guest.pae_tower([guest.l1(guest.take(3)), guest.l1(guest.take(2))])
    guest.run_on(l3)
    guest.pin(l3, 3)
    while not guest.mmu.relinquish(guest.d, Budget(budget)):
        machine.recount()
    assert guest.mmu.release_extents(guest.d)


def test_it_is_written_down_and_read_back(guest: Guest, machine: SmallMachine) -> None:
    l3, _ = guest.pae_tower([guest.l1(guest.take(1))])
    guest.run_on(l3)
    machine.write_down_and_read_back()
    guest.d = machine.domains[guest.d.domid]
    assert guest.d.rules.address_size == 32
    assert guest.mmu.walker.to_l1(guest.v, 0) is not None
    assert PGT(guest.mmu.frames.type[l3]) is PGT.l3_page_table
