"""What is in a PVH domain's pages at its first instruction besides kernel and ramdisk, and its first registers.

    start info page:   0      hvm_start_info
                       0x40   the module's hvm_modlist_entry
                       0x80   the memory map's hvm_memmap_table_entry, one a region
                       0x400  the command line

Source: Xen tools/libs/guest/xg_dom_x86.c (vcpu_hvm, add_module_to_list, bootlate_hvm).
"""

from __future__ import annotations

from typing import Final

from hypervisor.builder.acpi import acpi_page
from hypervisor.builder.hvm_layout import ACPI_GFN, HvmPlan
from hypervisor.machine.debug_registers import DR6_DEFAULT, DR7_DEFAULT
from hypervisor.public.arch_x86.hvm.save import (
    HVM_FILE_MAGIC,
    HVM_FILE_VERSION,
    HVM_SAVE_CODE_CPU,
    HVM_SAVE_CODE_HEADER,
    hvm_hw_cpu,
    hvm_save_header,
)
from hypervisor.public.arch_x86.hvm.start_info import (
    XEN_HVM_START_MAGIC_VALUE,
    hvm_memmap_table_entry,
    hvm_modlist_entry,
    hvm_start_info,
)
from hypervisor.public.hvm.save import HVM_SAVE_CODE_END, hvm_save_descriptor
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE, Pfn
from hypervisor.public.xen import MAX_GUEST_CMDLINE

_MODULE, _MEMORY_MAP, _CMDLINE = 0x40, 0x80, 0x400
X86_CR0_PE: Final = 1 << 0
X86_CR0_ET: Final = 1 << 4
_RFLAGS: Final = 1 << 1
_LIMIT: Final = 0xFFFF_FFFF
_CODE, _DATA, _TSS = 0xC9B, 0xC93, 0x8B
"""arbytes: 32-bit flat, present, accessed; a busy TSS."""


def hvm_pages(plan: HvmPlan, cmdline: str) -> dict[Pfn, bytes]:
    """The pages that the toolstack itself makes, by guest frame."""
    return {plan.start_info: start_info_page(plan, cmdline), ACPI_GFN: acpi_page(ACPI_GFN << PAGE_SHIFT)}


def start_info_page(plan: HvmPlan, cmdline: str) -> bytes:
    """What EBX names."""
    base = plan.start_info << PAGE_SHIFT
    entries = [
        hvm_memmap_table_entry(addr=region.addr, size=region.size, type=region.type)
        for region in plan.memory_map()
    ]
    info = hvm_start_info(
        magic=XEN_HVM_START_MAGIC_VALUE,
        version=1,
        cmdline_paddr=base + _CMDLINE,
        rsdp_paddr=ACPI_GFN << PAGE_SHIFT,
        memmap_paddr=base + _MEMORY_MAP,
        memmap_entries=len(entries),
    )
    page = bytearray(PAGE_SIZE)
    if plan.ramdisk is not None:
        info.nr_modules, info.modlist_paddr = 1, base + _MODULE
        module = hvm_modlist_entry(paddr=plan.ramdisk.pfn << PAGE_SHIFT, size=plan.ramdisk_bytes)
        page[_MODULE : _MODULE + module.sizeof] = module.pack()
    line = cmdline.encode()[: MAX_GUEST_CMDLINE - 1]
    table = b"".join(entry.pack() for entry in entries)
    for at, data in ((0, info.pack()), (_MEMORY_MAP, table), (_CMDLINE, line)):
        page[at : at + len(data)] = data
    return bytes(page)


def first_registers(plan: HvmPlan) -> bytes:
    """The first vCPU at the kernel's entry, in 32-bit flat mode without paging, as records of a saved state."""
    cpu = registers_at(plan.image.entry, plan.start_info << PAGE_SHIFT)
    header = hvm_save_header(magic=HVM_FILE_MAGIC, version=HVM_FILE_VERSION)
    records = (
        (HVM_SAVE_CODE_HEADER, header.pack()),
        (HVM_SAVE_CODE_CPU, cpu.pack()),
        (HVM_SAVE_CODE_END, b""),
    )
    return b"".join(hvm_save_descriptor(typecode=t, length=len(raw)).pack() + raw for t, raw in records)


def registers_at(entry: int, start_info: int) -> hvm_hw_cpu:
    """A vCPU that starts at this address, and finds the other one in EBX (docs/misc/pvh.pandoc)."""
    return hvm_hw_cpu(
        rip=entry,
        rbx=start_info,
        rflags=_RFLAGS,
        cr0=X86_CR0_PE | X86_CR0_ET,
        dr6=DR6_DEFAULT,
        dr7=DR7_DEFAULT,
        cs_limit=_LIMIT,
        ds_limit=_LIMIT,
        es_limit=_LIMIT,
        ss_limit=_LIMIT,
        tr_limit=0x67,
        cs_arbytes=_CODE,
        ds_arbytes=_DATA,
        es_arbytes=_DATA,
        ss_arbytes=_DATA,
        tr_arbytes=_TSS,
    )
