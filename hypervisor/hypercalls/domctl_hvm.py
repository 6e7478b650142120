"""domctl's operations on an HVM domain's saved state (Xen arch/x86/domctl.c, arch/x86/hvm/save.c)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hypervisor.domain.domain import Domain
from hypervisor.domain.hvm import MAX_RECORDS, WRITERS, load_state, saved_records, saved_state
from hypervisor.hypercalls.call import Call, Continue, Result
from hypervisor.public.arch_x86.hvm.save import hvm_save_header
from hypervisor.public.domctl import (
    XEN_DOMCTL_gethvmcontext,
    XEN_DOMCTL_gethvmcontext_partial,
    XEN_DOMCTL_sethvmcontext,
    xen_domctl,
)
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.hvm.save import hvm_save_descriptor

MAX_STATE: Final = 1 << 20
"""Bytes of saved state that are looked at."""


def _require_hvm(call: Call, target: Domain) -> None:
    if target is call.domain or not target.is_hvm:
        raise XenError(Errno.EINVAL, f"d{target.domid} is no HVM domain, or is the caller")


def _is_saved(call: Call, target: Domain) -> bool:
    """Whether the state of the domain's vCPUs is here; else it is on its way. Xen pauses the domain for it: here it has to be
    stopped already. XenError(EINVAL).
    """
    if not (target.paused or target.is_shut_down):
        raise XenError(Errno.EINVAL, f"V3: d{target.domid} is not paused")
    return all(call.hv.saving.save_context(vcpu) for vcpu in target.vcpus if vcpu.initialised)


def do_sethvmcontext(call: Call, op: xen_domctl, target: Domain) -> Result:
    """The state of a paused domain's vCPUs."""
    _require_hvm(call, target)
    if not target.tool_pauses:
        raise XenError(Errno.EINVAL, f"V3: d{target.domid} is not paused by its toolstack")
    state = op.u.hvmcontext
    if state.size > MAX_STATE:
        raise XenError(Errno.ENOMEM, f"a saved state of {state.size} bytes")
    load_state(call.hv.clock, target, call.copy_from_guest(state.buffer, state.size))
    return 0


def do_gethvmcontext(call: Call, op: xen_domctl, target: Domain) -> Result:
    """The state of a stopped domain's vCPUs; without a buffer, how many bytes it takes at most. ENOSPC: the buffer is smaller."""
    _require_hvm(call, target)
    state, most = op.u.hvmcontext, most_bytes(target)
    if state.buffer:
        if state.size < most:
            raise XenError(Errno.ENOSPC, f"{most} bytes do not fit into {state.size}")
        if not _is_saved(call, target):
            return Continue(call.args)
        raw = saved_state(target.vcpus)
        call.copy_to_guest(state.buffer, raw)
        most = len(raw)
    state.size = most
    op.u.hvmcontext = state
    call.write(call.args[0], op)
    return 0


def most_bytes(target: Domain) -> int:
    """What a saved state takes at most."""
    head, nr_vcpus = hvm_save_descriptor.sizeof, len(target.vcpus)
    return 2 * head + hvm_save_header.sizeof + nr_vcpus * (len(WRITERS) * head + MAX_RECORDS)


def do_gethvmcontext_partial(call: Call, op: xen_domctl, target: Domain) -> Result:
    """One record's content; without a buffer, its length. EINVAL: no such record exists; ENOENT: of no such vCPU; ENODATA: that
    vCPU has none now; ENOBUFS: the buffer is smaller.
    """
    _require_hvm(call, target)
    wanted = op.u.hvmcontext_partial
    if wanted.type not in WRITERS:
        raise XenError(Errno.EINVAL, f"a record of type {wanted.type}")
    if wanted.instance >= len(target.vcpus):
        raise XenError(Errno.ENOENT, f"d{target.domid} has no vCPU {wanted.instance}")
    if not _is_saved(call, target):
        return Continue(call.args)
    found = [
        record.content
        for record in saved_records([target.vcpus[wanted.instance]])
        if record.typecode == wanted.type
    ]
    if not found:
        raise XenError(Errno.ENODATA, f"vCPU {wanted.instance} has no record of type {wanted.type}")
    if wanted.buffer:
        if wanted.bufsz < len(found[0]):
            raise XenError(Errno.ENOBUFS, f"{len(found[0])} bytes do not fit into {wanted.bufsz}")
        call.copy_to_guest(wanted.buffer, found[0])
    wanted.bufsz = len(found[0])
    op.u.hvmcontext_partial = wanted
    call.write(call.args[0], op)
    return 0


HVM_DOMCTLS: Final[dict[int, Callable[[Call, xen_domctl, Domain], Result]]] = {
    XEN_DOMCTL_sethvmcontext: do_sethvmcontext,
    XEN_DOMCTL_gethvmcontext: do_gethvmcontext,
    XEN_DOMCTL_gethvmcontext_partial: do_gethvmcontext_partial,
}
