"""What a translated guest may do with its memory map, and what Xen refuses it (Xen common/memory.c, arch/x86/mm/p2m.c).

Negative control: without the removal of what lies at the place in memory_physmap.add_one, the first overlap test finds a page
too many; with P2M entries that hold nothing, the grant test frees a frame that Dom0 maps ("F2").
"""

import random
from collections.abc import Iterator

import pytest

from hypervisor.grants.status import GrantRefused
from hypervisor.machine.paging import PAGE_ACCESSED, PAGE_DIRTY, PAGE_PRESENT, PAGE_PSE, PAGE_RW
from hypervisor.mm.layout import INVALID_M2P_ENTRY
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.grant_table import grant_entry_v1
from hypervisor.public.memory import (
    XENMAPIDX_grant_table_status,
    XENMAPSPACE_dev_mmio,
    XENMAPSPACE_gmfn,
    XENMAPSPACE_gmfn_foreign,
    XENMAPSPACE_gmfn_range,
    XENMAPSPACE_grant_table,
    XENMAPSPACE_shared_info,
    XENMEM_add_to_physmap,
    XENMEM_add_to_physmap_batch,
    XENMEM_decrease_reservation,
    XENMEM_exchange,
    XENMEM_maximum_gpfn,
    XENMEM_populate_physmap,
    xen_add_to_physmap,
    xen_add_to_physmap_batch,
    xen_memory_domain,
    xen_memory_exchange,
    xen_memory_reservation,
)
from hypervisor.public.types import DomId, GrantRef
from hypervisor.public.xen import (
    DOMID_SELF,
    MMUEXT_PIN_L4_TABLE,
    Hypercall,
    mmuext_op,
    mmuext_op_arg1,
)
from hypervisor.wire.mailbox import GuestPaging
from tests.hypervisor.hvm_caller import ARGUMENTS, HvmCaller, hvm_house
from tests.hypervisor.mm.caller import Caller

House = tuple[Caller, HvmCaller]
SHARED, GRANTS, GMFN = int(XENMAPSPACE_shared_info), int(XENMAPSPACE_grant_table), int(XENMAPSPACE_gmfn)
HOLE = 0xFE700
RW = PAGE_PRESENT | PAGE_RW


@pytest.fixture
def house() -> Iterator[House]:
    with hvm_house() as house:
        yield house


@pytest.fixture
def guest(house: House) -> HvmCaller:
    return house[1]


def reservation(at: int, count: int, order: int = 0) -> xen_memory_reservation:
    return xen_memory_reservation(extent_start=at, nr_extents=count, extent_order=order, domid=DOMID_SELF)


def test_shared_info_is_where_the_guest_wants_it_and_only_there(guest: HvmCaller) -> None:
    assert guest.add(SHARED, 0, HOLE) == 0
    assert guest.mfn(HOLE) == guest.domain.shared_info
    assert guest.add(SHARED, 0, HOLE + 1) == 0
    assert (guest.mfn(HOLE), guest.mfn(HOLE + 1)) == (None, guest.domain.shared_info)


def test_memory_that_is_overlapped_is_freed(guest: HvmCaller) -> None:
    before = guest.d.tot_pages
    assert guest.add(SHARED, 0, 7) == 0
    assert guest.d.tot_pages == before - 1
    assert guest.add(GMFN, 8, 9) == 0
    assert (guest.d.tot_pages, guest.mfn(8)) == (before - 2, None)
    assert guest.add(GMFN, 9, 9) == 0
    assert guest.add(GMFN, 10, 7) == 0
    assert guest.d.tot_pages == before - 2, "a frame of Xen's is unhooked, and nothing is freed"


def test_the_grant_table_grows_to_what_is_asked_for(guest: HvmCaller) -> None:
    assert guest.add(GRANTS, 3, HOLE) == 0
    assert guest.mfn(HOLE) == guest.domain.grants.frames[3]
    assert guest.add(GRANTS, guest.domain.grants.max_grant_frames, HOLE) == -Errno.EINVAL
    assert guest.add(GRANTS, int(XENMAPIDX_grant_table_status), HOLE) == -Errno.EINVAL


@pytest.mark.parametrize(
    ("space", "idx", "gpfn", "errno"),
    [
        (SHARED, 1, HOLE, Errno.EINVAL),
        (GMFN, HOLE, 5, Errno.EINVAL),
        (GMFN, 1 << 63, 5, Errno.EINVAL),
        (GMFN, 5, 1 << 40, Errno.EINVAL),
        (SHARED, 0, (1 << 64) - 1, Errno.EINVAL),
        (XENMAPSPACE_dev_mmio, 5, 6, Errno.EACCES),
        (XENMAPSPACE_gmfn_foreign, 5, 6, Errno.ENOSYS),
        (77, 5, 6, Errno.EINVAL),
    ],
)
def test_what_names_no_frame_or_no_place_is_refused(
    guest: HvmCaller, space: int, idx: int, gpfn: int, errno: Errno
) -> None:
    before = guest.d.tot_pages
    assert guest.add(space, idx, gpfn) == -errno
    assert guest.d.tot_pages == before


def test_a_batch_tells_the_error_of_each_page(guest: HvmCaller) -> None:
    idxs, gpfns, errs = (ARGUMENTS + 0x400 * i for i in (1, 2, 3))
    guest.numbers([5, HOLE, 6], idxs)
    guest.numbers([40, 41, 42], gpfns)
    batch = xen_add_to_physmap_batch(domid=DOMID_SELF, space=GMFN, size=3, idxs=idxs, gpfns=gpfns, errs=errs)
    assert guest.memory_op(XENMEM_add_to_physmap_batch, batch) == 0
    told = guest.read(errs, 12)
    assert [int.from_bytes(told[i : i + 4], "little", signed=True) for i in (0, 4, 8)] == [
        0,
        -Errno.EINVAL,
        0,
    ]
    foreign = xen_add_to_physmap_batch(
        domid=DOMID_SELF, space=int(XENMAPSPACE_gmfn_foreign), size=1, idxs=idxs, gpfns=gpfns, errs=errs
    )
    assert guest.memory_op(XENMEM_add_to_physmap_batch, foreign) == 0
    assert int.from_bytes(guest.read(errs, 4), "little", signed=True) == -Errno.EPERM


def move(guest: HvmCaller, idx: int, gpfn: int, size: int, start: int = 0) -> int:
    request = xen_add_to_physmap(
        domid=DOMID_SELF, space=int(XENMAPSPACE_gmfn_range), idx=idx, gpfn=gpfn, size=size
    )
    return guest.memory_op(XENMEM_add_to_physmap | start << 6, request)


def test_a_range_moves_page_by_page(guest: HvmCaller) -> None:
    mfns = [guest.mfn(gfn) for gfn in range(5, 9)]
    assert move(guest, 5, HOLE, 4) == 0
    assert [guest.mfn(HOLE + i) for i in range(4)] == mfns
    assert [guest.mfn(gfn) for gfn in range(5, 9)] == [None] * 4


def test_a_range_over_itself_is_what_its_pages_one_by_one_would_be(guest: HvmCaller) -> None:
    before, first = guest.d.tot_pages, guest.mfn(10)
    assert move(guest, 10, 11, 3) == 0
    assert [guest.mfn(gfn) for gfn in range(10, 14)] == [None, None, None, first]
    assert guest.d.tot_pages == before - 3


@pytest.mark.parametrize(
    ("idx", "gpfn", "size", "start", "errno"),
    [
        (62, HOLE, 4, 0, Errno.EINVAL),
        (5, (1 << 64) - 2, 4, 0, Errno.EOVERFLOW),
        (5, HOLE, 4, 5, Errno.EILSEQ),
        (5, HOLE, 4, 1 << 16, Errno.EDOM),
    ],
)
def test_a_range_ends_at_the_first_page_that_cannot_move(
    guest: HvmCaller, idx: int, gpfn: int, size: int, start: int, errno: Errno
) -> None:
    before = guest.d.tot_pages
    assert move(guest, idx, gpfn, size, start) == -errno
    assert guest.mfn(63) is None if errno == Errno.EINVAL else guest.mfn(5) is not None
    assert guest.d.tot_pages == before


def test_a_batch_has_its_lists_in_the_guests_addresses(guest: HvmCaller) -> None:
    batch = xen_add_to_physmap_batch(domid=DOMID_SELF, space=int(GMFN), size=2, idxs=(1 << 64) - 8)
    assert guest.memory_op(XENMEM_add_to_physmap_batch, batch) == -Errno.EFAULT
    assert guest.memory_op(XENMEM_add_to_physmap_batch | 2 << 6, batch) == -Errno.EILSEQ


def test_ballooning_by_guest_frame_numbers(guest: HvmCaller) -> None:
    before = guest.d.tot_pages
    at = guest.numbers([20, 21, HOLE, 22])
    assert guest.memory_op(XENMEM_decrease_reservation, reservation(at, 4)) == 2, "it stops at a hole"
    assert guest.d.tot_pages == before - 2
    assert guest.memory_op(XENMEM_populate_physmap, reservation(at, 2)) == 2
    assert guest.read(at, 16) == (20).to_bytes(8, "little") + (21).to_bytes(8, "little"), (
        "no machine frames are told"
    )
    assert guest.d.tot_pages == before
    many = guest.numbers(list(range(100, 120)))
    assert guest.memory_op(XENMEM_populate_physmap, reservation(many, 20)) == 20
    assert guest.memory_op(XENMEM_maximum_gpfn, xen_memory_domain(domid=DOMID_SELF)) == 119


@pytest.mark.parametrize("gfn", [1 << 24, (1 << 24) - 1, 1 << 63, (1 << 64) - 1])
def test_populating_no_place_gives_nothing(guest: HvmCaller, gfn: int) -> None:
    before = guest.d.tot_pages
    at = guest.numbers([gfn] * 20)
    for count, order in ((1, 1), (20, 1), (20, 9)):
        assert guest.memory_op(XENMEM_populate_physmap, reservation(at, count, order)) == 0
    assert guest.d.tot_pages == before


def test_removed_memory_stays_the_domains_and_is_nowhere(guest: HvmCaller) -> None:
    before = guest.d.tot_pages
    assert guest.remove(9) == 0
    assert guest.remove(9) == -Errno.ENOENT
    assert (guest.mfn(9), guest.d.tot_pages) == (None, before)


def test_machine_frames_are_not_exchanged(guest: HvmCaller) -> None:
    one = reservation(guest.numbers([5]), 1)
    assert guest.memory_op(XENMEM_exchange, xen_memory_exchange(in_=one, out=one)) == -Errno.EOPNOTSUPP


def test_a_page_that_goes_while_dom0_has_its_grant_lives_until_dom0_lets_go(house: House) -> None:
    _, guest = house
    guest.domain.grants.memory.write(
        guest.domain.grants.frames[0] << 12 | 9 * 8,
        grant_entry_v1(flags=1, domid=DomId(0), frame=5).pack(),
    )
    mfn = guest.mfn(5)
    table = guest.domain.grants
    active = table.acquire(GrantRef(9), DomId(0), 1, readonly=True)
    assert active.mfn == mfn
    at = guest.numbers([5])
    result = guest.machine.hypercall(
        guest.vcpu, Hypercall.memory_op, int(XENMEM_decrease_reservation), guest.record(reservation(at, 1))
    )
    assert result == 1
    assert guest.mmu.frames.owner[active.mfn] == guest.d.domid
    table.release(GrantRef(9), 1, readonly=True)
    guest.mmu.frames.put_page(active.mfn)
    assert guest.mmu.frames.owner[active.mfn] < 0
    with pytest.raises(GrantRefused):
        table.acquire(GrantRef(9), DomId(0), 1, readonly=True)
    guest.recount()


def test_dom0_maps_by_guest_frame_and_makes_no_tables(house: House) -> None:
    dom0, guest = house
    va = dom0.scratch + 4096
    domid = int(guest.d.domid)
    call = Hypercall.update_va_mapping_otherdomain
    assert dom0.call(call, va, 6 << 12 | RW, 0, domid) == 0
    dom0.mmu.guest.copy_to_guest(dom0.v, va, b"from Dom0")
    assert guest.read(6 << 12, 9) == b"from Dom0"
    assert dom0.call(call, va, HOLE << 12 | RW, 0, domid) == -Errno.EINVAL
    assert guest.remove(6) == 0
    assert dom0.call(call, va, 0, 0, domid) == 0
    pin = mmuext_op(cmd=int(MMUEXT_PIN_L4_TABLE), arg1=mmuext_op_arg1(mfn=guest.mfn(7)))
    assert dom0.mmuext_op(pin, foreigndom=domid)[0] == -Errno.EINVAL
    assert dom0.mmu_update([((guest.mfn(7) or 0) << 12 | 1, 3)], domid)[0] == -Errno.EINVAL


# --- arguments through the guest's own page tables ----------------------------------------------------


def long_mode(guest: HvmCaller, leaf: int, *, flags: int = RW, at: int = 0) -> int:
    """Tables in guest frames 16…19; the linear address whose entry of the lowest used level is `leaf`."""
    for level, table in enumerate((16, 17, 18, 19)):
        last = level == (3 if not leaf & PAGE_PSE else at)
        entry = leaf if last else (table + 1) << 12 | flags
        guest.write(table << 12 | 8 * 3, entry.to_bytes(8, "little"))
        if last:
            break
    guest.domain.mailbox.set_guest_mode(0, 16 << 12, GuestPaging.LONG_MODE, code32=False)
    return 3 << 39 | 3 << 30 | 3 << 21 | 3 << 12


def test_arguments_are_found_in_long_mode(guest: HvmCaller) -> None:
    va = long_mode(guest, 8 << 12 | RW)
    guest.mmu.guest.copy_to_guest(guest.vcpu.mem, va + 5, b"words")
    assert guest.read(8 << 12 | 5, 5) == b"words"
    marked = int.from_bytes(guest.read(19 << 12 | 24, 8), "little")
    assert marked == 8 << 12 | RW | PAGE_ACCESSED | PAGE_DIRTY
    assert guest.mmu.guest.copy_from_guest(guest.vcpu.mem, va + 5, 5) == b"words"


@pytest.mark.parametrize(("level", "span"), [(1, 1 << 30), (2, 1 << 21)])
def test_large_pages_are_followed(guest: HvmCaller, level: int, span: int) -> None:
    va = long_mode(guest, RW | PAGE_PSE, at=level) & -span | 9 << 12
    guest.mmu.guest.copy_to_guest(guest.vcpu.mem, va, b"large")
    assert guest.read(9 << 12, 5) == b"large"


def test_two_level_and_pae_tables_are_followed(guest: HvmCaller) -> None:
    guest.write(16 << 12 | 4 * 1, (17 << 12 | RW).to_bytes(4, "little"))
    guest.write(17 << 12 | 4 * 2, (8 << 12 | RW).to_bytes(4, "little"))
    guest.domain.mailbox.set_guest_mode(0, 16 << 12, GuestPaging.TWO_LEVEL, code32=False)
    guest.mmu.guest.copy_to_guest(guest.vcpu.mem, 1 << 22 | 2 << 12, b"two")
    assert guest.read(8 << 12, 3) == b"two"
    guest.write(20 << 12 | 0x20 + 8 * 1, (21 << 12 | PAGE_PRESENT).to_bytes(8, "little"))
    guest.write(21 << 12 | 8 * 2, (22 << 12 | RW).to_bytes(8, "little"))
    guest.write(22 << 12 | 8 * 3, (9 << 12 | RW).to_bytes(8, "little"))
    guest.domain.mailbox.set_guest_mode(0, 20 << 12 | 0x20, GuestPaging.PAE, code32=False)
    guest.mmu.guest.copy_to_guest(guest.vcpu.mem, 1 << 30 | 2 << 21 | 3 << 12, b"pae")
    assert guest.read(9 << 12, 3) == b"pae"


@pytest.mark.parametrize(
    "leaf", [0, 8 << 12, 8 << 12 | PAGE_PRESENT, HOLE << 12 | RW, ((1 << 40) - 1) << 12 | RW], ids=hex
)
def test_what_is_not_mapped_writable_is_not_written(guest: HvmCaller, leaf: int) -> None:
    va = long_mode(guest, leaf)
    with pytest.raises(XenError) as refusal:
        guest.mmu.guest.copy_to_guest(guest.vcpu.mem, va, b"x")
    assert refusal.value.errno == Errno.EFAULT


def test_whatever_the_process_says_of_its_tables_a_copy_is_made_or_refused(guest: HvmCaller) -> None:
    draw = random.Random(8)
    numbers = (0, 1, 8 << 12 | RW, RW | PAGE_PSE, (1 << 64) - 1, HOLE << 12 | RW, 1 << 63 | 16 << 12 | RW)
    for _ in range(2000):
        guest.write(draw.randrange(16, 20) << 12 | 8 * 3, draw.choice(numbers).to_bytes(8, "little"))
        mailbox = guest.domain.mailbox
        at = 0x410
        mailbox._octets[at : at + 8] = draw.choice((*numbers, 16 << 12)).to_bytes(8, "little")
        mailbox._octets[at + 8] = draw.choice((0, 1, 2, 3, 4, 4, 4, 255))
        va = draw.choice(
            (3 << 39 | 3 << 30 | 3 << 21 | 3 << 12, 0x2000, (1 << 64) - 1, 1 << 47, draw.getrandbits(64))
        )
        try:
            guest.mmu.guest.copy_to_guest(guest.vcpu.mem, va, b"12345678")
        except XenError:
            continue
    guest.recount()


def test_xen_s_frames_have_no_number_before_they_are_mapped(guest: HvmCaller) -> None:
    assert guest.mmu.m2p.get(guest.domain.shared_info) == INVALID_M2P_ENTRY
