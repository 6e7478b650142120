"""xen_version: what this Xen is and can do (Xen common/kernel.c, public/version.h)."""

from __future__ import annotations

from typing import Final

from hypervisor.domain.domain import Kind
from hypervisor.hypercalls.call import Call, Result, SubOp
from hypervisor.public.arch_x86 import xen_x86_32, xen_x86_64
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.features import (
    XENFEAT_auto_translated_physmap,
    XENFEAT_dom0,
    XENFEAT_gnttab_map_avail_bits,
    XENFEAT_highmem_assist,
    XENFEAT_hvm_callback_vector,
    XENFEAT_hvm_safe_pvclock,
    XENFEAT_memory_op_vnode_supported,
    XENFEAT_mmu_pt_update_preserve_ad,
    XENFEAT_pae_pgdir_above_4gb,
    XENFEAT_writable_page_tables,
)
from hypervisor.public.types import PAGE_SIZE
from hypervisor.public.version import (
    XEN_CAPABILITIES_INFO_LEN,
    XEN_CHANGESET_INFO_LEN,
    XEN_COMMANDLINE_LEN,
    XEN_EXTRAVERSION_LEN,
    XENVER_build_id,
    XENVER_capabilities,
    XENVER_changeset,
    XENVER_commandline,
    XENVER_compile_info,
    XENVER_extraversion,
    XENVER_get_features,
    XENVER_guest_handle,
    XENVER_pagesize,
    XENVER_platform_parameters,
    XENVER_version,
    xen_compile_info,
    xen_feature_info,
    xen_platform_parameters,
)
from hypervisor.public.xen import VMASST_TYPE_pae_extended_cr3

XEN_MAJOR: Final = 4
XEN_MINOR: Final = 17
EXTRAVERSION: Final = ".0-xenoscope"
CAPABILITIES: Final = "xen-3.0-x86_64 xen-3.0-x86_32p hvm-3.0-x86_32 hvm-3.0-x86_32p hvm-3.0-x86_64 "
NR_SUBMAPS: Final = 1
VIRT_START: Final = {
    Kind.PV64: xen_x86_64.HYPERVISOR_VIRT_START,
    Kind.PV32: xen_x86_32.HYPERVISOR_VIRT_START,
    Kind.HVM: 0,
}
"""Where the hypervisor's addresses begin in a guest."""
OF_PV: Final = (XENFEAT_mmu_pt_update_preserve_ad, XENFEAT_highmem_assist, XENFEAT_gnttab_map_avail_bits)
OF_HVM: Final = (
    XENFEAT_writable_page_tables,
    XENFEAT_auto_translated_physmap,
    XENFEAT_hvm_callback_vector,
    XENFEAT_hvm_safe_pvclock,
)
"""Features by kind of guest."""


def _string(call: Call, text: str, size: int) -> Result:
    data = text.encode()[: size - 1]
    call.copy_to_guest(call.args[1], data + bytes(size - len(data)))
    return 0


def _version(call: Call) -> Result:
    return XEN_MAJOR << 16 | XEN_MINOR


def _compile_info(call: Call) -> Result:
    info = xen_compile_info(
        compiler=b"CPython", compile_by=b"xenoscope", compile_domain=b"", compile_date=b""
    )
    call.write(call.args[1], info)
    return 0


def _platform_parameters(call: Call) -> Result:
    call.write(call.args[1], xen_platform_parameters(virt_start=VIRT_START[call.domain.kind]))
    return 0


def _get_features(call: Call) -> Result:
    info = call.read(call.args[1], xen_feature_info)
    if info.submap_idx >= NR_SUBMAPS:
        raise XenError(Errno.EINVAL, f"feature submap {info.submap_idx}")
    features = [XENFEAT_memory_op_vnode_supported, *(OF_HVM if call.domain.is_hvm else OF_PV)]
    if call.domain.kind is Kind.PV32 and call.domain.vm_assist >> VMASST_TYPE_pae_extended_cr3 & 1:
        features.append(XENFEAT_pae_pgdir_above_4gb)
    if call.domain.privileged:
        features.append(XENFEAT_dom0)
    info.submap = sum(1 << int(feature) for feature in features)
    call.write(call.args[1], info)
    return 0


def _pagesize(call: Call) -> Result:
    return PAGE_SIZE


def _guest_handle(call: Call) -> Result:
    call.copy_to_guest(call.args[1], call.domain.handle)
    return 0


def _commandline(call: Call) -> Result:
    """Xen's own command line is the control domain's to see; others get a denial as Xen words it."""
    return _string(call, "" if call.domain.privileged else "<denied>", XEN_COMMANDLINE_LEN)


def _build_id(call: Call) -> Result:
    """There is none: no linker made this Xen. ENODATA as a Xen built without one."""
    raise XenError(Errno.ENODATA, "no build id")


VERSION_OPS: Final[dict[int, SubOp]] = {
    XENVER_version: _version,
    XENVER_extraversion: lambda call: _string(call, EXTRAVERSION, XEN_EXTRAVERSION_LEN),
    XENVER_compile_info: _compile_info,
    XENVER_capabilities: lambda call: _string(call, CAPABILITIES, XEN_CAPABILITIES_INFO_LEN),
    XENVER_changeset: lambda call: _string(call, "", XEN_CHANGESET_INFO_LEN),
    XENVER_platform_parameters: _platform_parameters,
    XENVER_get_features: _get_features,
    XENVER_pagesize: _pagesize,
    XENVER_guest_handle: _guest_handle,
    XENVER_commandline: _commandline,
    XENVER_build_id: _build_id,
}


def do_xen_version(call: Call) -> Result:
    """What this Xen is and can do. ENOSYS: no such question."""
    op = VERSION_OPS.get(call.args[0])
    if op is None:
        raise XenError(Errno.ENOSYS, f"xen_version {call.args[0]}")
    return op(call)
