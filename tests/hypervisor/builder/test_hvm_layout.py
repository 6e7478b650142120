"""A PVH domain's first memory: nothing overlaps, everything is told, and what does not fit is refused in one line.

Source: Xen public/arch-x86/hvm/start_info.h; ACPI specification 6.3, §5.2; Xen tools/libs/guest/xg_dom_x86.c.
"""

from itertools import pairwise

import pytest

from hypervisor.builder.acpi import LOCAL_APIC, acpi_header, acpi_madt, acpi_page, acpi_rsdp
from hypervisor.builder.hvm_contents import first_registers, start_info_page
from hypervisor.builder.hvm_layout import ACPI_GFN, MAX_PAGES, POPULATED, HvmPlan, hvm_plan
from hypervisor.builder.pv_contents import kernel_contents
from hypervisor.builder.pv_image import LayoutError, PvImage, Segment
from hypervisor.domain.hvm_checks import check_cpu
from hypervisor.domain.hvm_records import records_of
from hypervisor.public.arch_x86.hvm.save import hvm_hw_cpu
from hypervisor.public.arch_x86.hvm.start_info import (
    XEN_HVM_START_MAGIC_VALUE,
    hvm_memmap_table_entry,
    hvm_modlist_entry,
    hvm_start_info,
)
from hypervisor.public.types import PAGE_SIZE, VAddr

MIB = 1 << 20
PAGES = 16 << 8


def image(at: int = MIB, size: int = 5000, entry: int | None = None) -> PvImage:
    segment = Segment(VAddr(at), b"code" * 100, size)
    return PvImage([segment], VAddr(0), VAddr(at if entry is None else entry))


def plan_with_ramdisk() -> HvmPlan:
    return hvm_plan(image(), PAGES, 10_000)


def test_kernel_start_info_and_ramdisk_lie_apart_in_ram() -> None:
    plan = plan_with_ramdisk()
    assert plan.ramdisk is not None
    assert plan.kernel.pfn == MIB >> 12
    assert plan.kernel.end <= plan.start_info < plan.ramdisk.pfn
    assert plan.ramdisk.end <= PAGES
    (content,) = kernel_contents(plan)
    assert (content.pfn, bytes(content.data[:4])) == (MIB >> 12, b"code")


def test_the_memory_map_rises_and_covers_what_has_a_page() -> None:
    regions = plan_with_ramdisk().memory_map()
    for before, after in pairwise(regions):
        assert before.addr + before.size <= after.addr
    for gfn in POPULATED:
        assert any(region.addr <= gfn << 12 < region.addr + region.size for region in regions)
    assert any(region.addr <= 0xFE70_0000 < region.addr + region.size for region in regions)


def test_start_info_names_the_ramdisk_the_map_and_the_command_line() -> None:
    plan = plan_with_ramdisk()
    assert plan.ramdisk is not None
    page, base = start_info_page(plan, "console=hvc0"), plan.start_info << 12
    info = hvm_start_info.unpack(page)
    assert (info.magic, info.version, info.nr_modules) == (XEN_HVM_START_MAGIC_VALUE, 1, 1)
    module = hvm_modlist_entry.unpack(page, info.modlist_paddr - base)
    assert (module.paddr, module.size) == (plan.ramdisk.pfn << 12, 10_000)
    assert page[info.cmdline_paddr - base :].startswith(b"console=hvc0\0")
    told = [
        hvm_memmap_table_entry.unpack(page, info.memmap_paddr - base + i * hvm_memmap_table_entry.sizeof)
        for i in range(info.memmap_entries)
    ]
    assert [(e.addr, e.size, e.type) for e in told] == [(r.addr, r.size, r.type) for r in plan.memory_map()]
    assert len(start_info_page(plan, "x" * 5000)) == PAGE_SIZE
    assert hvm_start_info.unpack(start_info_page(hvm_plan(image(), PAGES), "")).nr_modules == 0


def test_the_first_registers_are_at_the_entry_in_flat_protected_mode() -> None:
    plan = plan_with_ramdisk()
    ((_, vcpu, raw),) = records_of(first_registers(plan))
    cpu = hvm_hw_cpu.unpack(raw)
    check_cpu(cpu)
    assert (vcpu, cpu.rip, cpu.rbx) == (0, MIB, plan.start_info << 12)
    assert (cpu.cr0, cpu.cs_base, cpu.cs_limit, cpu.cs_arbytes) == (0x11, 0, 0xFFFF_FFFF, 0xC9B)


@pytest.mark.parametrize(
    ("kernel", "pages", "why"),
    [
        (image(entry=0), PAGES, "entry point"),
        (image(at=15 * MIB, size=2 * MIB), PAGES, "outside its 16 MiB"),
        (image(at=(1 << 64) - 4096, size=4096), PAGES, "outside its 16 MiB"),
        (image(at=16 * MIB - 4096, size=4096), PAGES, "need more than"),
        (image(size=10), PAGES, "more bytes than memory"),
        (PvImage([], VAddr(0), VAddr(0)), PAGES, "no loadable segment"),
        (image(), MAX_PAGES + 1, "at most 3840 MiB"),
    ],
)
def test_what_does_not_fit_is_refused(kernel: PvImage, pages: int, why: str) -> None:
    with pytest.raises(LayoutError, match=why):
        hvm_plan(kernel, pages)


def test_every_acpi_table_is_found_from_the_rsdp_and_sums_to_zero() -> None:
    at = ACPI_GFN << 12
    page = acpi_page(at, nr_vcpus=3)
    assert sum(page[:20]) % 256 == sum(page[: acpi_rsdp.sizeof]) % 256 == 0

    def table(address: int) -> tuple[bytes, bytes]:
        header = acpi_header.unpack(page, address - at)
        whole = page[address - at : address - at + header.length]
        assert sum(whole) % 256 == 0
        return header.signature, whole[acpi_header.sizeof :]

    signature, body = table(acpi_rsdp.unpack(page).xsdt_address)
    assert signature == b"XSDT"
    found = dict(table(int.from_bytes(body[i : i + 8], "little")) for i in range(0, len(body), 8))
    assert set(found) == {b"FACP", b"APIC"}
    assert table(int.from_bytes(found[b"FACP"][4:8], "little")) == (b"DSDT", b"")
    madt = found[b"APIC"]
    assert acpi_madt.unpack(madt).local_apic_address == LOCAL_APIC
    assert [madt[8 + 8 * n + 3] for n in range(3)] == [0, 2, 4]
