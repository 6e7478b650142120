"""What Xen says about itself. Source: Xen public/version.h."""

from enum import IntEnum
from typing import Annotated, Final

from hypervisor.public.layout import Struct, u32
from hypervisor.public.types import xen_ulong_t


class XenVersion(IntEnum):
    """First argument of xen_version; version, pagesize and guest_handle answer by the result."""

    XENVER_version = 0
    XENVER_extraversion = 1
    XENVER_compile_info = 2
    XENVER_capabilities = 3
    XENVER_changeset = 4
    XENVER_platform_parameters = 5
    XENVER_get_features = 6
    XENVER_pagesize = 7
    XENVER_guest_handle = 8
    XENVER_commandline = 9
    XENVER_build_id = 10


(
    XENVER_version, XENVER_extraversion, XENVER_compile_info, XENVER_capabilities, XENVER_changeset,
    XENVER_platform_parameters, XENVER_get_features, XENVER_pagesize, XENVER_guest_handle,
    XENVER_commandline, XENVER_build_id,
) = XenVersion.__members__.values()  # fmt: skip

XEN_EXTRAVERSION_LEN: Final = 16
XEN_CAPABILITIES_INFO_LEN: Final = 1024
XEN_CHANGESET_INFO_LEN: Final = 64
XEN_COMMANDLINE_LEN: Final = 1024  # of xen_commandline_t; Xen has no name for it


class xen_compile_info(Struct, size=144):
    """XENVER_compile_info, all OUT: four NUL-terminated strings."""

    compiler: Annotated[bytes, 64]
    compile_by: Annotated[bytes, 16]
    compile_domain: Annotated[bytes, 32]
    compile_date: Annotated[bytes, 32]


class xen_platform_parameters(Struct, size=8):
    """XENVER_platform_parameters."""

    virt_start: xen_ulong_t  # OUT: VAddr where Xen's part of the address space begins


class xen_feature_info(Struct, size=8):
    """XENVER_get_features."""

    submap_idx: u32  # IN: which 32 of the features
    submap: u32  # OUT: bit n: feature 32 * submap_idx + n (XENFEAT_*)


class xen_build_id(Struct, size=4):
    """XENVER_build_id: the header; `len` bytes follow it (`buf`)."""

    len: u32  # IN: room; OUT: length
