"""What a PVH guest is told at its entry point, through EBX: addresses of the guest's physical memory.

Source: Xen public/arch-x86/hvm/start_info.h.
"""

from enum import IntEnum
from typing import Final

from hypervisor.public.layout import Struct, u32, u64

XEN_HVM_START_MAGIC_VALUE: Final = 0x336EC578


class HvmMemmapType(IntEnum):
    """`type` of hvm_memmap_table_entry: ACPI's address range types."""

    XEN_HVM_MEMMAP_TYPE_RAM = 1
    XEN_HVM_MEMMAP_TYPE_RESERVED = 2
    XEN_HVM_MEMMAP_TYPE_ACPI = 3
    XEN_HVM_MEMMAP_TYPE_NVS = 4
    XEN_HVM_MEMMAP_TYPE_UNUSABLE = 5
    XEN_HVM_MEMMAP_TYPE_DISABLED = 6
    XEN_HVM_MEMMAP_TYPE_PMEM = 7


(
    XEN_HVM_MEMMAP_TYPE_RAM, XEN_HVM_MEMMAP_TYPE_RESERVED, XEN_HVM_MEMMAP_TYPE_ACPI,
    XEN_HVM_MEMMAP_TYPE_NVS, XEN_HVM_MEMMAP_TYPE_UNUSABLE, XEN_HVM_MEMMAP_TYPE_DISABLED,
    XEN_HVM_MEMMAP_TYPE_PMEM,
) = HvmMemmapType.__members__.values()  # fmt: skip


class hvm_start_info(Struct, size=56):
    """The record itself, version 1."""

    magic: u32  # XEN_HVM_START_MAGIC_VALUE
    version: u32
    flags: u32  # SIF_*
    nr_modules: u32
    modlist_paddr: u64  # array of hvm_modlist_entry
    cmdline_paddr: u64  # NUL-terminated text
    rsdp_paddr: u64  # ACPI's RSDP
    memmap_paddr: u64  # array of hvm_memmap_table_entry
    memmap_entries: u32
    reserved: u32


class hvm_modlist_entry(Struct, size=32):
    """One module: the ramdisk."""

    paddr: u64
    size: u64  # bytes
    cmdline_paddr: u64
    reserved: u64


class hvm_memmap_table_entry(Struct, size=24):
    """One range of the memory map."""

    addr: u64
    size: u64  # bytes
    type: u32  # XEN_HVM_MEMMAP_TYPE_*
    reserved: u32
