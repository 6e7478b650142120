"""Operations of an HVM guest, or on one: numbers and arguments of hvm_op.

Structures of device models, altp2m, memory access and tracing are left out. Source: Xen public/hvm/hvm_op.h.
"""

from enum import IntEnum
from typing import Annotated

from hypervisor.public.layout import Struct, u8, u16, u32, u64
from hypervisor.public.types import domid_t


class HvmOp(IntEnum):
    """First argument of hvm_op."""

    HVMOP_set_param = 0
    HVMOP_get_param = 1
    HVMOP_flush_tlbs = 5
    HVMOP_pagetable_dying = 9
    HVMOP_get_time = 10
    HVMOP_xentrace = 11
    HVMOP_get_mem_type = 15
    HVMOP_set_evtchn_upcall_vector = 23
    HVMOP_guest_request_vm_event = 24
    HVMOP_altp2m = 25


(
    HVMOP_set_param, HVMOP_get_param, HVMOP_flush_tlbs, HVMOP_pagetable_dying, HVMOP_get_time,
    HVMOP_xentrace, HVMOP_get_mem_type, HVMOP_set_evtchn_upcall_vector,
    HVMOP_guest_request_vm_event, HVMOP_altp2m,
) = HvmOp.__members__.values()  # fmt: skip


class HvmMemType(IntEnum):
    """`mem_type` of xen_hvm_get_mem_type."""

    HVMMEM_ram_rw = 0
    HVMMEM_ram_ro = 1
    HVMMEM_mmio_dm = 2


HVMMEM_ram_rw, HVMMEM_ram_ro, HVMMEM_mmio_dm = HvmMemType.__members__.values()


class xen_hvm_param(Struct, size=16):
    """HVMOP_set_param, HVMOP_get_param."""

    domid: domid_t  # IN
    pad: u16
    index: u32  # IN: HVM_PARAM_*
    value: u64  # IN or OUT


class xen_hvm_get_time(Struct, size=8):
    """HVMOP_get_time."""

    now: u64  # OUT: system time, ns


class xen_hvm_get_mem_type(Struct, size=16):
    """HVMOP_get_mem_type."""

    domid: domid_t  # IN
    mem_type: u16  # OUT: HVMMEM_*
    pad: Annotated[tuple[u16, ...], 2]
    pfn: u64  # IN


class xen_hvm_evtchn_upcall_vector(Struct, size=8):
    """HVMOP_set_evtchn_upcall_vector."""

    vcpu: u32  # IN
    vector: u8  # IN
