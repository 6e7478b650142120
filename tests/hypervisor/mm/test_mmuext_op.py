"""mmuext_op, update_va_mapping and the descriptor hypercalls through the dispatcher (X1-X7, U7-U8, T4, D1-D3)."""

from collections.abc import Iterator

import pytest

from hypervisor.machine.descriptor_window import PERDOMAIN_VIRT_START
from hypervisor.machine.frame_types import PGC, PGT
from hypervisor.machine.paging import pte
from hypervisor.mm import layout
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.xen import (
    DOMID_IO,
    DOMID_SELF,
    DOMID_XEN,
    MMUEXT_CLEAR_PAGE,
    MMUEXT_COPY_PAGE,
    MMUEXT_FLUSH_CACHE,
    MMUEXT_FLUSH_CACHE_GLOBAL,
    MMUEXT_INVLPG_ALL,
    MMUEXT_INVLPG_LOCAL,
    MMUEXT_INVLPG_MULTI,
    MMUEXT_MARK_SUPER,
    MMUEXT_NEW_BASEPTR,
    MMUEXT_NEW_USER_BASEPTR,
    MMUEXT_PIN_L1_TABLE,
    MMUEXT_PIN_L4_TABLE,
    MMUEXT_SET_LDT,
    MMUEXT_TLB_FLUSH_ALL,
    MMUEXT_TLB_FLUSH_LOCAL,
    MMUEXT_TLB_FLUSH_MULTI,
    MMUEXT_UNMARK_SUPER,
    MMUEXT_UNPIN_TABLE,
    UVMF_ALL,
    UVMF_INVLPG,
    UVMF_TLB_FLUSH,
    Hypercall,
    mmuext_op,
    mmuext_op_arg1,
    mmuext_op_arg2,
)
from hypervisor.wire.messages import Effect
from tests.hypervisor.mm.caller import Caller, callers, tiny_portions
from tests.hypervisor.mm.small_machine import RO, RW

ACCESSED_CODE = 0x00AF_FB00_0000_FFFF
"""A ring 3 code segment, 64-bit."""


@pytest.fixture
def everybody() -> Iterator[list[Caller]]:
    with callers(2) as found:
        yield found


@pytest.fixture
def guest(everybody: list[Caller]) -> Caller:
    return everybody[1]


def op(
    cmd: int, mfn: int = 0, *, va: int | None = None, src: int = 0, entries: int | None = None, mask: int = 0
) -> mmuext_op:
    arg1 = mmuext_op_arg1(mfn=mfn) if va is None else mmuext_op_arg1(linear_addr=va)
    if entries is not None:
        arg2 = mmuext_op_arg2(nr_ents=entries)
    else:
        arg2 = mmuext_op_arg2(vcpumask=mask) if mask else mmuext_op_arg2(src_mfn=src)
    return mmuext_op(cmd=int(cmd), arg1=arg1, arg2=arg2)


def effects(guest: Caller) -> list[Effect]:
    return [Effect(e[0]) for e in guest.machine.processes.effects[guest.built.vcpu]]  # type: ignore[arg-type]


def l4_like_mine(guest: Caller) -> int:
    """A fresh L4 with the guest's own mappings."""
    (mfn,) = guest.spare()
    assert guest.v.cr3 is not None
    for slot in (*range(256), *range(272, 512)):
        guest.write(mfn, slot, int(guest.mmu.tables[guest.v.cr3].entries[slot]))
    return mfn


def test_a_second_pin_is_refused_and_changes_nothing(guest: Caller) -> None:
    """X1."""
    (l1,) = guest.spare()
    assert guest.mmuext_op(op(MMUEXT_PIN_L1_TABLE, l1), op(MMUEXT_PIN_L1_TABLE, l1)) == (-Errno.EINVAL, 1)
    assert (guest.mmu.frames.refs[l1], guest.mmu.frames.tcount[l1]) == (2, 1)
    assert guest.mmuext_op(op(MMUEXT_UNPIN_TABLE, l1), op(MMUEXT_UNPIN_TABLE, l1)) == (-Errno.EINVAL, 1)
    assert (guest.mmu.frames.refs[l1], guest.mmu.frames.tcount[l1]) == (1, 0)


def test_a_dying_domains_frames_cannot_be_pinned_any_more(everybody: list[Caller]) -> None:
    """X2: as on Xen the operation succeeds and the frame ends unpinned."""
    control, guest = everybody[:2]
    (l1,) = guest.spare()
    guest.d.dying = True
    assert control.mmuext_op(op(MMUEXT_PIN_L1_TABLE, l1), foreigndom=guest.d.domid) == (0, 1)
    assert not guest.mmu.frames.flags[l1] & PGC.PINNED
    assert guest.mmu.frames.tcount[l1] == 0
    guest.d.dying = False


def test_base_pointers_are_switched_and_given_back(guest: Caller) -> None:
    """X3, X4."""
    old = guest.v.cr3
    assert old is not None
    new = l4_like_mine(guest)
    assert guest.mmuext_op(op(MMUEXT_NEW_BASEPTR, new)) == (0, 1)
    assert guest.v.cr3 == new
    assert Effect.LOAD_CR3 in effects(guest)
    assert guest.mmuext_op(op(MMUEXT_NEW_USER_BASEPTR, old), op(MMUEXT_NEW_BASEPTR, old)) == (0, 2)
    assert (guest.v.cr3, guest.v.user_cr3) == (old, old)
    assert guest.mmu.frames.tcount[new] == 0
    assert guest.mmuext_op(op(MMUEXT_NEW_USER_BASEPTR, 0)) == (0, 1)
    assert guest.v.user_cr3 is None


@pytest.mark.parametrize("cmd", [MMUEXT_NEW_BASEPTR, MMUEXT_NEW_USER_BASEPTR])
def test_a_refused_base_pointer_keeps_the_old_one(everybody: list[Caller], guest: Caller, cmd: int) -> None:
    (bad,) = guest.spare()
    guest.write(bad, 0, pte(bad, RW))
    before = (guest.v.cr3, guest.v.user_cr3)
    for mfn in (bad, everybody[2].spare()[0], layout.M2P_MFN, 1 << 30):
        assert guest.mmuext_op(op(cmd, mfn)) == (-Errno.EINVAL, 0)
        assert (guest.v.cr3, guest.v.user_cr3) == before


def test_what_is_about_a_vcpu_is_refused_for_another_domain(everybody: list[Caller]) -> None:
    """X7: even to the control domain."""
    control, guest = everybody[:2]
    for cmd in (
        MMUEXT_NEW_BASEPTR,
        MMUEXT_NEW_USER_BASEPTR,
        MMUEXT_TLB_FLUSH_LOCAL,
        MMUEXT_INVLPG_LOCAL,
        MMUEXT_TLB_FLUSH_MULTI,
        MMUEXT_INVLPG_MULTI,
        MMUEXT_TLB_FLUSH_ALL,
        MMUEXT_INVLPG_ALL,
        MMUEXT_FLUSH_CACHE,
        MMUEXT_SET_LDT,
    ):
        assert control.mmuext_op(op(cmd), foreigndom=guest.d.domid) == (-Errno.EPERM, 0)


def test_unknown_and_unsupported_operations(guest: Caller) -> None:
    for cmd in (14, 21, 0xFFFF_FFFF):
        assert guest.mmuext_op(op(cmd)) == (-Errno.ENOSYS, 0)
    for cmd in (MMUEXT_MARK_SUPER, MMUEXT_UNMARK_SUPER):
        assert guest.mmuext_op(op(cmd)) == (-Errno.EOPNOTSUPP, 0)
    for cmd in (MMUEXT_FLUSH_CACHE, MMUEXT_FLUSH_CACHE_GLOBAL):
        assert guest.mmuext_op(op(cmd)) == (-Errno.EACCES, 0)


def test_special_and_unknown_domains_are_refused(everybody: list[Caller], guest: Caller) -> None:
    """U1, U2."""
    nothing = op(MMUEXT_TLB_FLUSH_LOCAL)
    wrong = {
        guest.d.domid: Errno.ESRCH,
        999: Errno.ESRCH,
        int(DOMID_IO): Errno.EINVAL,
        int(DOMID_XEN): Errno.EINVAL,
        everybody[2].d.domid: Errno.EPERM,
        0: Errno.EPERM,
    }
    for domid, errno in wrong.items():
        assert guest.mmuext_op(nothing, foreigndom=domid) == (-errno, 0)


def test_pages_are_cleared_and_copied_only_where_one_may_write(
    everybody: list[Caller], guest: Caller
) -> None:
    """X5."""
    page, source, table = guest.spare(3)
    guest.write(source, 511, 77)
    guest.mmuext_op(op(MMUEXT_PIN_L1_TABLE, table))
    assert guest.mmuext_op(op(MMUEXT_COPY_PAGE, page, src=source)) == (0, 1)
    assert guest.machine.memory.frames[page, 511] == 77
    assert guest.mmuext_op(op(MMUEXT_CLEAR_PAGE, page)) == (0, 1)
    assert not guest.machine.memory.frames[page].any()
    theirs = everybody[2].spare()[0]
    for bad in (table, theirs, layout.M2P_MFN, guest.v.cr3 or 0, 0, 1 << 40):
        assert guest.mmuext_op(op(MMUEXT_CLEAR_PAGE, bad)) == (-Errno.EINVAL, 0)
        assert guest.mmuext_op(op(MMUEXT_COPY_PAGE, bad, src=source)) == (-Errno.EINVAL, 0)
    assert guest.mmuext_op(op(MMUEXT_COPY_PAGE, page, src=theirs)) == (-Errno.EINVAL, 0)


def test_flushes_reach_the_cpu_and_bad_addresses_do_not(guest: Caller) -> None:
    """T4."""
    assert guest.mmuext_op(op(MMUEXT_INVLPG_LOCAL, va=guest.scratch)) == (0, 1)
    assert Effect.INVLPG in effects(guest)
    for cmd in (MMUEXT_INVLPG_LOCAL, MMUEXT_INVLPG_ALL):
        assert guest.mmuext_op(op(cmd, va=1 << 47)) == (0, 1)
        assert Effect.INVLPG not in effects(guest)
    assert guest.mmuext_op(op(MMUEXT_TLB_FLUSH_ALL)) == (0, 1)
    assert Effect.FLUSH_TLB in effects(guest)
    mask = guest.put((0xFFFF_FFFF_FFFF_FFFE).to_bytes(8, "little"), 0x800)
    assert guest.mmuext_op(op(MMUEXT_TLB_FLUSH_MULTI, mask=mask)) == (0, 1)
    assert Effect.FLUSH_TLB not in effects(guest)
    guest.put((0xFFFF_FFFF_FFFF_FFFF).to_bytes(8, "little"), 0x800)
    assert guest.mmuext_op(op(MMUEXT_INVLPG_MULTI, va=guest.scratch, mask=mask)) == (0, 1)
    assert Effect.INVLPG in effects(guest)
    assert guest.mmuext_op(op(MMUEXT_TLB_FLUSH_MULTI, mask=1 << 40)) == (-Errno.EINVAL, 0)


@pytest.mark.parametrize("entries", [1, 3, 70])
def test_batches_in_tiny_portions_tell_done_exactly(guest: Caller, entries: int) -> None:
    """U6, Q4, Q5: a tower that is pinned and unpinned again, an error at the end."""
    new = l4_like_mine(guest)
    ops = [op(MMUEXT_PIN_L4_TABLE, new), op(MMUEXT_UNPIN_TABLE, new)] * 3 + [op(99)]
    with tiny_portions(guest.machine, entries):
        assert guest.mmuext_op(*ops) == (-Errno.ENOSYS, 6)
        assert guest.mmu.frames.tcount[new] == 0
        assert guest.v.old_table is None


@pytest.mark.parametrize("entries", [1, 3, 70])
def test_updates_in_tiny_portions_tell_done_exactly(guest: Caller, entries: int) -> None:
    (table, *frames) = guest.spare(5)
    guest.mmuext_op(op(MMUEXT_PIN_L1_TABLE, table))
    requests = [(table << 12 | i << 3, pte(frames[i % 4], RW)) for i in range(30)]
    with tiny_portions(guest.machine, entries):
        assert guest.mmu_update(requests) == (0, 30)
        assert guest.mmu_update([*((ptr, 0) for ptr, _ in requests), (5, 5)]) == (-Errno.ENOSYS, 30)
    assert guest.mmu.frames.tcount[frames[0]] == 0


def test_requests_outside_the_guests_memory_are_efault(guest: Caller) -> None:
    """H2."""
    for va in (0, 1 << 47, layout.RO_MPT_VIRT_START, PERDOMAIN_VIRT_START, (1 << 64) - 8):
        for nr in (Hypercall.mmu_update, Hypercall.mmuext_op):
            assert guest.call(nr, va, 1, 0, DOMID_SELF) == -Errno.EFAULT
            assert guest.call(nr, va, 0x7FFF_FFFF, 0, DOMID_SELF) == -Errno.EFAULT


def test_a_fault_in_the_middle_of_the_requests_keeps_what_came_before(guest: Caller) -> None:
    (table,) = guest.spare()
    end = guest.scratch + 4096
    while True:
        try:
            guest.mmu.walker.walk(guest.v, end)
        except XenError:
            break
        end += 4096
    at = end - 32
    for i in range(2):
        request = (table << 12 | i << 3).to_bytes(8, "little") + (i + 7).to_bytes(8, "little")
        guest.mmu.guest.copy_to_guest(guest.v, at + 16 * i, request)
    done = guest.put(bytes(4), 0xFF0)
    assert guest.call(Hypercall.mmu_update, at, 5, done, DOMID_SELF) == -Errno.EFAULT
    assert int.from_bytes(guest.get(0xFF0, 4), "little") == 2
    assert guest.machine.memory.frames[table, :2].tolist() == [7, 8]


class TestUpdateVaMapping:
    def update(self, guest: Caller, va: int, value: int, flags: int = 0) -> int:
        return guest.call(Hypercall.update_va_mapping, va, value, flags)

    def test_the_entry_changes_and_the_flush_follows(self, guest: Caller) -> None:
        (frame,) = guest.spare()
        va = guest.scratch + 0x1000
        assert self.update(guest, va, pte(frame, RW), int(UVMF_INVLPG)) == 0
        assert effects(guest)[-1] is Effect.INVLPG
        assert guest.mmu.walker.walk(guest.v, va, write=True).mfn == frame
        assert self.update(guest, va, 0, int(UVMF_TLB_FLUSH | UVMF_ALL)) == 0
        assert effects(guest)[-1] is Effect.FLUSH_TLB
        assert self.update(guest, va, 0, int(UVMF_TLB_FLUSH) | 1 << 40) == -Errno.EFAULT

    def test_nothing_is_flushed_after_a_refusal(self, guest: Caller) -> None:
        """T4, XSA-279."""
        l1, _ = guest.l1_of(guest.scratch)
        self.update(guest, guest.scratch + 0x1000, 0)
        for va in (guest.scratch, 1 << 47, 0xDEAD << 48):
            for flush in (int(UVMF_INVLPG), int(UVMF_TLB_FLUSH | UVMF_ALL)):
                assert self.update(guest, va, pte(l1, RW), flush) in (-Errno.EBUSY, -Errno.EINVAL)
                assert effects(guest) == []

    def test_another_domains_frame_needs_control_of_it(self, everybody: list[Caller]) -> None:
        """U8."""
        control, guest = everybody[:2]
        (frame,) = guest.spare()
        nr = Hypercall.update_va_mapping_otherdomain
        va = control.scratch + 0x1000
        assert control.call(nr, va, pte(frame, RW), 0, guest.d.domid) == 0
        assert control.call(nr, va, 0, 0, guest.d.domid) == 0
        (other,) = control.spare()
        assert guest.call(nr, guest.scratch + 0x1000, pte(other, RO), 0, 0) == -Errno.EPERM


class TestDescriptors:
    def set_gdt(self, guest: Caller, frames: list[int], entries: int) -> int:
        return guest.call(Hypercall.set_gdt, guest.numbers(frames), entries)

    def test_a_gdt_is_all_or_nothing(self, everybody: list[Caller], guest: Caller) -> None:
        """D1."""
        good = guest.spare(14)
        assert self.set_gdt(guest, good, 7168) == 0
        assert guest.v.gdt_frames == good
        mapped = int(guest.mmu.walker.walk(guest.v, guest.scratch).mfn)
        for bad in (mapped, everybody[2].spare()[0], guest.v.cr3 or 0, 1 << 40):
            assert self.set_gdt(guest, [*guest.spare(2), bad], 1025) == -Errno.EINVAL
            assert guest.v.gdt_frames == good
        assert self.set_gdt(guest, good, 7169) == -Errno.EINVAL
        assert self.set_gdt(guest, [], 0) == 0
        assert all(guest.mmu.frames.tcount[m] == 0 for m in good)

    def test_the_window_shows_the_gdt_and_then_xens(self, guest: Caller) -> None:
        (frame,) = guest.spare()
        self.set_gdt(guest, [frame], 512)
        window = guest.d.window
        assert window is not None
        entries = guest.machine.memory.frames[window.l1s[0]]
        mfns = [int(e) >> 12 & (1 << 40) - 1 for e in entries[:16]]
        assert mfns == [frame] + [layout.ZERO_MFN] * 13 + [layout.XEN_GDT_MFN, layout.XEN_GDT_MFN + 1]

    @pytest.mark.parametrize(
        ("descriptor", "stored"),
        [
            (0, 0),
            (ACCESSED_CODE, ACCESSED_CODE),
            (0x00AF_9B00_0000_FFFF, ACCESSED_CODE),
            (0x0000_0900_0000_0000, 0x0000_0900_0000_0000),
            (0x0000_EC00_E033_1234, 0x0000_8C00_E033_1234),
            (0x0000_8C00_0008_0000, 0x0000_8C00_000B_0000),
        ],
    )
    def test_descriptors_are_adjusted_to_the_guests_ring(
        self, guest: Caller, descriptor: int, stored: int
    ) -> None:
        """D2, D3."""
        (frame,) = guest.spare()
        self.set_gdt(guest, [frame], 512)
        assert guest.call(Hypercall.update_descriptor, frame << 12 | 8, descriptor) == 0
        assert int(guest.machine.memory.frames[frame, 1]) == stored

    @pytest.mark.parametrize(
        "descriptor",
        [
            0x0000_8900_0000_0000,
            0x0000_8200_0000_0000,
            0x0000_8E00_0008_0000,
            0x0000_8F00_0008_0000,
            0x0000_8C00_E008_0000,
            0x0000_8C01_0008_0000,
            0x0000_8500_0008_0000,
        ],
        ids=[
            "TSS",
            "LDT",
            "interrupt gate",
            "trap gate",
            "gate to Xen",
            "gate with reserved bits",
            "task gate",
        ],
    )
    def test_system_descriptors_are_refused_by_either_route(self, guest: Caller, descriptor: int) -> None:
        (frame, other) = guest.spare(2)
        self.set_gdt(guest, [frame], 512)
        assert guest.call(Hypercall.update_descriptor, frame << 12, descriptor) == -Errno.EINVAL
        guest.write(other, 300, descriptor)
        assert self.set_gdt(guest, [other], 512) == -Errno.EINVAL
        assert guest.mmu.frames.type[other] == PGT.none

    def test_update_descriptor_needs_an_aligned_place_that_may_be_written(
        self, everybody: list[Caller]
    ) -> None:
        guest, other = everybody[1:]
        (frame,) = guest.spare()
        l1, _ = guest.l1_of(guest.scratch)
        for maddr in (frame << 12 | 4, l1 << 12, (guest.v.cr3 or 0) << 12, other.spare()[0] << 12, 1 << 60):
            assert guest.call(Hypercall.update_descriptor, maddr, 0) == -Errno.EINVAL

    def test_ldt_pages_are_taken_when_touched_and_never_beyond_the_limit(self, guest: Caller) -> None:
        """X6, XSA-298."""
        page = guest.scratch + 0x1000 & ~0xFFF
        frame = int(guest.mmu.walker.walk(guest.v, page).mfn)
        l1, slot = guest.l1_of(page)
        assert guest.mmuext_op(op(MMUEXT_SET_LDT, va=page, entries=3)) == (0, 1)
        assert not guest.mmu.descriptors.map_ldt_page(guest.v, 0), "it is mapped writable"
        assert guest.mmu_update([(l1 << 12 | slot << 3, pte(frame, RO))]) == (0, 1)
        for offset in (24, 4096, 1 << 30):
            assert not guest.mmu.descriptors.map_ldt_page(guest.v, offset)
        assert guest.mmu.frames.type[frame] != PGT.seg_desc_page
        assert guest.mmu.descriptors.map_ldt_page(guest.v, 16)
        guest.recount()
        assert guest.mmu.frames.type[frame] == PGT.seg_desc_page
        assert guest.mmuext_op(op(MMUEXT_SET_LDT, entries=0)) == (0, 1)
        assert guest.mmu.frames.tcount[frame] == 0

    @pytest.mark.parametrize(
        ("va", "entries"),
        [(0x1000, 8193), (0x1008, 1), (1 << 47, 1), (layout.RO_MPT_VIRT_START, 1), (0x1000, 0xFFFF_FFFF)],
    )
    def test_an_ldt_must_be_small_aligned_and_the_guests(self, guest: Caller, va: int, entries: int) -> None:
        assert guest.mmuext_op(op(MMUEXT_SET_LDT, va=va, entries=entries)) == (-Errno.EINVAL, 0)
