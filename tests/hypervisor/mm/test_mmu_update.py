"""mmu_update and update_va_mapping: order, rights, fast path, progress (P1-P12, U1-U9)."""

from collections.abc import Iterator

import pytest

from hypervisor.machine.entries import PAGE_GNTTAB, PAGE_GUEST_KERNEL
from hypervisor.machine.paging import (
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_GLOBAL,
    PAGE_NX,
    PAGE_PCD,
    PAGE_PRESENT,
    PAGE_PSE,
    PAGE_PWT,
    PAGE_RW,
    PAGE_USER,
    pte,
)
from hypervisor.mm.layout import INVALID_M2P_ENTRY, M2P_MFN, NR_FRAMES
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.xen import (
    DOMID_IO,
    DOMID_SELF,
    DOMID_XEN,
    MMU_MACHPHYS_UPDATE,
    MMU_PT_UPDATE_PRESERVE_AD,
)
from tests.hypervisor.mm.small_machine import RO, RW, Guest, SmallMachine, small_machine


@pytest.fixture
def machine() -> Iterator[SmallMachine]:
    with small_machine() as machine:
        yield machine


@pytest.fixture
def guest(machine: SmallMachine) -> Guest:
    return machine.domain(64)


def entry(guest: Guest, table: int, slot: int) -> int:
    return int(guest.machine.memory.frames[table, slot])


def errno(progress) -> Errno | None:  # type: ignore[no-untyped-def]
    return progress.error.errno if progress.error else None


def pinned_l1(guest: Guest) -> int:
    l1 = guest.l1(guest.take(1))
    guest.pin(l1, 1)
    return l1


@pytest.mark.parametrize("bit", [PAGE_PWT, PAGE_PCD, PAGE_PSE, PAGE_GNTTAB])
def test_l1_entries_with_forbidden_bits_are_refused(guest: Guest, bit: int) -> None:
    """P1; bit 7 is PAT here."""
    l1 = pinned_l1(guest)
    before = entry(guest, l1, 0)
    for value in (pte(guest.pages[0], RW | bit), before | bit):
        assert errno(guest.set_entry(l1, 0, value)) is Errno.EINVAL
    assert entry(guest, l1, 0) == before


@pytest.mark.parametrize("level", [2, 3, 4])
@pytest.mark.parametrize("bit", [PAGE_PWT, PAGE_PCD, PAGE_PSE, PAGE_GLOBAL])
def test_upper_entries_with_forbidden_bits_are_refused(guest: Guest, level: int, bit: int) -> None:
    table = guest.l1(guest.take(1))
    for _ in range(level - 1):
        below, table = table, guest.table([pte(table, RW)])
    guest.pin(table, level)
    before = entry(guest, table, 0)
    for value in (before | bit, pte(below, RW | bit)):
        assert errno(guest.set_entry(table, 0, value)) is Errno.EINVAL
        assert errno(guest.set_entry(table, 1, value)) is Errno.EINVAL
    assert entry(guest, table, 0) == before


def test_entries_are_normalised_for_a_guest_kernel_in_ring_3(guest: Guest) -> None:
    """P6."""
    l1 = pinned_l1(guest)
    frame = guest.pages[0]
    kernel = PAGE_PRESENT | PAGE_RW
    assert guest.set_entry(l1, 1, pte(frame, kernel)).done == 1
    assert entry(guest, l1, 1) == pte(frame, kernel | PAGE_USER | PAGE_GUEST_KERNEL)
    assert guest.set_entry(l1, 1, pte(frame, kernel | PAGE_GLOBAL)).done == 1
    assert not entry(guest, l1, 1) & PAGE_GLOBAL
    assert guest.set_entry(l1, 1, pte(frame, RW)).done == 1
    assert entry(guest, l1, 1) == pte(frame, RW | PAGE_GLOBAL)
    assert guest.set_entry(l1, 1, entry(guest, l1, 1)).done == 1, "what is read back is accepted"


def test_a_change_of_rw_is_never_the_fast_path(guest: Guest) -> None:
    """P8, XSA-182."""
    other = pinned_l1(guest)
    l1 = guest.l1([other], RO)
    guest.pin(l1, 1)
    assert errno(guest.set_entry(l1, 0, pte(other, RW))) is Errno.EBUSY
    frame = guest.pages[0]
    guest.set_entry(l1, 1, pte(frame, RO))
    assert guest.mmu.frames.tcount[frame] == 0
    guest.set_entry(l1, 1, pte(frame, RW))
    assert guest.mmu.frames.tcount[frame] == 1
    guest.set_entry(l1, 1, pte(frame, RO))
    assert guest.mmu.frames.tcount[frame] == 0


def test_the_fast_path_changes_flags_and_no_count(guest: Guest) -> None:
    l1 = pinned_l1(guest)
    frame = guest.pages[0]
    guest.set_entry(l1, 1, pte(frame, RW))
    for flags in (RW | PAGE_NX, RW | PAGE_ACCESSED | PAGE_DIRTY, RW | 7 << 9, RW & ~PAGE_USER):
        assert guest.set_entry(l1, 1, pte(frame, flags)).done == 1
        assert (
            entry(guest, l1, 1) & (flags | 0xFFF)
            == entry(guest, l1, 1) & 0x8000_0000_0000_0FFF | pte(frame, 0) & flags
        )
        assert guest.mmu.frames.refs[frame] == 2


def test_preserve_ad_keeps_what_the_cpu_marked_and_nothing_else(guest: Guest) -> None:
    l1 = pinned_l1(guest)
    frame = guest.pages[0]
    guest.set_entry(l1, 1, pte(frame, RW))
    guest.write(l1, 1, entry(guest, l1, 1) | PAGE_ACCESSED | PAGE_DIRTY)
    guest.update((l1 << 12 | 1 << 3 | MMU_PT_UPDATE_PRESERVE_AD, pte(frame, RO)))
    assert entry(guest, l1, 1) == pte(frame, RO | PAGE_GLOBAL | PAGE_ACCESSED | PAGE_DIRTY)
    guest.set_entry(l1, 1, pte(frame, RO))
    assert entry(guest, l1, 1) == pte(frame, RO | PAGE_GLOBAL)


@pytest.mark.parametrize("slot", [256, 260, 271])
def test_xens_slots_of_an_l4_cannot_be_changed(guest: Guest, slot: int) -> None:
    """P7; what the guest had written there before the promotion is gone."""
    l4, l3, _ = guest.tower([guest.l1(guest.take(1))])
    guest.write(l4, slot, pte(l3, RW))
    guest.pin(l4, 4)
    assert entry(guest, l4, slot) != pte(l3, RW)
    assert errno(guest.set_entry(l4, slot, pte(l3, RW))) is Errno.EINVAL
    assert errno(guest.set_entry(l4, slot, 0)) is Errno.EINVAL


def test_frames_that_do_not_exist_are_refused_as_xen_refuses_device_memory(guest: Guest) -> None:
    """P5."""
    l1 = pinned_l1(guest)
    assert errno(guest.set_entry(l1, 0, pte(0, RO))) is Errno.EPERM
    assert errno(guest.set_entry(l1, 0, pte(NR_FRAMES, RO))) is Errno.EPERM
    assert errno(guest.set_entry(l1, 0, pte(NR_FRAMES, RO), foreigndom=DOMID_IO)) is Errno.EPERM
    assert errno(guest.set_entry(l1, 0, pte((1 << 40) - 1, RO))) is Errno.EINVAL


def test_a_plain_frame_is_written_under_a_writable_reference(guest: Guest) -> None:
    """U3."""
    (frame,) = guest.take()
    assert guest.set_entry(frame, 5, 0xABCD).done == 1
    assert entry(guest, frame, 5) == 0xABCD


def test_a_descriptor_page_is_refused(guest: Guest) -> None:
    """U3."""
    (frame,) = guest.take()
    guest.mmu.descriptors.set_gdt(guest.v, [frame], 512)
    assert errno(guest.set_entry(frame, 0, 0)) is Errno.EINVAL


def test_the_table_must_be_the_table_owners(machine: SmallMachine, guest: Guest) -> None:
    theirs = pinned_l1(machine.domain(8))
    assert errno(guest.set_entry(theirs, 0, 0)) is Errno.EINVAL


def test_naming_oneself_by_number_and_unknown_domains_are_esrch(guest: Guest) -> None:
    """U1."""
    l1 = pinned_l1(guest)
    for domid in (guest.d.domid, 77, DOMID_XEN + 1):
        with pytest.raises(XenError) as refused:
            guest.set_entry(l1, 0, 0, foreigndom=domid)
        assert refused.value.errno is Errno.ESRCH


def test_foreign_frames_and_tables_need_privilege(machine: SmallMachine, guest: Guest) -> None:
    """U2: a control domain may, a guest may not."""
    control = machine.domain(8, privileged=True)
    l1, theirs = pinned_l1(control), pinned_l1(guest)
    frame = guest.pages[0]
    assert control.set_entry(l1, 0, pte(frame, RW), foreigndom=guest.d.domid).done == 1
    assert guest.mmu.frames.tcount[frame] == 1
    assert (
        control.set_entry(
            theirs, 1, pte(frame, RW), foreigndom=(guest.d.domid + 1) << 16 | guest.d.domid
        ).done
        == 1
    )
    mine = guest.l1(guest.take(1))
    guest.pin(mine, 1)
    assert errno(guest.set_entry(mine, 0, pte(control.pages[0], RO), foreigndom=0)) is Errno.EPERM
    assert errno(guest.set_entry(l1, 0, 0, foreigndom=1 << 16 | DOMID_SELF)) is Errno.EPERM
    assert errno(guest.set_entry(mine, 0, pte(M2P_MFN, RO), foreigndom=DOMID_XEN)) is Errno.EPERM


def test_the_control_domain_maps_the_m2p_read_only(machine: SmallMachine) -> None:
    control = machine.domain(8, privileged=True)
    l1 = pinned_l1(control)
    assert control.set_entry(l1, 0, pte(M2P_MFN, RO), foreigndom=DOMID_XEN).done == 1
    assert errno(control.set_entry(l1, 0, pte(M2P_MFN, RW), foreigndom=DOMID_XEN)) is Errno.EBUSY


def test_m2p_entries_change_only_for_ones_own_frames(machine: SmallMachine, guest: Guest) -> None:
    """U5."""
    other = machine.domain(2)
    (frame,) = guest.take()
    assert guest.mmu.m2p.get(frame) == INVALID_M2P_ENTRY
    assert guest.update((frame << 12 | MMU_MACHPHYS_UPDATE, 1234)).done == 1
    assert guest.mmu.m2p.get(frame) == 1234
    assert errno(guest.update((other.pages[0] << 12 | MMU_MACHPHYS_UPDATE, 1))) is Errno.EINVAL
    assert (
        errno(guest.update((other.pages[0] << 12 | MMU_MACHPHYS_UPDATE, 1), foreigndom=other.d.domid))
        is Errno.EPERM
    )


@pytest.mark.parametrize("command", range(4, 8))
def test_unknown_commands_are_enosys(guest: Guest, command: int) -> None:
    l1 = pinned_l1(guest)
    assert errno(guest.update((l1 << 12 | command, 0))) is Errno.ENOSYS


@pytest.mark.parametrize("bad", [0, 3, 9])
def test_a_batch_keeps_what_came_before_the_first_refusal(guest: Guest, bad: int) -> None:
    """U6."""
    l1 = pinned_l1(guest)
    frames = guest.take(10)
    requests = [(l1 << 12 | i << 3, pte(frame, RW)) for i, frame in enumerate(frames)]
    requests[bad] = (l1 << 12 | bad << 3, pte(l1, RW))
    before = entry(guest, l1, 0)
    progress = guest.update(*requests)
    assert (progress.done, errno(progress)) == (bad, Errno.EBUSY)
    held = [guest.mmu.frames.refs[frame] - 1 for frame in frames]
    assert held == [1] * bad + [0] * (10 - bad)
    if bad == 0:
        assert entry(guest, l1, 0) == before


@pytest.mark.parametrize("budget", [1, 2, 5, 600])
def test_a_preempted_batch_repeats_nothing_and_skips_nothing(guest: Guest, budget: int) -> None:
    """U6, U9: with tables that come and go on the way."""
    l1s = [guest.l1(guest.take(2)) for _ in range(3)]
    l2 = guest.table([])
    guest.pin(l2, 2)
    requests = [(l2 << 12 | (i % 2) << 3, pte(l1s[i % 3], RW)) for i in range(12)] + [
        (l2 << 12, 0),
        (l2 << 12 | 8, 0),
    ]
    progress = guest.update(*requests, budget=budget)
    assert (progress.done, progress.error) == (14, None)
    assert [guest.mmu.frames.refs[l1] for l1 in l1s] == [1, 1, 1]


def test_update_va_mapping_changes_the_callers_own_l1(guest: Guest) -> None:
    """U7."""
    l1 = guest.l1(guest.take(1))
    l4, *_ = guest.tower([l1])
    with pytest.raises(XenError):
        guest.mmu.va_mapping.update(guest.v, 0x1000, pte(guest.pages[0], RW), guest.d.domid)
    guest.run_on(l4)
    frame = guest.pages[0]
    guest.mmu.va_mapping.update(guest.v, 0x1000, pte(frame, RW), guest.d.domid)
    assert guest.mmu.walker.walk(guest.v, 0x1000, write=True).mfn == frame
    for va in (1 << 21, 1 << 39, 0xFFFF_8000_0000_0000, 0xFFFF_8200_0000_0000, 1 << 47, (1 << 64) - 1):
        with pytest.raises(XenError) as refused:
            guest.mmu.va_mapping.update(guest.v, va, 0, guest.d.domid)
        assert refused.value.errno is Errno.EINVAL


def test_a_walk_is_never_remembered_across_a_change_above_l1(guest: Guest) -> None:
    """T3, XSA-286."""
    one, two = guest.l1(guest.take(1)), guest.l1(guest.take(1))
    l4, _, l2 = guest.tower([one])
    guest.run_on(l4)
    first = guest.mmu.walker.walk(guest.v, 0).mfn
    guest.set_entry(l2, 0, pte(two, RW))
    assert guest.mmu.walker.walk(guest.v, 0).mfn != first
    guest.mmu.va_mapping.update(guest.v, 0, 0, guest.d.domid)
    assert entry(guest, two, 0) == 0
    guest.set_entry(l2, 0, 0)
    with pytest.raises(XenError):
        guest.mmu.walker.walk(guest.v, 0)


def test_copies_to_a_guest_need_write_permission_at_every_level(guest: Guest) -> None:
    data = guest.take(2)
    l1 = guest.table([pte(data[0], RW), pte(data[1], RO)])
    l2 = guest.table([pte(l1, RW), pte(l1, RO)])
    l4 = guest.table([pte(guest.table([pte(l2, RW)]), RW)])
    guest.run_on(l4)
    guest.mmu.guest.copy_to_guest(guest.v, 0xFF8, b"12345678")
    for va in (0xFFC, 0x1000, 1 << 21):
        with pytest.raises(XenError):
            guest.mmu.guest.copy_to_guest(guest.v, va, b"abcdefgh")
    assert guest.mmu.guest.copy_from_guest(guest.v, (1 << 21) + 0xFF8, 16) == b"12345678" + bytes(8)
    with pytest.raises(XenError):
        guest.mmu.guest.copy_from_guest(guest.v, 0x1FFC, 8)


def test_a_core_mediated_write_marks_the_page_dirty(guest: Guest) -> None:
    l1 = guest.l1(guest.take(1))
    l4, *_ = guest.tower([l1])
    guest.run_on(l4)
    assert not entry(guest, l1, 0) & PAGE_ACCESSED
    guest.mmu.guest.copy_from_guest(guest.v, 0, 1)
    assert entry(guest, l1, 0) & (PAGE_ACCESSED | PAGE_DIRTY) == PAGE_ACCESSED
    guest.mmu.guest.copy_to_guest(guest.v, 0, b"x")
    assert entry(guest, l1, 0) & PAGE_DIRTY


class TestWritablePageTables:
    """P12: a store to an L1 that the guest maps read-only."""

    @pytest.fixture
    def l1(self, guest: Guest) -> int:
        """Maps one frame at 0 and itself, read-only, at 0x1000."""
        (mfn, frame) = guest.take(2)
        guest.fill(mfn, [pte(frame, RW), pte(mfn, RO)])
        guest.run_on(guest.tower([mfn])[0])
        return mfn

    def store(
        self, guest: Guest, slot: int, value: int, size: int = 8, byte: int = 0, old: int | None = None
    ) -> bool:
        """True if it was performed."""
        stored = guest.mmu.va_mapping.ptwr_emulated_update(
            guest.v, 0x1000 + 8 * slot + byte, size, value, old
        )
        guest.machine.recount()
        return stored

    def test_a_store_is_an_update(self, guest: Guest, l1: int) -> None:
        (frame,) = guest.take()
        assert self.store(guest, 2, pte(frame, RW))
        assert guest.mmu.walker.walk(guest.v, 0x2000, write=True).mfn == frame
        with pytest.raises(XenError):
            self.store(guest, 3, pte(l1, RW))

    def test_parts_of_an_entry_are_filled_up(self, guest: Guest, l1: int) -> None:
        before = entry(guest, l1, 0)
        assert self.store(guest, 0, 0x67, size=1)
        assert entry(guest, l1, 0) & ~0xFF == before & ~0xFF
        assert self.store(guest, 0, 0, size=4, byte=4)

    def test_a_compare_and_exchange_needs_the_old_value(self, guest: Guest, l1: int) -> None:
        before = entry(guest, l1, 0)
        assert not self.store(guest, 0, 0, old=before ^ 2)
        assert self.store(guest, 0, 0, old=before)
        assert entry(guest, l1, 0) == 0

    @pytest.mark.parametrize(("size", "byte"), [(8, 4), (3, 0), (16, 0), (2, 1), (0, 0)])
    def test_only_aligned_stores_of_a_power_of_two(self, guest: Guest, l1: int, size: int, byte: int) -> None:
        with pytest.raises(XenError):
            self.store(guest, 2, 0, size=size, byte=byte)

    def test_only_ones_own_l1_mapped_read_only(self, guest: Guest, l1: int) -> None:
        for va in (0, 0x2000, 1 << 21):
            with pytest.raises(XenError) as refused:
                guest.mmu.va_mapping.ptwr_emulated_update(guest.v, va, 8, 0)
            assert refused.value.errno is Errno.EFAULT
