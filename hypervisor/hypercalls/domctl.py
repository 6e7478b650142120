"""domctl: the control domain's hypercall on one domain (Xen common/domctl.c). Permission comes before everything else (V1).

What the operations do lives in hypervisor/domain/; here they are decoded. The answer goes back into the argument.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hypervisor.domain.compat import switch_compat
from hypervisor.domain.context import check_context, install_context, shown_context
from hypervisor.domain.domain import Domain, Life, Vcpu
from hypervisor.domain.info import domain_info
from hypervisor.domain.lifecycle import MAX_VCPUS, Limits, begin_destroy, create_domain
from hypervisor.grants.grant_table import (
    DEFAULT_GRANT_FRAMES,
    DEFAULT_MAPTRACK_FRAMES,
    MAX_GRANT_VERSION,
    GrantLimits,
)
from hypervisor.hypercalls.call import Call, Continue, Result
from hypervisor.hypercalls.domctl_cpu import CPU_DOMCTLS
from hypervisor.hypercalls.domctl_hvm import HVM_DOMCTLS
from hypervisor.hypercalls.domctl_memory import MEMORY_OPS
from hypervisor.hypercalls.domctl_paging import PAGING_DOMCTLS
from hypervisor.hypercalls.domctl_sched import SCHED_DOMCTLS
from hypervisor.hypercalls.domctl_trigger import do_sendtrigger
from hypervisor.hypercalls.domctl_vcpu_state import VCPU_STATE_DOMCTLS
from hypervisor.hypercalls.hypercall_page import HYPERCALL_PAGES
from hypervisor.machine.frame_types import PGT
from hypervisor.public.arch_x86.xen import XEN_X86_EMU_LAPIC, vcpu_guest_context
from hypervisor.public.domctl import (
    XEN_DOMCTL_INTERFACE_VERSION,
    XEN_DOMCTL_CDF_hap,
    XEN_DOMCTL_CDF_hvm,
    XEN_DOMCTL_createdomain,
    XEN_DOMCTL_destroydomain,
    XEN_DOMCTL_get_address_size,
    XEN_DOMCTL_getdomaininfo,
    XEN_DOMCTL_getvcpucontext,
    XEN_DOMCTL_GRANT_version_mask,
    XEN_DOMCTL_hypercall_init,
    XEN_DOMCTL_iomem_permission,
    XEN_DOMCTL_ioport_permission,
    XEN_DOMCTL_irq_permission,
    XEN_DOMCTL_max_vcpus,
    XEN_DOMCTL_pausedomain,
    XEN_DOMCTL_resumedomain,
    XEN_DOMCTL_scheduler_op,
    XEN_DOMCTL_sendtrigger,
    XEN_DOMCTL_set_address_size,
    XEN_DOMCTL_set_ext_vcpucontext,
    XEN_DOMCTL_set_paging_mempool_size,
    XEN_DOMCTL_set_virq_handler,
    XEN_DOMCTL_setdomainhandle,
    XEN_DOMCTL_sethvmcontext,
    XEN_DOMCTL_setvcpuaffinity,
    XEN_DOMCTL_setvcpucontext,
    XEN_DOMCTL_shadow_op,
    XEN_DOMCTL_unpausedomain,
    xen_domctl,
    xen_domctl_createdomain,
)
from hypervisor.public.domctl_domain import XENOSCOPE_CDF_python
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.types import DomId, Mfn
from hypervisor.public.xen import DOMID_FIRST_RESERVED, DOMID_SELF
from hypervisor.wire.mailbox import Engine

DomctlHandler = Callable[[Call, xen_domctl, Domain], Result]
MAX_GRANT_FRAMES: Final = 256
MAX_MAPTRACK_FRAMES: Final = 4096


def do_createdomain(call: Call, op: xen_domctl) -> Result:
    """A new, paused domain; its id goes back in op.domain."""
    config, hv = op.u.createdomain, call.hv
    engine = engine_for(config)
    if config.max_vcpus == 0 or config.max_vcpus > MAX_VCPUS:
        raise XenError(Errno.EINVAL, f"a domain has 1 to {MAX_VCPUS} vCPUs, not {config.max_vcpus}")
    domid = op.domain
    if domid == 0 or domid in hv.domains:
        raise XenError(Errno.EEXIST, f"there is a domain {domid} already")
    if domid >= DOMID_FIRST_RESERVED:
        domid = hv.free_domid()
    grant_version = config.grant_opts & XEN_DOMCTL_GRANT_version_mask
    if not 1 <= grant_version <= MAX_GRANT_VERSION:
        raise XenError(Errno.EINVAL, f"there is no grant table version {grant_version}")
    limits = Limits(
        config.max_vcpus,
        min(config.max_evtchn_port, 0x7FFF_FFFF),
        GrantLimits(
            _limit(config.max_grant_frames, DEFAULT_GRANT_FRAMES, MAX_GRANT_FRAMES),
            _limit(config.max_maptrack_frames, DEFAULT_MAPTRACK_FRAMES, MAX_MAPTRACK_FRAMES),
            grant_version,
        ),
    )
    pool = hv.run.pool_control.pools.by_id.get(config.cpupool_id)
    if pool is None or not pool.cpus:
        raise XenError(
            Errno.ESRCH if pool is None else Errno.ENODEV, f"CPU pool {config.cpupool_id} has no CPU for it"
        )
    create_domain(hv, DomId(domid), handle=bytes(config.handle), limits=limits, engine=engine)
    hv.run.pool_control.move_domain(domid, pool, hv.now())
    op.domain = DomId(domid)
    call.write(call.args[0], op)
    return 0


def engine_for(config: xen_domctl_createdomain) -> Engine:
    """Which CPU a domain's process plays. XenError(EINVAL, EOPNOTSUPP): flags that nothing here answers to."""
    flags = config.flags
    if not flags & (XEN_DOMCTL_CDF_hvm | XEN_DOMCTL_CDF_hap):
        return Engine.PYTHON if flags & XENOSCOPE_CDF_python else Engine.X86_64
    if not flags & XEN_DOMCTL_CDF_hvm or flags & XENOSCOPE_CDF_python:
        raise XenError(Errno.EINVAL, "only an HVM domain of machine code has nested paging")
    if config.arch.emulation_flags != XEN_X86_EMU_LAPIC:
        raise XenError(
            Errno.EINVAL, f"devices {config.arch.emulation_flags:#x}: PVH domains have the local APIC alone"
        )
    return Engine.X86_64_NESTED if flags & XEN_DOMCTL_CDF_hap else Engine.X86_64_SHADOW


def _limit(asked: int, default: int, most: int) -> int:
    if asked > most:
        raise XenError(Errno.EINVAL, f"{asked} frames are more than {most}")
    return default if asked < 0 else asked


def do_destroydomain(call: Call, _op: xen_domctl, target: Domain) -> Result:
    """Goes on in portions until the domain's memory is taken apart; what its process still holds follows (K2, K4)."""
    if target is call.domain:
        raise XenError(Errno.EINVAL, "K1: a domain cannot destroy itself")
    begin_destroy(call.hv, target)
    return _go_on_destroying(call, target)


def _go_on_destroying(call: Call, target: Domain) -> Result:
    """The domain itself is what the continuation is about: it may be gone by then, and its id another's."""
    return Continue(call.args, target) if target.destroying else 0


def do_pausedomain(call: Call, _op: xen_domctl, target: Domain) -> Result:
    """Stops the domain's vCPUs until as many unpauses as pauses. EINVAL for the caller itself."""
    if target is call.domain:
        raise XenError(Errno.EINVAL, "V3: a domain cannot pause itself")
    call.hv.run.domain_pause(target)
    target.tool_pauses += 1
    return 0


def do_unpausedomain(call: Call, _op: xen_domctl, target: Domain) -> Result:
    """Undoes one pause of the toolstack; the last one lets the vCPUs run. EINVAL without a pause."""
    if target.tool_pauses == 0:
        raise XenError(Errno.EINVAL, f"V3: d{target.domid} is not paused")
    target.tool_pauses -= 1
    call.hv.run.domain_unpause(target)
    return 0


def do_resumedomain(call: Call, _op: xen_domctl, target: Domain) -> Result:
    """A domain that shut down to suspend runs on; its suspend is answered 1 (on Xen the toolstack writes that answer)."""
    if target is call.domain:
        raise XenError(Errno.EINVAL, "a domain cannot resume itself")
    call.hv.run.domain_resume(target)
    return 0


def do_getdomaininfo(call: Call, op: xen_domctl, target: Domain) -> Result:
    """Flags, pages, vCPUs and CPU time of one domain."""
    op.u.getdomaininfo = domain_info(call.hv, target)
    op.domain = target.domid
    call.write(call.args[0], op)
    return 0


def do_max_vcpus(call: Call, op: xen_domctl, target: Domain) -> Result:
    """createdomain made the vCPUs already: only that number is accepted, as on Xen since 4.13 (V3). EINVAL for the caller."""
    if target is call.domain:
        raise XenError(Errno.EINVAL, "V3: a domain cannot give itself vCPUs")
    if op.u.max_vcpus.max != len(target.vcpus):
        raise XenError(Errno.EINVAL, f"V3: d{target.domid} was created with {len(target.vcpus)} vCPUs")
    return 0


def do_setvcpucontext(call: Call, op: xen_domctl, target: Domain) -> Result:
    """The registers of a vCPU of a paused domain (V3); a null pointer resets it, which needs it never to have run."""
    vcpu = _vcpu(target, op.u.vcpucontext.vcpu)
    _require_pv(target)
    if not target.tool_pauses:
        raise XenError(Errno.EINVAL, f"V3: d{target.domid} is not paused by its toolstack")
    if op.u.vcpucontext.ctxt == 0:
        raise XenError(Errno.EOPNOTSUPP, "resetting a vCPU is not implemented")
    size = target.abi.sizeof(vcpu_guest_context)
    context = check_context(target, call.copy_from_guest(op.u.vcpucontext.ctxt, size))
    install_context(call.hv, vcpu, context, call.budget)
    return 0


def do_getvcpucontext(call: Call, op: xen_domctl, target: Domain) -> Result:
    """The registers of a stopped vCPU. While its process still executes guest code the call goes on; it is
    asked to stop first."""
    vcpu = _vcpu(target, op.u.vcpucontext.vcpu)
    _require_pv(target)
    if not vcpu.initialised:
        raise XenError(Errno.ENODATA, f"vCPU {vcpu.vcpu_id} has no context")
    if vcpu.domain is call.domain or not target.paused:
        raise XenError(Errno.EINVAL, f"V3: d{target.domid} is not paused")
    if not call.hv.saving.save_context(vcpu):
        return Continue(call.args)
    call.copy_to_guest(op.u.vcpucontext.ctxt, shown_context(vcpu))
    return 0


def do_setdomainhandle(_call: Call, op: xen_domctl, target: Domain) -> Result:
    """Gives the domain its 16-byte handle, the toolstack's UUID."""
    target.handle = bytes(op.u.setdomainhandle.handle)
    for vcpu in target.vcpus:
        vcpu.unit.handle = target.handle
    return 0


def do_set_address_size(call: Call, op: xen_domctl, target: Domain) -> Result:
    """Choose the width of a guest that has no memory yet. XenError(EINVAL, EACCES, ENOMEM)."""
    size = op.u.address_size.size
    if size == target.mem.rules.address_size and not target.is_hvm:
        return 0
    if size != 32:
        raise XenError(Errno.EINVAL, f"d{target.domid}: addresses of {size} bits")
    switch_compat(call.hv, target)
    return 0


def do_get_address_size(call: Call, op: xen_domctl, target: Domain) -> Result:
    """The width of the guest's addresses, in bits."""
    size = op.u.address_size
    size.size = target.abi.address_size
    op.u.address_size = size
    call.write(call.args[0], op)
    return 0


def do_hypercall_init(call: Call, op: xen_domctl, target: Domain) -> Result:
    """Fill a frame of the domain with hypercall stubs, 32 bytes each (X5's rule for the frame)."""
    _require_pv(target)
    mfn = Mfn(op.u.hypercall_init.gmfn)
    call.hv.mmu.types.get_page_and_type(mfn, target.domid, PGT.writable_page)
    try:
        call.hv.memory.write(mfn << 12, HYPERCALL_PAGES[target.kind]())
    finally:
        call.hv.mmu.types.put_page_and_type(mfn)
    return 0


def do_set_virq_handler(call: Call, op: xen_domctl, target: Domain) -> Result:
    """Lets the domain bind this global VIRQ in Dom0's place."""
    call.hv.virqs.set_handler(op.u.set_virq_handler.virq, target.events)
    return 0


def _permission(kind: str, first: int, count: int, allow: int, target: Domain) -> Result:
    if count > 1 << 20 or first + count > 1 << 40:
        raise XenError(Errno.EINVAL, f"{kind} range {first:#x}+{count:#x}")
    if kind == "irq" and first >= 256:
        raise XenError(Errno.EINVAL, f"there is no irq {first}")
    key = (kind, first, count)
    (target.permissions.add if allow else target.permissions.discard)(key)
    return 0


def do_irq_permission(_call: Call, op: xen_domctl, target: Domain) -> Result:
    """Allows or forbids the domain to bind this physical interrupt."""
    irq = op.u.irq_permission
    _permission("irq", irq.pirq, 1, irq.allow_access, target)
    permitted = target.events.permitted_pirqs
    (permitted.add if irq.allow_access else permitted.discard)(irq.pirq)
    return 0


def do_iomem_permission(_call: Call, op: xen_domctl, target: Domain) -> Result:
    """Recorded; no machine frame of this machine is a device's, so it grants nothing to map (P5)."""
    iomem = op.u.iomem_permission
    return _permission("iomem", iomem.first_mfn, iomem.nr_mfns, iomem.allow_access, target)


def do_ioport_permission(_call: Call, op: xen_domctl, target: Domain) -> Result:
    """Allows or forbids I/O ports; there are none to give. EINVAL above port 65535."""
    ports = op.u.ioport_permission
    if ports.first_port + ports.nr_ports > 65536:
        raise XenError(Errno.EINVAL, "an I/O port above 65535")
    return _permission("ioport", ports.first_port, ports.nr_ports, ports.allow_access, target)


def _require_pv(target: Domain) -> None:
    if target.is_hvm:
        raise XenError(Errno.EOPNOTSUPP, f"d{target.domid} is an HVM domain")


def _vcpu(target: Domain, vcpu_id: int) -> Vcpu:
    if vcpu_id >= len(target.vcpus):
        raise XenError(Errno.EINVAL, f"d{target.domid} has no vCPU {vcpu_id}")
    return target.vcpus[vcpu_id]


DOMCTL_OPS: Final[dict[int, DomctlHandler]] = {
    XEN_DOMCTL_destroydomain: do_destroydomain,
    XEN_DOMCTL_pausedomain: do_pausedomain,
    XEN_DOMCTL_unpausedomain: do_unpausedomain,
    XEN_DOMCTL_resumedomain: do_resumedomain,
    XEN_DOMCTL_getdomaininfo: do_getdomaininfo,
    XEN_DOMCTL_max_vcpus: do_max_vcpus,
    XEN_DOMCTL_setvcpucontext: do_setvcpucontext,
    XEN_DOMCTL_getvcpucontext: do_getvcpucontext,
    XEN_DOMCTL_setdomainhandle: do_setdomainhandle,
    XEN_DOMCTL_set_address_size: do_set_address_size,
    XEN_DOMCTL_get_address_size: do_get_address_size,
    XEN_DOMCTL_hypercall_init: do_hypercall_init,
    XEN_DOMCTL_set_virq_handler: do_set_virq_handler,
    XEN_DOMCTL_irq_permission: do_irq_permission,
    XEN_DOMCTL_iomem_permission: do_iomem_permission,
    XEN_DOMCTL_ioport_permission: do_ioport_permission,
    XEN_DOMCTL_sendtrigger: do_sendtrigger,
    **CPU_DOMCTLS,
    **MEMORY_OPS,
    **HVM_DOMCTLS,
    **PAGING_DOMCTLS,
    **SCHED_DOMCTLS,
    **VCPU_STATE_DOMCTLS,
}
_FOR_THE_LIVING: Final = frozenset(
    {
        int(XEN_DOMCTL_setvcpucontext),
        int(XEN_DOMCTL_sethvmcontext),
        int(XEN_DOMCTL_set_ext_vcpucontext),
        int(XEN_DOMCTL_hypercall_init),
        int(XEN_DOMCTL_unpausedomain),
        int(XEN_DOMCTL_setvcpuaffinity),
        int(XEN_DOMCTL_sendtrigger),
        int(XEN_DOMCTL_scheduler_op),
        int(XEN_DOMCTL_shadow_op),
        int(XEN_DOMCTL_set_paging_mempool_size),
    }
)
"""Operations that would give a dying domain something, or ask its scheduler, which has forgotten it (K1)."""


def do_domctl(call: Call) -> Result:
    """Checks privilege and interface version, finds the domain, and performs the operation. EPERM, EACCES,
    ESRCH, ENOSYS; EINVAL for a dying domain where the operation is for living ones.
    """
    call.require_control()
    if isinstance(call.state, Domain):
        return _go_on_destroying(call, call.state)
    op = call.read(call.args[0], xen_domctl)
    if op.interface_version != XEN_DOMCTL_INTERFACE_VERSION:
        raise XenError(Errno.EACCES, f"domctl interface version {op.interface_version:#x}")
    if op.cmd == XEN_DOMCTL_createdomain:
        return do_createdomain(call, op)
    handler = DOMCTL_OPS.get(op.cmd)
    if handler is None:
        raise XenError(Errno.ENOSYS, f"domctl {op.cmd}")
    target = call.domain if op.domain == DOMID_SELF else call.hv.domain(op.domain)
    if target.life is not Life.ALIVE and op.cmd in _FOR_THE_LIVING:
        raise XenError(Errno.EINVAL, f"K1: d{target.domid} is dying")
    return handler(call, op, target)
