"""Grant tables: how one domain lets another use a frame of its memory.

Source: Xen public/grant_table.h.
"""

from enum import IntEnum, IntFlag
from typing import Final

from hypervisor.public.layout import Struct, Union, i16, u16, u32, u64
from hypervisor.public.types import XEN_GUEST_HANDLE, domid_t, grant_handle_t, grant_ref_t, xen_pfn_t


class GrantTableOp(IntEnum):
    """First argument of grant_table_op; the second is an array of the structure of that name."""

    GNTTABOP_map_grant_ref = 0
    GNTTABOP_unmap_grant_ref = 1
    GNTTABOP_setup_table = 2
    GNTTABOP_dump_table = 3
    GNTTABOP_transfer = 4
    GNTTABOP_copy = 5
    GNTTABOP_query_size = 6
    GNTTABOP_unmap_and_replace = 7
    GNTTABOP_set_version = 8
    GNTTABOP_get_status_frames = 9
    GNTTABOP_get_version = 10
    GNTTABOP_swap_grant_ref = 11
    GNTTABOP_cache_flush = 12


(
    GNTTABOP_map_grant_ref, GNTTABOP_unmap_grant_ref, GNTTABOP_setup_table, GNTTABOP_dump_table,
    GNTTABOP_transfer, GNTTABOP_copy, GNTTABOP_query_size, GNTTABOP_unmap_and_replace,
    GNTTABOP_set_version, GNTTABOP_get_status_frames, GNTTABOP_get_version, GNTTABOP_swap_grant_ref,
    GNTTABOP_cache_flush,
) = GrantTableOp.__members__.values()  # fmt: skip


class GrantStatus(IntEnum):
    """What each operation leaves in its own `status`: 0 or a negative number."""

    GNTST_okay = 0
    GNTST_general_error = -1
    GNTST_bad_domain = -2
    GNTST_bad_gntref = -3
    GNTST_bad_handle = -4
    GNTST_bad_virt_addr = -5
    GNTST_bad_dev_addr = -6
    GNTST_no_device_space = -7
    GNTST_permission_denied = -8
    GNTST_bad_page = -9
    GNTST_bad_copy_arg = -10
    GNTST_address_too_big = -11
    GNTST_eagain = -12
    GNTST_no_space = -13


(
    GNTST_okay, GNTST_general_error, GNTST_bad_domain, GNTST_bad_gntref, GNTST_bad_handle,
    GNTST_bad_virt_addr, GNTST_bad_dev_addr, GNTST_no_device_space, GNTST_permission_denied,
    GNTST_bad_page, GNTST_bad_copy_arg, GNTST_address_too_big, GNTST_eagain, GNTST_no_space,
) = GrantStatus.__members__.values()  # fmt: skip


class GrantEntryFlags(IntFlag):
    """`flags` of a grant entry: the type is in bits 0-1, and the other bits depend on it."""

    GTF_invalid = 0
    GTF_permit_access = 1 << 0
    GTF_accept_transfer = 1 << 1
    GTF_transitive = 3
    GTF_type_mask = 3
    GTF_readonly = 1 << 2
    GTF_reading = 1 << 3
    GTF_writing = 1 << 4
    GTF_PWT = 1 << 5
    GTF_PCD = 1 << 6
    GTF_PAT = 1 << 7
    GTF_sub_page = 1 << 8
    GTF_transfer_committed = 1 << 2
    GTF_transfer_completed = 1 << 3


(
    GTF_invalid, GTF_permit_access, GTF_accept_transfer, GTF_transitive, GTF_type_mask,
    GTF_readonly, GTF_reading, GTF_writing, GTF_PWT, GTF_PCD, GTF_PAT, GTF_sub_page,
    GTF_transfer_committed, GTF_transfer_completed,
) = GrantEntryFlags.__members__.values()  # fmt: skip


class GrantMapFlags(IntFlag):
    """`flags` of map_grant_ref; device_map and host_map say which mapping is asked for."""

    GNTMAP_device_map = 1 << 0
    GNTMAP_host_map = 1 << 1
    GNTMAP_readonly = 1 << 2
    GNTMAP_application_map = 1 << 3
    GNTMAP_contains_pte = 1 << 4
    GNTMAP_guest_avail_mask = 0xFFFF0000


(
    GNTMAP_device_map, GNTMAP_host_map, GNTMAP_readonly, GNTMAP_application_map,
    GNTMAP_contains_pte, GNTMAP_guest_avail_mask,
) = GrantMapFlags.__members__.values()  # fmt: skip


class GrantCopyFlags(IntFlag):
    """`flags` of gnttab_copy: whether source and destination are a grant reference or an own frame."""

    GNTCOPY_source_gref = 1 << 0
    GNTCOPY_dest_gref = 1 << 1


GNTCOPY_source_gref, GNTCOPY_dest_gref = GrantCopyFlags.__members__.values()


class GrantCacheFlags(IntFlag):
    """`op` of gnttab_cache_flush."""

    GNTTAB_CACHE_CLEAN = 1 << 0
    GNTTAB_CACHE_INVAL = 1 << 1
    GNTTAB_CACHE_SOURCE_GREF = 1 << 31


GNTTAB_CACHE_CLEAN, GNTTAB_CACHE_INVAL, GNTTAB_CACHE_SOURCE_GREF = GrantCacheFlags.__members__.values()

_GNTMAP_guest_avail0: Final = 16  # lowest of the guest's bits, which go into the mapping's PTE
GNTTAB_NR_RESERVED_ENTRIES: Final = 8
GNTTAB_RESERVED_CONSOLE: Final = 0
GNTTAB_RESERVED_XENSTORE: Final = 1


class grant_entry_v1(Struct, size=8):
    """One entry of a version 1 table. The granter writes it; Xen sets `reading` and `writing`."""

    flags: u16  # GTF_*
    domid: domid_t  # who may use it
    frame: u32  # Pfn or Mfn that is granted


class grant_entry_header(Struct, size=4):
    """What every version 2 entry begins with."""

    flags: u16
    domid: domid_t


class grant_entry_v2_full_page(Struct, size=16):
    """`full_page` of grant_entry_v2."""

    hdr: grant_entry_header
    pad0: u32
    frame: u64


class grant_entry_v2_sub_page(Struct, size=16):
    """`sub_page` of grant_entry_v2."""

    hdr: grant_entry_header
    page_off: u16
    length: u16
    frame: u64


class grant_entry_v2_transitive(Struct, size=12):
    """`transitive` of grant_entry_v2."""

    hdr: grant_entry_header
    trans_domid: domid_t
    pad0: u16
    gref: grant_ref_t


class grant_entry_v2(Union, size=16):
    """One entry of a version 2 table."""

    hdr: grant_entry_header
    full_page: grant_entry_v2_full_page
    sub_page: grant_entry_v2_sub_page
    transitive: grant_entry_v2_transitive


grant_status_t = (
    u16  # of each version 2 entry, in the status frames: GTF_reading and GTF_writing, Xen's alone
)


class gnttab_map_grant_ref(Struct, size=32):
    """Map a granted frame at `host_addr`."""

    host_addr: u64  # IN: virtual address, or machine address of a PTE (contains_pte)
    flags: u32  # IN: GNTMAP_*
    ref: grant_ref_t  # IN
    dom: domid_t  # IN: the granter
    status: i16  # OUT: GNTST_*
    handle: grant_handle_t  # OUT: names the mapping for unmapping
    dev_bus_addr: u64  # OUT: machine address


class gnttab_unmap_grant_ref(Struct, size=24):
    """Undo one mapping."""

    host_addr: u64  # IN: as mapped, 0 to leave the host mapping
    dev_bus_addr: u64  # IN: as returned, 0 to leave the device mapping
    handle: grant_handle_t  # IN
    status: i16  # OUT: GNTST_*


class gnttab_setup_table(Struct, size=24):
    """Give a domain's grant table `nr_frames` frames and list them."""

    dom: domid_t  # IN
    nr_frames: u32  # IN
    status: i16  # OUT: GNTST_*
    frame_list: XEN_GUEST_HANDLE  # OUT: array of Pfn (Mfn for a PV guest)


class gnttab_dump_table(Struct, size=4):
    """Write a domain's grant table to the console, for debugging."""

    dom: domid_t  # IN
    status: i16  # OUT: GNTST_*


class gnttab_transfer(Struct, size=24):
    """Give a frame to a domain that granted a slot to accept it."""

    mfn: xen_pfn_t  # IN
    domid: domid_t  # IN
    ref: grant_ref_t  # IN
    status: i16  # OUT: GNTST_*


class gnttab_copy_ptr_u(Union, size=8):
    """`u` of gnttab_copy_ptr."""

    ref: grant_ref_t
    gmfn: xen_pfn_t


class gnttab_copy_ptr(Struct, size=16):
    """`source` of gnttab_copy."""

    u: gnttab_copy_ptr_u
    domid: domid_t
    offset: u16


class gnttab_copy(Struct, size=40):
    """Copy within one frame to within another; either side is a grant or a frame of one's own."""

    source: gnttab_copy_ptr  # IN
    dest: gnttab_copy_ptr  # IN
    len: u16  # IN: bytes
    flags: u16  # IN: GNTCOPY_*
    status: i16  # OUT: GNTST_*


class gnttab_query_size(Struct, size=16):
    """How large a domain's grant table is and may get."""

    dom: domid_t  # IN
    nr_frames: u32  # OUT
    max_nr_frames: u32  # OUT
    status: i16  # OUT: GNTST_*


class gnttab_unmap_and_replace(Struct, size=24):
    """Unmap and put another mapping's frame in its place in one step."""

    host_addr: u64  # IN
    new_addr: u64  # IN: whose mapping moves to host_addr
    handle: grant_handle_t  # IN
    status: i16  # OUT: GNTST_*


class gnttab_set_version(Struct, size=4):
    """Choose the table's version."""

    version: u32  # IN and OUT


class gnttab_get_status_frames(Struct, size=16):
    """List the status frames of a version 2 table."""

    nr_frames: u32  # IN
    dom: domid_t  # IN
    status: i16  # OUT: GNTST_*
    frame_list: XEN_GUEST_HANDLE  # OUT


class gnttab_get_version(Struct, size=8):
    """Which version a domain's table has."""

    dom: domid_t  # IN
    pad: u16
    version: u32  # OUT


class gnttab_swap_grant_ref(Struct, size=12):
    """Exchange two entries of one's own table."""

    ref_a: grant_ref_t  # IN
    ref_b: grant_ref_t  # IN
    status: i16  # OUT: GNTST_*


class gnttab_cache_flush_a(Union, size=8):
    """`a` of gnttab_cache_flush."""

    dev_bus_addr: u64
    ref: grant_ref_t


class gnttab_cache_flush(Struct, size=16):
    """Clean or invalidate data caches of a granted range; for ARM."""

    a: gnttab_cache_flush_a
    offset: u16
    length: u16
    op: u32
