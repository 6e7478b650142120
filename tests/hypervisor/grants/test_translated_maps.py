"""Grants that a translated domain maps lie in its P2M, where nothing but an unmap takes them away.

Every hypercall is followed by a recount. Negative controls: without the `_put` of Physmap.remove_grant the first unmap stops
with "F2", and without `_require_no_grant` a removal takes what the unmap then looks for ("G8").
"""

from collections.abc import Iterator

import pytest

from hypervisor.machine.paging import PAGE_RW
from hypervisor.public.errno import Errno
from hypervisor.public.grant_table import (
    GNTMAP_contains_pte,
    GNTMAP_device_map,
    GNTMAP_host_map,
    GNTMAP_readonly,
    GNTST_bad_handle,
    GNTST_general_error,
    GNTST_okay,
    GrantTableOp,
    gnttab_map_grant_ref,
    gnttab_unmap_grant_ref,
)
from hypervisor.public.hvm.hvm_op import (
    HVMMEM_mmio_dm,
    HVMMEM_ram_ro,
    HVMOP_get_mem_type,
    xen_hvm_get_mem_type,
)
from hypervisor.public.memory import (
    XENMAPSPACE_gmfn,
    XENMAPSPACE_shared_info,
    XENMEM_decrease_reservation,
    XENMEM_populate_physmap,
    xen_memory_reservation,
)
from hypervisor.public.types import DomId
from hypervisor.public.xen import DOMID_SELF, Hypercall
from tests.hypervisor.hvm_caller import ARGUMENTS, HvmCaller, hvm_house
from tests.hypervisor.mm.caller import Caller

HOLE = 0x500
HOST = int(GNTMAP_host_map)
REF, PAGE = 9, 5

House = tuple[Caller, HvmCaller]


@pytest.fixture
def house() -> Iterator[House]:
    with hvm_house() as house:
        house[1].offer(REF, PAGE, int(house[1].d.domid))
        yield house


@pytest.fixture
def guest(house: House) -> HvmCaller:
    return house[1]


def map_grant(
    guest: HvmCaller, gfn: int = HOLE, flags: int = HOST, granter: int | None = None
) -> gnttab_map_grant_ref:
    dom = int(guest.d.domid) if granter is None else granter
    request = gnttab_map_grant_ref(host_addr=gfn << 12, flags=flags, ref=REF, dom=DomId(dom))
    at = guest.record(request)
    assert guest.call(Hypercall.grant_table_op, int(GrantTableOp.GNTTABOP_map_grant_ref), at, 1) == 0
    return gnttab_map_grant_ref.unpack(guest.read(ARGUMENTS, request.sizeof))


def unmap_grant(guest: HvmCaller, handle: int, gfn: int = HOLE) -> int:
    at = guest.record(gnttab_unmap_grant_ref(host_addr=gfn << 12, handle=handle))
    assert guest.call(Hypercall.grant_table_op, int(GrantTableOp.GNTTABOP_unmap_grant_ref), at, 1) == 0
    return gnttab_unmap_grant_ref.unpack(guest.read(ARGUMENTS, gnttab_unmap_grant_ref.sizeof)).status


def test_a_mapped_grant_is_a_second_place_of_its_frame_until_it_is_unmapped(guest: HvmCaller) -> None:
    p2m, mfn = guest.d.p2m, guest.mfn(PAGE)
    assert p2m is not None
    mapped = map_grant(guest)
    assert (mapped.status, mapped.dev_bus_addr) == (GNTST_okay, 0)
    assert (p2m.granted(HOLE), p2m.mfn(HOLE), guest.mfn(PAGE)) == (mfn, None, mfn)
    assert p2m.entry(HOLE) & PAGE_RW
    assert guest.mmu.m2p.get(mfn or 0) == PAGE
    assert unmap_grant(guest, mapped.handle, HOLE + 1) == GNTST_general_error
    assert unmap_grant(guest, mapped.handle) == GNTST_okay
    assert (p2m.entry(HOLE), guest.mfn(PAGE)) == (0, mfn)
    assert unmap_grant(guest, mapped.handle) == GNTST_bad_handle


def test_a_grant_to_be_read_cannot_be_written_by_the_cpu(guest: HvmCaller) -> None:
    mapped = map_grant(guest, flags=HOST | int(GNTMAP_readonly))
    assert guest.d.p2m is not None
    assert not guest.d.p2m.entry(HOLE) & PAGE_RW
    assert mem_type(guest, HOLE) == HVMMEM_ram_ro
    assert unmap_grant(guest, mapped.handle) == GNTST_okay
    assert mem_type(guest, HOLE) == HVMMEM_mmio_dm


def mem_type(guest: HvmCaller, gfn: int) -> int:
    at = guest.record(xen_hvm_get_mem_type(domid=DOMID_SELF, pfn=gfn))
    assert guest.call(Hypercall.hvm_op, int(HVMOP_get_mem_type), at) == 0
    return xen_hvm_get_mem_type.unpack(guest.read(ARGUMENTS, 16)).mem_type


def test_nothing_but_an_unmap_takes_a_mapped_grant_away(guest: HvmCaller) -> None:
    handle = map_grant(guest).handle
    assert guest.remove(HOLE) == -Errno.EPERM
    assert guest.add(XENMAPSPACE_shared_info, 0, HOLE) == -Errno.EPERM
    assert guest.add(XENMAPSPACE_gmfn, 7, HOLE) == -Errno.EPERM
    assert guest.add(XENMAPSPACE_gmfn, HOLE, 0x501) == -Errno.EINVAL, "it is not the guest's memory"
    listed = xen_memory_reservation(extent_start=guest.numbers([HOLE]), nr_extents=1, domid=DOMID_SELF)
    for operation in (XENMEM_decrease_reservation, XENMEM_populate_physmap):
        assert guest.memory_op(int(operation), listed) == 0
    assert map_grant(guest).status == GNTST_general_error, "nor another grant"
    assert unmap_grant(guest, handle) == GNTST_okay


def test_xen_reads_no_arguments_where_a_grant_is_mapped(guest: HvmCaller) -> None:
    handle = map_grant(guest).handle
    assert guest.call(Hypercall.xen_version, 8, HOLE << 12) == -Errno.EFAULT
    assert unmap_grant(guest, handle) == GNTST_okay


def test_a_grant_of_memory_takes_the_place_of_memory(guest: HvmCaller) -> None:
    """As on Xen: what was there stays the domain's, and is nowhere."""
    before = guest.d.tot_pages
    handle = map_grant(guest, gfn=7).handle
    assert (guest.mfn(7), guest.d.tot_pages) == (None, before)
    assert unmap_grant(guest, handle, gfn=7) == GNTST_okay


def test_a_page_given_back_while_it_is_mapped_lives_until_the_unmap(guest: HvmCaller) -> None:
    mfn = guest.mfn(PAGE) or 0
    handle = map_grant(guest).handle
    listed = xen_memory_reservation(extent_start=guest.numbers([PAGE]), nr_extents=1, domid=DOMID_SELF)
    assert guest.memory_op(int(XENMEM_decrease_reservation), listed) == 1
    assert guest.mmu.frames.owner[mfn] == guest.d.domid
    assert unmap_grant(guest, handle) == GNTST_okay
    assert guest.mmu.frames.owner[mfn] < 0


@pytest.mark.parametrize(
    "flags", [HOST | int(GNTMAP_device_map), HOST | int(GNTMAP_contains_pte), int(GNTMAP_device_map)]
)
def test_only_host_maps_have_a_place_in_a_p2m(guest: HvmCaller, flags: int) -> None:
    mapped = map_grant(guest, flags=flags)
    if mapped.status == GNTST_okay:  # a device's map alone is none of the P2M's
        assert not flags & HOST
        at = guest.record(
            gnttab_unmap_grant_ref(handle=mapped.handle, dev_bus_addr=(guest.mfn(PAGE) or 0) << 12)
        )
        assert guest.call(Hypercall.grant_table_op, 1, at, 1) == 0
    else:
        assert mapped.status == GNTST_general_error


@pytest.mark.parametrize("gfn", [1 << 24, (1 << 40) - 1])
def test_a_place_that_does_not_exist_is_refused(guest: HvmCaller, gfn: int) -> None:
    assert map_grant(guest, gfn=gfn).status == GNTST_general_error


def test_another_domains_memory_is_not_for_its_process_to_see(house: House) -> None:
    dom0, guest = house
    assert map_grant(guest, granter=0).status == GNTST_general_error
    assert dom0.machine.hv.domains[DomId(0)].grants.active == {}


def test_a_domain_that_dies_lets_go_of_what_it_has_mapped(guest: HvmCaller) -> None:
    assert map_grant(guest).status == GNTST_okay
    assert map_grant(guest, gfn=HOLE + 1, flags=HOST | int(GNTMAP_readonly)).status == GNTST_okay
    guest.machine.destroy(guest.domain)
    guest.recount()
    assert guest.d.tot_pages == 0
