"""Memory as a Python guest sees it: real page tables, rights, A and D bits, TLB."""

import pytest

from domains.kernel.kernel import Kernel, PageFault, ProtectionFault
from domains.kernel.page_tables import READ_ONLY, READ_WRITE
from hypervisor.machine.paging import (
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_PRESENT,
    PAGE_USER,
    PFEC_PRESENT,
    PFEC_WRITE,
    table_index,
)
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE, VAddr
from hypervisor.public.xen import UVMF_INVLPG, UVMF_NONE
from tests.domains.cpu.user_space import USER_VA, enter_user_space

NOT_CANONICAL = 1 << 47


def pte(kernel: Kernel, va: int) -> int:
    table = kernel.memory.tables.l1(VAddr(va))
    assert table is not None
    return kernel.memory.tables.entry(table, table_index(va, 1))


def test_what_is_stored_across_pages_is_loaded(kernel: Kernel) -> None:
    pages = [kernel.memory.alloc_page() for _ in range(3)]
    data = bytes(range(256)) * 33
    at = pages[0].va + 4000
    kernel.cpu.store(at, data[: 4096 + 200])
    assert kernel.cpu.load(at, 4096 + 200) == data[: 4096 + 200]
    assert b"".join(kernel.cpu.views(at, 4096 + 200)) == data[: 4096 + 200]


def test_a_store_goes_to_the_machine_frame_that_the_tables_name(kernel: Kernel) -> None:
    page = kernel.memory.alloc_page()
    kernel.cpu.store(page.va + 5, b"here")
    assert kernel.cpu.memory.read((page.mfn << PAGE_SHIFT) + 5, 4) == b"here"


def test_a_view_stays_within_its_page_and_within_its_rights(kernel: Kernel) -> None:
    page = kernel.memory.alloc_page()
    with pytest.raises(ValueError, match="crosses"):
        kernel.cpu.view(page.va + 1, PAGE_SIZE)
    with pytest.raises(TypeError):
        kernel.cpu.view(page.va, 8)[0] = 1
    kernel.cpu.view(page.va, 8, write=True)[0] = 1
    assert kernel.cpu.load(page.va, 1) == b"\1"


def test_a_store_to_a_read_only_page_is_a_protection_fault(kernel: Kernel) -> None:
    page = kernel.memory.alloc_page()
    kernel.memory.make_read_only(page)
    assert kernel.cpu.load(page.va, 1) == b"\0"
    with pytest.raises(PageFault) as fault:
        kernel.cpu.store(page.va + 9, b"x")
    assert fault.value.error_code == PFEC_PRESENT | PFEC_WRITE
    assert fault.value.va == page.va + 9


@pytest.mark.parametrize("write", [False, True])
def test_an_unmapped_page_is_a_not_present_fault(kernel: Kernel, write: bool) -> None:
    with pytest.raises(PageFault) as fault:
        kernel.cpu.view(0x5008, 8, write=write)
    assert fault.value.error_code == (PFEC_WRITE if write else 0)
    assert fault.value.va == 0x5008


def test_an_address_that_is_not_canonical_is_no_page_fault(kernel: Kernel) -> None:
    with pytest.raises(ProtectionFault):
        kernel.cpu.load(NOT_CANONICAL, 1)


def test_the_frames_of_tables_are_read_only_in_the_linear_map(kernel: Kernel) -> None:
    va = kernel.memory.machine_to_virt(kernel.memory.tables.l4)
    assert len(kernel.cpu.load(va, PAGE_SIZE)) == PAGE_SIZE
    with pytest.raises(PageFault):
        kernel.cpu.store(va, bytes(8))


def test_a_load_sets_accessed_and_a_store_sets_dirty(kernel: Kernel) -> None:
    page = kernel.memory.alloc_page()
    flags = PAGE_PRESENT | PAGE_USER
    kernel.hypercalls.hypercall_update_va_mapping(page.va, page.mfn << PAGE_SHIFT | flags | 2, UVMF_INVLPG)
    assert not pte(kernel, page.va) & (PAGE_ACCESSED | PAGE_DIRTY)
    kernel.cpu.load(page.va, 1)
    assert pte(kernel, page.va) & (PAGE_ACCESSED | PAGE_DIRTY) == PAGE_ACCESSED
    kernel.cpu.store(page.va, b"x")
    assert pte(kernel, page.va) & PAGE_DIRTY


def test_a_refused_store_sets_no_dirty_bit(kernel: Kernel) -> None:
    page = kernel.memory.alloc_page()
    kernel.memory.make_read_only(page)
    with pytest.raises(PageFault):
        kernel.cpu.store(page.va, b"x")
    assert not pte(kernel, page.va) & PAGE_DIRTY


def test_the_flush_that_was_asked_for_drops_the_old_translation(kernel: Kernel) -> None:
    first, second = kernel.memory.alloc_page(), kernel.memory.alloc_page()
    kernel.cpu.store(first.va, b"first")
    kernel.cpu.store(second.va, b"other")
    kernel.hypercalls.hypercall_update_va_mapping(
        first.va, second.mfn << PAGE_SHIFT | READ_WRITE, UVMF_INVLPG
    )
    assert kernel.cpu.load(first.va, 5) == b"other"


def test_without_a_flush_a_page_that_lost_its_write_right_is_still_read(kernel: Kernel) -> None:
    page = kernel.memory.alloc_page()
    kernel.cpu.store(page.va, b"kept")
    kernel.hypercalls.hypercall_update_va_mapping(page.va, page.mfn << PAGE_SHIFT | READ_ONLY, UVMF_NONE)
    assert kernel.cpu.load(page.va, 4) == b"kept"


def test_user_mode_sees_the_user_page_table_alone(kernel: Kernel) -> None:
    page = enter_user_space(kernel)
    with kernel.cpu.user_mode():
        kernel.cpu.store(USER_VA, b"from user")
        with pytest.raises(PageFault) as fault:
            kernel.cpu.load(page.va, 1)
    assert fault.value.error_code & 4
    assert kernel.cpu.load(page.va, 9) == b"from user"
    with pytest.raises(PageFault) as fault:
        kernel.cpu.load(USER_VA, 1)
    assert not fault.value.error_code & 4


def test_compare_and_exchange_writes_only_what_was_expected(kernel: Kernel) -> None:
    page = kernel.memory.alloc_page()
    kernel.cpu.store(page.va + 4, (7).to_bytes(4, "little"))
    assert kernel.cpu.compare_exchange_32(page.va + 4, 8, 9) == 7
    assert kernel.cpu.load(page.va, 8) == bytes([0, 0, 0, 0, 7, 0, 0, 0])
    assert kernel.cpu.compare_exchange_32(page.va + 4, 7, 9) == 7
    assert kernel.cpu.load(page.va, 8) == bytes([0, 0, 0, 0, 9, 0, 0, 0])
