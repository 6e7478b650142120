"""hvm_op: an HVM domain's parameters and what Xen tells its guest (Xen arch/x86/hvm/hvm.c, public/hvm/hvm_op.h)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hypervisor.domain.domain import Domain
from hypervisor.hypercalls.call import Call, Result
from hypervisor.hypercalls.outputs import write_outputs
from hypervisor.machine.paging import PAGE_RW
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.hvm.hvm_op import (
    HVMMEM_mmio_dm,
    HVMMEM_ram_ro,
    HVMMEM_ram_rw,
    HVMOP_flush_tlbs,
    HVMOP_get_mem_type,
    HVMOP_get_param,
    HVMOP_get_time,
    HVMOP_set_evtchn_upcall_vector,
    HVMOP_set_param,
    xen_hvm_evtchn_upcall_vector,
    xen_hvm_get_mem_type,
    xen_hvm_get_time,
    xen_hvm_param,
)
from hypervisor.public.hvm.params import (
    HVM_NR_PARAMS,
    HVM_PARAM_ACPI_IOPORTS_LOCATION,
    HVM_PARAM_ACPI_S_STATE,
    HVM_PARAM_ALTP2M,
    HVM_PARAM_BUFIOREQ_EVTCHN,
    HVM_PARAM_BUFIOREQ_PFN,
    HVM_PARAM_CALLBACK_IRQ,
    HVM_PARAM_CALLBACK_TYPE_VECTOR,
    HVM_PARAM_CONSOLE_EVTCHN,
    HVM_PARAM_CONSOLE_PFN,
    HVM_PARAM_DM_DOMAIN,
    HVM_PARAM_IOREQ_PFN,
    HVM_PARAM_MCA_CAP,
    HVM_PARAM_NESTEDHVM,
    HVM_PARAM_NR_IOREQ_SERVER_PAGES,
    HVM_PARAM_PAE_ENABLED,
    HVM_PARAM_STORE_EVTCHN,
    HVM_PARAM_STORE_PFN,
    HVM_PARAM_TIMER_MODE,
    HVM_PARAM_TRIPLE_FAULT_REASON,
    HVM_PARAM_VIRIDIAN,
    HVM_PARAM_X87_FIP_WIDTH,
)
from hypervisor.public.sched import SHUTDOWN_MAX
from hypervisor.wire.messages import CALLBACK_HVM_VECTOR, Effect

_TYPE_SHIFT: Final = 56
_FIRST_VECTOR: Final = 16
FOR_GUESTS: Final = frozenset(
    int(param)
    for param in (
        HVM_PARAM_CALLBACK_IRQ,
        HVM_PARAM_STORE_PFN,
        HVM_PARAM_STORE_EVTCHN,
        HVM_PARAM_CONSOLE_PFN,
        HVM_PARAM_CONSOLE_EVTCHN,
    )
)
"""What a guest may read of itself; it sets HVM_PARAM_CALLBACK_IRQ alone (Xen hvm_allow_get_param, hvm_allow_set_param)."""
DEPRECATED: Final = frozenset(
    {
        *(int(HVM_PARAM_PAE_ENABLED), int(HVM_PARAM_DM_DOMAIN), int(HVM_PARAM_NESTEDHVM)),
        *(int(HVM_PARAM_BUFIOREQ_EVTCHN), *range(20, 24), 25, 30),  # 20-23, 25, 30: HVM_PARAM_MEMORY_EVENT_*
    }
)
FOR_GOOD: Final = frozenset(
    int(param)
    for param in (
        HVM_PARAM_VIRIDIAN,
        HVM_PARAM_IOREQ_PFN,
        HVM_PARAM_BUFIOREQ_PFN,
        HVM_PARAM_NR_IOREQ_SERVER_PAGES,
        HVM_PARAM_MCA_CAP,
    )
)
"""What is set once; 0 is nothing set."""
VALUES: Final[dict[int, Callable[[int], bool]]] = {
    int(HVM_PARAM_TIMER_MODE): lambda value: value <= 3,  # HVMPTM_one_missed_tick_pending
    int(HVM_PARAM_VIRIDIAN): lambda value: value == 0,
    int(HVM_PARAM_ACPI_S_STATE): lambda value: value == 0,
    int(HVM_PARAM_ACPI_IOPORTS_LOCATION): lambda value: value <= 1,
    int(HVM_PARAM_TRIPLE_FAULT_REASON): lambda value: value <= SHUTDOWN_MAX,
    int(HVM_PARAM_ALTP2M): lambda value: value == 0,
    int(HVM_PARAM_X87_FIP_WIDTH): lambda value: value in (0, 4, 8),
    int(HVM_PARAM_MCA_CAP): lambda value: value == 0,
}
"""Which values those have that Xen looks at; what no domain here has (Viridian, S3, altp2m, LMCE) is not to be switched on."""


def _subject(call: Call, domid: int) -> Domain:
    """The HVM domain that a request names. XenError(EPERM, ESRCH; EINVAL: it is none)."""
    domain = call.target(domid)
    call.require_privilege_over(domain)
    if not domain.is_hvm:
        raise XenError(Errno.EINVAL, f"d{domain.domid} is no HVM domain")
    return domain


def _parameter(call: Call) -> tuple[Domain, xen_hvm_param]:
    request = call.read(call.args[1], xen_hvm_param)
    if request.index >= HVM_NR_PARAMS:
        raise XenError(Errno.EINVAL, f"there is no HVM parameter {request.index}")
    return _subject(call, request.domid), request


def do_set_param(call: Call) -> Result:
    """Give a domain a parameter. EPERM for a guest, but for the way events reach it; EINVAL: a parameter of old times, or a value
    that it cannot have; EEXIST: it has another one for good.
    """
    domain, request = _parameter(call)
    index, value = request.index, request.value
    if index in DEPRECATED:
        raise XenError(Errno.EINVAL, f"HVM parameter {index} is deprecated")
    if index == HVM_PARAM_CALLBACK_IRQ:
        _set_callback(domain, value, latch=domain is call.domain)
    elif domain is call.domain:
        raise XenError(Errno.EPERM, f"HVM parameter {index} is not the guest's to set")
    if index in FOR_GOOD and (domain.hvm_params.get(index) or value) != value:
        raise XenError(Errno.EEXIST, f"HVM parameter {index} is {domain.hvm_params[index]:#x} already")
    may_be = VALUES.get(index)
    if may_be is not None and not may_be(value):
        raise XenError(Errno.EINVAL, f"HVM parameter {index} cannot be {value:#x}")
    domain.hvm_params[index] = value
    return 0


def _set_callback(domain: Domain, value: int, *, latch: bool) -> None:
    """By which interrupt events reach the guest; 0: by none. XenError(EOPNOTSUPP): not by a vector, EINVAL: an exception's.

    `latch`: the guest itself asks, and its shared_info has the layout of the code that asks from now on (hvm_latch_shinfo_size).
    """
    kind, vector = value >> _TYPE_SHIFT, value & 0xFF
    if value and kind != HVM_PARAM_CALLBACK_TYPE_VECTOR:
        raise XenError(
            Errno.EOPNOTSUPP, f"events by an interrupt line ({value:#x}): there are no lines, use a vector"
        )
    if value and vector < _FIRST_VECTOR:
        raise XenError(Errno.EINVAL, f"events by vector {vector}")
    for vcpu in domain.vcpus:
        vector_here = vcpu.upcall_vector or vector
        vcpu.effects.append([Effect.CALLBACK, CALLBACK_HVM_VECTOR, vector_here, int(latch)])


def do_get_param(call: Call) -> Result:
    """A parameter's value, 0 if nobody set it. EPERM for a guest that asks for what is not its matter."""
    domain, request = _parameter(call)
    if domain is call.domain and request.index not in FOR_GUESTS:
        raise XenError(Errno.EPERM, f"HVM parameter {request.index} is not the guest's to read")
    request.value = domain.hvm_params.get(request.index, 0)
    write_outputs(call, call.args[1], request, "value")
    return 0


def do_set_evtchn_upcall_vector(call: Call) -> Result:
    """A vCPU's events come by a vector of its own, whatever the domain's is. EINVAL: an exception's; ENOENT: no such vCPU.

    It is raised as the domain's is: the guest's CPU takes it without its local APIC, whose end-of-interrupt is not waited for.
    """
    if not call.domain.is_hvm:
        raise XenError(Errno.EINVAL, f"d{call.domain.domid} is no HVM domain")
    request = call.read(call.args[1], xen_hvm_evtchn_upcall_vector)
    if request.vector < _FIRST_VECTOR:
        raise XenError(Errno.EINVAL, f"events by vector {request.vector}")
    if request.vcpu >= len(call.domain.vcpus):
        raise XenError(Errno.ENOENT, f"there is no vCPU {request.vcpu}")
    vcpu = call.domain.vcpus[request.vcpu]
    vcpu.upcall_vector = request.vector
    vcpu.effects.append([Effect.CALLBACK, CALLBACK_HVM_VECTOR, request.vector, 0])
    return 0


def do_flush_tlbs(call: Call) -> Result:
    """All vCPUs of the caller forget their translations. EINVAL: with an argument; EPERM: a PV guest."""
    if call.args[1]:
        raise XenError(Errno.EINVAL, "HVMOP_flush_tlbs takes no argument")
    if not call.domain.is_hvm:
        raise XenError(Errno.EPERM, f"d{call.domain.domid} is no HVM domain")
    call.hv.mmu.types.flush(call.domain.mem)
    return 0


def do_get_time(call: Call) -> Result:
    """System time, ns."""
    call.write(call.args[1], xen_hvm_get_time(now=call.hv.now()))
    return 0


def do_get_mem_type(call: Call) -> Result:
    """Whether there is memory at a guest frame, or (of a grant) what can only be read, or nothing, a device model's for Xen."""
    request = call.read(call.args[1], xen_hvm_get_mem_type)
    p2m = _subject(call, request.domid).mem.p2m
    assert p2m is not None
    read_only = p2m.granted(request.pfn) is not None and not p2m.entry(request.pfn) & PAGE_RW
    memory = HVMMEM_ram_rw if p2m.mfn(request.pfn) is not None else HVMMEM_mmio_dm
    request.mem_type = int(HVMMEM_ram_ro if read_only else memory)
    write_outputs(call, call.args[1], request, "mem_type")
    return 0


HVM_OPS: Final[dict[int, Callable[[Call], Result]]] = {
    HVMOP_set_param: do_set_param,
    HVMOP_get_param: do_get_param,
    HVMOP_flush_tlbs: do_flush_tlbs,
    HVMOP_get_time: do_get_time,
    HVMOP_get_mem_type: do_get_mem_type,
    HVMOP_set_evtchn_upcall_vector: do_set_evtchn_upcall_vector,
}


def do_hvm_op(call: Call) -> Result:
    """ENOSYS: no such operation, or not here."""
    op = HVM_OPS.get(call.args[0])
    if op is None:
        raise XenError(Errno.ENOSYS, f"hvm_op {call.args[0]}")
    return op(call)
