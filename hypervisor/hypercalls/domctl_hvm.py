"""domctl's operations on an HVM domain's saved state: its vCPUs' registers (Xen arch/x86/domctl.c, common/hvm/save.c)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hypervisor.domain.domain import Domain
from hypervisor.domain.hvm import load_state, saved_state
from hypervisor.hypercalls.call import Call, Continue, Result
from hypervisor.public.arch_x86.hvm.save import hvm_hw_cpu
from hypervisor.public.domctl import XEN_DOMCTL_gethvmcontext, XEN_DOMCTL_sethvmcontext, xen_domctl
from hypervisor.public.errno import Errno, XenError

MAX_STATE: Final = 64 * (hvm_hw_cpu.sizeof + 64)
"""Bytes of saved state that are looked at."""


def _require_stopped_hvm(call: Call, target: Domain) -> None:
    if target is call.domain or not target.is_hvm:
        raise XenError(Errno.EINVAL, f"d{target.domid} is no HVM domain, or is the caller")
    if not target.tool_pauses:
        raise XenError(Errno.EINVAL, f"V3: d{target.domid} is not paused by its toolstack")


def do_sethvmcontext(call: Call, op: xen_domctl, target: Domain) -> Result:
    """The registers of vCPUs of a paused domain."""
    _require_stopped_hvm(call, target)
    state = op.u.hvmcontext
    if state.size > MAX_STATE:
        raise XenError(Errno.EINVAL, f"a saved state of {state.size} bytes")
    load_state(target, call.copy_from_guest(state.buffer, state.size))
    return 0


def do_gethvmcontext(call: Call, op: xen_domctl, target: Domain) -> Result:
    """The registers of a paused domain's vCPUs; without a buffer, how many bytes they take. ENOSPC: the buffer is too small."""
    _require_stopped_hvm(call, target)
    if not all(call.hv.saving.save_context(vcpu) for vcpu in target.vcpus if vcpu.initialised):
        return Continue(call.args)
    raw, state = saved_state(target.vcpus), op.u.hvmcontext
    if state.buffer:
        if state.size < len(raw):
            raise XenError(Errno.ENOSPC, f"{len(raw)} bytes do not fit into {state.size}")
        call.copy_to_guest(state.buffer, raw)
    state.size = len(raw)
    op.u.hvmcontext = state
    call.write(call.args[0], op)
    return 0


HVM_DOMCTLS: Final[dict[int, Callable[[Call, xen_domctl, Domain], Result]]] = {
    XEN_DOMCTL_sethvmcontext: do_sethvmcontext,
    XEN_DOMCTL_gethvmcontext: do_gethvmcontext,
}
