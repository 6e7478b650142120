"""The kernel's memory: the linear map grows under Xen's eyes, and pages are neither lost nor handed out
twice.
"""

import numpy as np
import pytest

from domains.kernel.boot import machine_to_phys
from domains.kernel.kernel import Kernel, PageFault
from domains.kernel.memory import Page
from domains.kernel.page_tables import READ_ONLY, READ_WRITE
from hypervisor.machine.paging import PAGE_ACCESSED, PAGE_DIRTY
from hypervisor.public.arch_x86.xen_x86_64 import MACH2PHYS_VIRT_START
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE, DomId, Mfn, Pfn, VAddr
from hypervisor.public.xen import DOMID_SELF, Hypercall
from tests.domains.kernel.one_process import PythonDomain
from tests.inprocess import InProcess


def take_all(kernel: Kernel) -> list[Page]:
    """Every page that is left; the next one is ENOMEM."""
    pages = [kernel.memory.alloc_page() for _ in range(kernel.memory.free_pages - 40)]
    while kernel.memory.free_pages:
        pages.append(kernel.memory.alloc_page())
    with pytest.raises(XenError) as error:
        kernel.memory.alloc_page()
    assert error.value.errno == Errno.ENOMEM
    return pages


def test_a_kernel_boots_with_a_handful_of_hypercalls(domain: PythonDomain) -> None:
    domain.boot()
    assert len(domain.gate.calls) <= 10


def test_the_p2m_and_the_m2p_agree_for_every_page(domain: PythonDomain, kernel: Kernel) -> None:
    for pfn in range(kernel.memory.nr_pages):
        mfn = kernel.memory.phys_to_machine(Pfn(pfn))
        assert mfn == int(domain.built.p2m[pfn])
        assert machine_to_phys(kernel.cpu, mfn) == pfn


def test_all_memory_can_be_allocated_and_none_of_it_twice(kernel: Kernel) -> None:
    pages = take_all(kernel)
    assert len({page.pfn for page in pages}) == len(pages)
    for page in pages:
        assert not any(kernel.cpu.load(page.va, PAGE_SIZE))
        kernel.cpu.store(page.va, b"mine")
    assert len(pages) > kernel.memory.nr_pages - 50


def test_a_page_that_was_given_back_comes_again_and_is_zero(kernel: Kernel) -> None:
    page = kernel.memory.alloc_page()
    kernel.cpu.store(page.va, b"\xff" * PAGE_SIZE)
    kernel.memory.free_page(page)
    again = kernel.memory.alloc_page()
    assert again == page
    assert not any(kernel.cpu.load(again.va, PAGE_SIZE))


def test_a_page_is_not_given_back_twice(kernel: Kernel) -> None:
    """It would be handed out to two users."""
    page = kernel.memory.alloc_page()
    kernel.memory.free_page(page)
    with pytest.raises(ValueError, match="free already"):
        kernel.memory.free_page(page)
    assert kernel.memory.alloc_page().pfn != kernel.memory.alloc_page().pfn


def test_growing_by_two_mib_costs_two_hypercalls(machine: InProcess) -> None:
    domain = PythonDomain(machine, pages=4096)
    kernel = domain.boot()
    while kernel.memory._next + 9 < kernel.memory._mapped_end:
        kernel.memory.alloc_page()
    mapped = kernel.memory._mapped_end
    domain.gate.calls.clear()
    for _ in range(512):
        kernel.memory.alloc_page()
    assert kernel.memory._mapped_end == mapped + 512
    assert [Hypercall(call[0]).name for call in domain.gate.calls] == ["update_va_mapping", "mmu_update"]


def test_an_odd_number_of_pages_is_mapped_to_the_last_one(machine: InProcess) -> None:
    kernel = PythonDomain(machine, pages=1500).boot()
    pages = take_all(kernel)
    assert pages[-1].pfn == 1499
    kernel.cpu.store(pages[-1].va + 4095, b"x")


def test_frames_mapped_side_by_side_show_the_same_memory(kernel: Kernel) -> None:
    pages = [kernel.memory.alloc_page() for _ in range(700)]
    for i, page in enumerate(pages):
        kernel.cpu.store(page.va, i.to_bytes(4, "little"))
    va = kernel.memory.map_frames(DOMID_SELF, [page.mfn for page in pages])
    heads = [int.from_bytes(kernel.cpu.load(va + i * PAGE_SIZE, 4), "little") for i in range(700)]
    assert heads == list(range(700))
    kernel.cpu.store(va, b"back")
    assert kernel.cpu.load(pages[0].va, 4) == b"back"
    kernel.memory.unmap(va)
    with pytest.raises(PageFault):
        kernel.cpu.load(va, 1)


def test_whole_pages_are_read_and_written_many_at_a_time(kernel: Kernel) -> None:
    """Over the ends of L1 tables, where frames lie in no order; the entries are marked as used and written."""
    pages = [kernel.memory.alloc_page() for _ in range(700)]
    va = kernel.memory.map_frames(DOMID_SELF, [page.mfn for page in pages])
    rows = np.arange(700 * 512, dtype=np.uint64).reshape(700, 512)
    kernel.cpu.store_pages(va, rows)
    np.testing.assert_array_equal(kernel.cpu.load_pages(va, 700), rows)
    assert kernel.cpu.load(pages[699].va, PAGE_SIZE) == rows[699].tobytes()
    table = kernel.memory.tables.l1(VAddr(va + 100 * PAGE_SIZE))
    assert table is not None
    entry = kernel.memory.tables.entry(table, (va >> PAGE_SHIFT) + 100 & 511)
    assert entry & PAGE_ACCESSED
    assert entry & PAGE_DIRTY


def test_whole_pages_are_written_up_to_the_one_that_faults(kernel: Kernel) -> None:
    pages = [kernel.memory.alloc_page() for _ in range(3)]
    area = kernel.memory.area.alloc(4)
    kernel.memory.tables.map(area, [page.mfn for page in pages[:2]], READ_WRITE)
    kernel.memory.tables.map(VAddr(area + 2 * PAGE_SIZE), [pages[2].mfn], READ_ONLY)
    rows = np.full((4, 512), 7, np.uint64)
    with pytest.raises(PageFault) as fault:
        kernel.cpu.store_pages(area, rows)
    assert fault.value.va == area + 2 * PAGE_SIZE
    assert [kernel.cpu.load(page.va, 1) for page in pages] == [b"\7", b"\7", b"\0"]
    assert (kernel.cpu.load_pages(area, 3)[:2] == 7).all()
    with pytest.raises(PageFault):
        kernel.cpu.load_pages(area, 4)


def test_pages_that_a_larger_entry_maps_are_read_many_at_a_time(kernel: Kernel) -> None:
    """Xen's own table of frames."""
    first = MACH2PHYS_VIRT_START
    assert kernel.cpu.load_pages(first, 3).tobytes() == kernel.cpu.load(first, 3 * PAGE_SIZE)


def test_a_mapping_that_fails_half_way_leaves_nothing_mapped(kernel: Kernel) -> None:
    good = kernel.memory.alloc_page()
    with pytest.raises(XenError):
        kernel.memory.map_frames(DOMID_SELF, [good.mfn, Mfn(3)])
    again = kernel.memory.area.alloc(2)
    with pytest.raises(PageFault):
        kernel.cpu.load(again, 1)


def test_a_read_only_mapping_cannot_be_written(kernel: Kernel) -> None:
    page = kernel.memory.alloc_page()
    va = kernel.memory.map_frames(DOMID_SELF, [page.mfn], writable=False)
    kernel.cpu.load(va, 1)
    with pytest.raises(PageFault):
        kernel.cpu.store(va, b"x")


def test_only_a_privileged_kernel_maps_frames_of_others(machine: InProcess) -> None:
    control = PythonDomain(machine, privileged=True).boot()
    guest = PythonDomain(machine)
    other = guest.boot()
    page = other.memory.alloc_page()
    other.cpu.store(page.va, b"the guest's")
    domid = guest.built.domain.domid
    va = control.memory.map_frames(domid, [page.mfn])
    assert control.cpu.load(va, 11) == b"the guest's"
    control.cpu.store(va, b"Dom0 was here")
    assert other.cpu.load(page.va, 13) == b"Dom0 was here"
    control.memory.unmap(va)
    mine = control.memory.alloc_page()
    with pytest.raises(XenError) as error:
        other.memory.map_frames(DomId(0), [mine.mfn])
    assert error.value.errno == Errno.EPERM


def test_tables_are_whole_pages_checked_at_once(kernel: Kernel) -> None:
    """An L1 that the kernel filled before linking it maps what it says."""
    pages = np.array([kernel.memory.alloc_page().mfn for _ in range(512)], "<u8")
    va = VAddr(0x7000_0000_0000)
    entries = pages << np.uint64(PAGE_SHIFT) | np.uint64(READ_WRITE)
    kernel.memory.tables.ensure_l1(va, entries)
    kernel.cpu.store(va + 511 * PAGE_SIZE, b"last")
    last = kernel.memory.machine_to_virt(Mfn(int(pages[511])))
    assert kernel.cpu.load(last, 4) == b"last"


def test_arguments_that_do_not_fit_are_an_error_and_leave_the_area_as_it_was(kernel: Kernel) -> None:
    area = kernel.hypercalls.arguments
    with pytest.raises(MemoryError), area:
        area.push(bytes(1 << 20))
    with area:
        first = area.push(b"x")
    with area:
        assert area.push(b"y") == first
