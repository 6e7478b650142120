"""Feature bits: told by XENVER_get_features, asked for in ELF notes. Source: Xen public/features.h."""

from enum import IntEnum
from typing import Final


class Feature(IntEnum):
    """Bit number of each feature."""

    XENFEAT_writable_page_tables = 0
    XENFEAT_writable_descriptor_tables = 1
    XENFEAT_auto_translated_physmap = 2
    XENFEAT_supervisor_mode_kernel = 3
    XENFEAT_pae_pgdir_above_4gb = 4
    XENFEAT_mmu_pt_update_preserve_ad = 5
    XENFEAT_highmem_assist = 6
    XENFEAT_gnttab_map_avail_bits = 7
    XENFEAT_hvm_callback_vector = 8
    XENFEAT_hvm_safe_pvclock = 9
    XENFEAT_hvm_pirqs = 10
    XENFEAT_dom0 = 11
    XENFEAT_memory_op_vnode_supported = 13
    XENFEAT_ARM_SMCCC_supported = 14
    XENFEAT_linux_rsdp_unrestricted = 15
    XENFEAT_not_direct_mapped = 16
    XENFEAT_direct_mapped = 17


(
    XENFEAT_writable_page_tables, XENFEAT_writable_descriptor_tables,
    XENFEAT_auto_translated_physmap, XENFEAT_supervisor_mode_kernel, XENFEAT_pae_pgdir_above_4gb,
    XENFEAT_mmu_pt_update_preserve_ad, XENFEAT_highmem_assist, XENFEAT_gnttab_map_avail_bits,
    XENFEAT_hvm_callback_vector, XENFEAT_hvm_safe_pvclock, XENFEAT_hvm_pirqs, XENFEAT_dom0,
    XENFEAT_memory_op_vnode_supported, XENFEAT_ARM_SMCCC_supported, XENFEAT_linux_rsdp_unrestricted,
    XENFEAT_not_direct_mapped, XENFEAT_direct_mapped,
) = Feature.__members__.values()  # fmt: skip

XENFEAT_NR_SUBMAPS: Final = 1
