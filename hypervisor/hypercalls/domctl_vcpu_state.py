"""domctl on what a vCPU's state has beyond vcpu_guest_context: two more entry points, extended CPU state, MSRs.

    get_ext_vcpucontext, set_ext_vcpucontext   the entries for SYSCALL and SYSENTER of 32-bit code
    getvcpuextstate, setvcpuextstate           what XSAVE saves: nothing, for the emulated CPU has no XSAVE; SSE is in the context
    get_vcpu_msrs, set_vcpu_msrs               no PV guest has an MSR that holds state of its own

Source: Xen arch/x86/domctl.c.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hypervisor.domain.domain import Domain, Vcpu
from hypervisor.hypercalls.call import Call, Result
from hypervisor.hypercalls.callbacks import OF_EXTENDED_CONTEXT
from hypervisor.machine.descriptor_window import guest_selector
from hypervisor.machine.paging import is_canonical
from hypervisor.public.callback import CALLBACKF_mask_events
from hypervisor.public.domctl import (
    XEN_DOMCTL_get_ext_vcpucontext,
    XEN_DOMCTL_get_vcpu_msrs,
    XEN_DOMCTL_getvcpuextstate,
    XEN_DOMCTL_set_ext_vcpucontext,
    XEN_DOMCTL_set_vcpu_msrs,
    XEN_DOMCTL_setvcpuextstate,
    xen_domctl,
)
from hypervisor.public.domctl_vcpu import xen_domctl_ext_vcpucontext
from hypervisor.public.errno import Errno, XenError
from hypervisor.wire.messages import Effect

NAMES: Final = {int(kind): kind.name.removeprefix("CALLBACKTYPE_") for kind in OF_EXTENDED_CONTEXT}
"""By callback type: how the fields of its entry point begin."""
LEAST_SIZE: Final = xen_domctl_ext_vcpucontext.offsetof("vmce")
"""Bytes of the argument up to the machine check state, of which there is none."""
Handler = Callable[[Call, xen_domctl, Domain], Result]


def do_get_ext_vcpucontext(call: Call, op: xen_domctl, target: Domain) -> Result:
    """The entry points that a PV guest has registered. EINVAL: no such vCPU; EOPNOTSUPP: an HVM domain."""
    told = op.u.ext_vcpucontext
    vcpu = _vcpu(target, told.vcpu)
    for kind, name in NAMES.items():
        _, _, address, flags, *cs = vcpu.extended_callbacks.get(kind, [Effect.CALLBACK, kind, 0, 0])
        setattr(told, f"{name}_callback_eip", address)
        setattr(told, f"{name}_callback_cs", cs[0] if cs else 0)
        setattr(told, f"{name}_disables_events", int(bool(flags)))
    told.size = xen_domctl_ext_vcpucontext.sizeof
    op.u.ext_vcpucontext = told
    call.write(call.args[0], op)
    return 0


def do_set_ext_vcpucontext(call: Call, op: xen_domctl, target: Domain) -> Result:
    """Give a vCPU of a paused PV domain its entry points. EINVAL: no such vCPU, the domain is not paused, the argument is too
    short, or an address is not canonical (D4); EOPNOTSUPP: an HVM domain.
    """
    given = op.u.ext_vcpucontext
    vcpu = _vcpu(target, given.vcpu)
    if not target.tool_pauses:
        raise XenError(Errno.EINVAL, f"V3: d{target.domid} is not paused by its toolstack")
    if given.size < LEAST_SIZE:
        raise XenError(Errno.EINVAL, f"an extended context of {given.size} bytes")
    effects = {kind: _entry(given, kind, name, target) for kind, name in NAMES.items()}
    for kind, effect in effects.items():
        if effect[2] or kind in vcpu.extended_callbacks:
            vcpu.extended_callbacks[kind] = effect
            vcpu.effects.append(effect)
    return 0


def _entry(given: xen_domctl_ext_vcpucontext, kind: int, name: str, target: Domain) -> list[int]:
    address = getattr(given, f"{name}_callback_eip")
    if not is_canonical(address):
        raise XenError(Errno.EINVAL, f"D4: {name} entry {address:#x} is not canonical")
    masks = int(CALLBACKF_mask_events) if getattr(given, f"{name}_disables_events") else 0
    cs = guest_selector(getattr(given, f"{name}_callback_cs"), target.mem.rules.kernel_rpl)
    return [Effect.CALLBACK, kind, address, masks, *([cs] if target.abi.address_size == 32 else [])]


def do_getvcpuextstate(call: Call, op: xen_domctl, target: Domain) -> Result:
    """There is none: no features, no bytes. EINVAL: no such vCPU."""
    told = op.u.vcpuextstate
    _vcpu(target, told.vcpu)
    told.xfeature_mask = told.size = 0
    op.u.vcpuextstate = told
    call.write(call.args[0], op)
    return 0


def do_setvcpuextstate(_call: Call, op: xen_domctl, target: Domain) -> Result:
    """EOPNOTSUPP: the emulated CPU has no XSAVE. EINVAL: no such vCPU."""
    _vcpu(target, op.u.vcpuextstate.vcpu)
    raise XenError(Errno.EOPNOTSUPP, "the emulated CPU has no XSAVE")


def do_get_vcpu_msrs(call: Call, op: xen_domctl, target: Domain) -> Result:
    """There are none. EINVAL: no such vCPU."""
    told = op.u.vcpu_msrs
    _vcpu(target, told.vcpu)
    told.msr_count = 0
    op.u.vcpu_msrs = told
    call.write(call.args[0], op)
    return 0


def do_set_vcpu_msrs(_call: Call, op: xen_domctl, target: Domain) -> Result:
    """EINVAL: no such vCPU, or any MSR is given."""
    _vcpu(target, op.u.vcpu_msrs.vcpu)
    if op.u.vcpu_msrs.msr_count:
        raise XenError(Errno.EINVAL, "a PV vCPU has no MSRs with state of their own")
    return 0


def _vcpu(target: Domain, vcpu_id: int) -> Vcpu:
    if target.is_hvm:
        raise XenError(Errno.EOPNOTSUPP, f"d{target.domid} is an HVM domain")
    if vcpu_id >= len(target.vcpus):
        raise XenError(Errno.EINVAL, f"d{target.domid} has no vCPU {vcpu_id}")
    return target.vcpus[vcpu_id]


VCPU_STATE_DOMCTLS: Final[dict[int, Handler]] = {
    XEN_DOMCTL_get_ext_vcpucontext: do_get_ext_vcpucontext,
    XEN_DOMCTL_set_ext_vcpucontext: do_set_ext_vcpucontext,
    XEN_DOMCTL_getvcpuextstate: do_getvcpuextstate,
    XEN_DOMCTL_setvcpuextstate: do_setvcpuextstate,
    XEN_DOMCTL_get_vcpu_msrs: do_get_vcpu_msrs,
    XEN_DOMCTL_set_vcpu_msrs: do_set_vcpu_msrs,
}
