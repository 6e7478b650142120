"""XSA-227 and XSA-234: where a grant's page-table entry lies, and what is in it when it goes.

The flaws. XSA-227: with GNTMAP_contains_pte a guest named the machine address of an entry, whose low bits
nobody looked at: an entry could be written across two. XSA-234: unmap compared only the frame number of the
entry at the address, so a read-only mapping could be put in the place of a writable one and the wrong
references were dropped.

The probe. All eight low-bit values of a PTE address. Then a mapped entry is changed by every route there is
that is not the grant table's: to another frame, to the same frame read-only or writable, to nothing, by
virtual address and by mmu_update. Unmapping must fail whenever frame, P or RW differ, the pin must stay, and
every count must be right.
"""

from collections.abc import Callable

import pytest

from hypervisor.mm.domain_memory import VcpuMemory
from hypervisor.mm.grant_entries import GrantEntries
from hypervisor.public.errno import Errno
from hypervisor.public.grant_table import GNTST_general_error, GNTST_okay
from hypervisor.public.types import PAGE_SHIFT, GrantRef, Mfn, VAddr
from hypervisor.public.xen import DOMID_SELF, Hypercall
from tests.hypervisor.grants.granting import HOST, PTE_FLAGS, READONLY, GrantingDomains, granting_domains

CONTAINS_PTE = 16
RW = 2


def misaligned(house: GrantingDomains) -> None:
    page = house.dom1.page(0)
    house.dom1.offer(8, 0, page.mfn)
    before = house.refs(page.mfn)
    pte = house.dom0.pte_address(house.dom0.page(0).va)
    for low in range(8):
        op = house.dom0.map(house.dom1, 8, pte + low, HOST | CONTAINS_PTE)
        assert op.status == (GNTST_general_error if low else GNTST_okay)
        if not low:
            assert house.dom0.unmap(op.handle, pte) == GNTST_okay
    house.recount()
    assert house.refs(page.mfn) == before


def changed(house: GrantingDomains) -> None:
    """A domain maps its own grant, so that it may also map the frame by itself: every change is a legal one."""
    guest = house.dom1
    granted, other = guest.page(0), guest.page(1)
    guest.offer(8, 1, granted.mfn)
    routes = [by_va_mapping, by_mmu_update]
    entries = [0, granted.mfn << PAGE_SHIFT | PTE_FLAGS, granted.mfn << PAGE_SHIFT | PTE_FLAGS & ~RW]
    entries.append(other.mfn << PAGE_SHIFT | PTE_FLAGS)
    for route in routes:
        for entry in entries:
            for readonly in (0, READONLY):
                attempt(house, route, entry, readonly, granted.mfn)


def attempt(
    house: GrantingDomains,
    route: Callable[[GrantingDomains, int, int], int],
    entry: int,
    readonly: int,
    mfn: Mfn,
) -> None:
    guest, va = house.dom1, house.dom1.page(9).va
    before = house.refs(mfn)
    op = guest.map(guest, 8, va, HOST | readonly)
    held = house.refs(mfn)
    assert op.status == GNTST_okay
    assert route(house, va, entry) == 0
    as_granted = entry >> PAGE_SHIFT == mfn and bool(entry & RW) == (not readonly)
    status = guest.unmap(op.handle, va)
    house.recount()
    assert status == (GNTST_okay if as_granted else GNTST_general_error), (
        f"entry {entry:#x}, readonly {readonly}"
    )
    if status != GNTST_okay:
        assert guest.grants.active[GrantRef(8)].mfn == mfn, "the pin is gone"
        route(house, va, 0)
        guest.grants.mmu.grant_entries.create(guest.built.vcpu.mem, va, mfn, HOST | readonly)
        assert house.refs(mfn) == held
        assert guest.unmap(op.handle, va) == GNTST_okay
    guest.update_va_mapping(va, guest.page(9).mfn << PAGE_SHIFT | PTE_FLAGS)
    assert house.refs(mfn) == before


def by_va_mapping(house: GrantingDomains, va: int, entry: int) -> int:
    return int(house.dom1.update_va_mapping(va, entry))


def by_mmu_update(house: GrantingDomains, va: int, entry: int) -> int:
    guest = house.dom1
    walk = house.machine.hv.mmu.walker.to_l1(guest.built.vcpu.mem, va)
    assert walk is not None
    address = (walk.l1 << PAGE_SHIFT) + (va >> PAGE_SHIFT & 511) * 8
    request = address.to_bytes(8, "little") + entry.to_bytes(8, "little")
    guest.poke(guest.page(401).va, request)
    return int(guest.hypercall(Hypercall.mmu_update, guest.page(401).va, 1, 0, DOMID_SELF))


def test_a_pte_address_has_no_low_bits() -> None:
    with granting_domains() as house:
        misaligned(house)


def test_unmap_is_refused_once_the_entry_is_another() -> None:
    with granting_domains() as house:
        changed(house)


def test_an_l1_entry_of_somebody_else_is_not_mapped_into() -> None:
    with granting_domains() as house:
        page = house.dom1.page(0)
        house.dom1.offer(8, 0, page.mfn)
        foreign = house.dom1.pte_address(page.va)
        assert house.dom0.map(house.dom1, 8, foreign, HOST | CONTAINS_PTE).status == GNTST_general_error
        assert house.dom1.update_va_mapping(0xFFFF_8000_0000_0000, 0) == -Errno.EINVAL


# --- negative controls ------------------------------------------------------------------------------------


def test_negative_control_a_misaligned_address_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    find = GrantEntries._find
    monkeypatch.setattr(GrantEntries, "_find", lambda self, v, addr, flags: find(self, v, addr & ~7, flags))
    with pytest.raises(AssertionError), granting_domains() as house:
        misaligned(house)


def test_negative_control_comparing_the_frame_only_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    replace = GrantEntries._replace

    def frame_only(self: GrantEntries, v: VcpuMemory, addr: VAddr, mfn: Mfn, flags: int, new: int) -> None:
        l1, slot = self._find(v, addr, flags)
        writable = self.types.tables[l1].words[slot] & RW
        replace(self, v, addr, mfn, flags & ~READONLY | (0 if writable else READONLY), new)

    monkeypatch.setattr(GrantEntries, "_replace", frame_only)
    with pytest.raises(AssertionError), granting_domains() as house:
        changed(house)
