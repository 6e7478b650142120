"""event_channel_op: decode the argument, ask the domain's event channels, hand the process its effects.

    event_channel_op(cmd, arg)      cmd: EVTCHNOP_*; arg: guest address of `evtchn_<operation>`

The pending and mask bits belong to the domain's process, so a closed port's bit (E4), an unmask (E7) and a
port's vCPU are effects. Order of checks and error numbers: Xen's xen/common/event_channel.c. The FIFO
layout's operations are refused, as by a Xen without it: guests then use the 2-level one. Privilege is asked
before another domain's table is looked at, so that an error number tells nothing about it (V1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hypervisor.domain.domain import Domain
from hypervisor.domain.sending import send_event
from hypervisor.events.channel import ECS, Channel
from hypervisor.hypercalls.call import Call, Continue
from hypervisor.hypercalls.outputs import write_outputs
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.event_channel import (
    EventChannelOp,
    EventChannelStatus,
    EVTCHNSTAT_closed,
    EVTCHNSTAT_interdomain,
    EVTCHNSTAT_ipi,
    EVTCHNSTAT_pirq,
    EVTCHNSTAT_unbound,
    EVTCHNSTAT_virq,
    evtchn_alloc_unbound,
    evtchn_bind_interdomain,
    evtchn_bind_ipi,
    evtchn_bind_pirq,
    evtchn_bind_vcpu,
    evtchn_bind_virq,
    evtchn_close,
    evtchn_fifo_control_block,
    evtchn_init_control,
    evtchn_reset,
    evtchn_send,
    evtchn_status,
    evtchn_status_u,
    evtchn_status_u_interdomain,
    evtchn_status_u_unbound,
    evtchn_unmask,
)
from hypervisor.public.types import PAGE_SIZE, U32, Port
from hypervisor.public.xen import DOMID_SELF
from hypervisor.wire.messages import Effect


def do_event_channel_op(call: Call) -> int | Continue:
    """The handler of hypercall 32."""
    handler = EVTCHNOPS.get(call.args[0] & U32)
    if handler is None:
        raise XenError(Errno.ENOSYS, f"event_channel_op {call.args[0]}")
    return handler(call, call.args[1])


def do_alloc_unbound(call: Call, arg: int) -> int:
    """A port of oneself or of a domain one has privilege over (E3)."""
    op = call.read(arg, evtchn_alloc_unbound)
    target = call.target(op.dom)
    call.require_privilege_over(target)
    op.port = target.events.alloc_unbound(call.domain.domid if op.remote_dom == DOMID_SELF else op.remote_dom)
    write_outputs(call, arg, op, "port")
    return 0


def do_bind_interdomain(call: Call, arg: int) -> int:
    """Connects to a port that a remote domain left unbound for the caller; answers the caller's port."""
    op = call.read(arg, evtchn_bind_interdomain)
    remote = call.domain.domid if op.remote_dom == DOMID_SELF else op.remote_dom
    op.local_port = call.domain.events.bind_interdomain(remote, op.remote_port)
    write_outputs(call, arg, op, "local_port")
    return 0


def do_bind_virq(call: Call, arg: int) -> int:
    """Binds a virtual interrupt to a vCPU; answers the port."""
    op = call.read(arg, evtchn_bind_virq)
    op.port = call.domain.events.bind_virq(op.virq, op.vcpu)
    write_outputs(call, arg, op, "port")
    return 0


def do_bind_ipi(call: Call, arg: int) -> int:
    """A port by which the domain's vCPUs interrupt this vCPU; answers the port."""
    op = call.read(arg, evtchn_bind_ipi)
    op.port = call.domain.events.bind_ipi(op.vcpu)
    write_outputs(call, arg, op, "port")
    return 0


def do_bind_pirq(call: Call, arg: int) -> int:
    """Binds a physical interrupt that the domain was permitted; answers the port."""
    op = call.read(arg, evtchn_bind_pirq)
    op.port = call.domain.events.bind_pirq(op.pirq)
    write_outputs(call, arg, op, "port")
    return 0


def do_close(call: Call, arg: int) -> int:
    """Closes a port; its peer becomes unbound, and the pending bit goes with the answer."""
    port = call.read(arg, evtchn_close).port
    call.domain.events.close(port)
    call.effects.append([Effect.EVTCHN_CLEAR, port])
    return 0


def do_send(call: Call, arg: int) -> int:
    """Sends an event to the other end of a port."""
    send_event(call.hv, call.vcpu, call.read(arg, evtchn_send).port)
    return 0


STATUS: Final[dict[ECS, EventChannelStatus]] = {
    ECS.FREE: EVTCHNSTAT_closed,
    ECS.RESERVED: EVTCHNSTAT_closed,
    ECS.UNBOUND: EVTCHNSTAT_unbound,
    ECS.INTERDOMAIN: EVTCHNSTAT_interdomain,
    ECS.PIRQ: EVTCHNSTAT_pirq,
    ECS.VIRQ: EVTCHNSTAT_virq,
    ECS.IPI: EVTCHNSTAT_ipi,
}


def do_status(call: Call, arg: int) -> int:
    """What a port is; another domain's only with privilege over it (E13)."""
    op = call.read(arg, evtchn_status)
    target = call.target(op.dom)
    call.require_privilege_over(target)
    channel = target.events.channel(op.port)
    op.status, op.vcpu = STATUS[channel.state], channel.notify_vcpu_id
    op.u = status_detail(channel)
    write_outputs(call, arg, op, "status", "vcpu", "u")
    return 0


def status_detail(channel: Channel) -> evtchn_status_u:
    """The arm of the union that belongs to the state; all other bytes are zero (XSA-122)."""
    if channel.state is ECS.INTERDOMAIN:
        far = evtchn_status_u_interdomain(dom=channel.remote_domid, port=channel.remote_port)
        return evtchn_status_u(interdomain=far)
    if channel.state is ECS.UNBOUND:
        return evtchn_status_u(unbound=evtchn_status_u_unbound(dom=channel.remote_domid))
    return evtchn_status_u(pirq=channel.pirq) if channel.pirq else evtchn_status_u(virq=channel.virq)


def do_bind_vcpu(call: Call, arg: int) -> int:
    """Has the port's events delivered to another vCPU."""
    op = call.read(arg, evtchn_bind_vcpu)
    call.domain.events.bind_vcpu(op.port, op.vcpu)
    return 0


def do_unmask(call: Call, arg: int) -> int:
    """The process unmasks, and delivers what is pending (E7); a port the guest cannot use is left alone. The vCPU that the port
    is bound to looks, for it may sleep.
    """
    port = call.read(arg, evtchn_unmask).port
    channel = call.domain.events.channel(port)
    if channel.usable:
        call.effects.append([Effect.EVTCHN_UNMASK, port, channel.notify_vcpu_id])
        if channel.notify_vcpu_id != call.vcpu.vcpu_id:
            call.domain.mailbox.kick(channel.notify_vcpu_id)
            call.hv.run.vcpu_kick(call.domain.vcpus[channel.notify_vcpu_id])
    return 0


def do_reset(call: Call, arg: int) -> int | Continue:
    """Close all ports of oneself, or of a domain paused by its toolstack (E10); in portions (XSA-344)."""
    target = call.target(call.read(arg, evtchn_reset).dom)
    call.require_privilege_over(target)
    if target is not call.domain and not target.tool_pauses:
        raise XenError(Errno.EINVAL, f"E10: d{target.domid} is not paused")
    closed, done = target.events.reset(resuming=call.state is RESETTING)
    forget_pending(call, target, closed)
    return 0 if done else Continue(call.args, RESETTING)


RESETTING: Final = "a reset is in progress"
"""State of the continuation: out of a guest's reach, unlike Xen's EVTCHNOP_reset_cont."""


def forget_pending(call: Call, target: Domain, closed: list[Port]) -> None:
    """The target's process clears the pending bits of its closed ports before it runs again (E4)."""
    if target is call.domain:
        call.effects.extend([Effect.EVTCHN_CLEAR, port] for port in closed)
    else:
        target.effects.extend([Effect.EVTCHN_CLEAR, port] for port in closed)


def do_init_control(call: Call, arg: int) -> int:
    """Arguments that no Xen accepts are refused as such (XSA-188); good ones find that there is no FIFO layout."""
    control = call.read(arg, evtchn_init_control)
    if control.vcpu >= len(call.domain.vcpus):
        raise XenError(Errno.ENOENT, f"there is no vCPU {control.vcpu}")
    if control.offset & 7 or control.offset > PAGE_SIZE - evtchn_fifo_control_block.sizeof:
        raise XenError(Errno.EINVAL, f"a control block at offset {control.offset:#x}")
    mfn = call.domain.mem.machine_frame(control.control_gfn)
    call.hv.mmu.frames.get_page(mfn, call.domain.domid)
    call.hv.mmu.frames.put_page(mfn)
    return do_fifo(call, arg)


def do_fifo(call: Call, arg: int) -> int:
    """ENOSYS: there is no FIFO layout."""
    raise XenError(Errno.ENOSYS, "event_channel_op: there is only the 2-level layout")


EVTCHNOPS: Final[dict[int, Callable[[Call, int], int | Continue]]] = {
    EventChannelOp.EVTCHNOP_bind_interdomain: do_bind_interdomain,
    EventChannelOp.EVTCHNOP_bind_virq: do_bind_virq,
    EventChannelOp.EVTCHNOP_bind_pirq: do_bind_pirq,
    EventChannelOp.EVTCHNOP_close: do_close,
    EventChannelOp.EVTCHNOP_send: do_send,
    EventChannelOp.EVTCHNOP_status: do_status,
    EventChannelOp.EVTCHNOP_alloc_unbound: do_alloc_unbound,
    EventChannelOp.EVTCHNOP_bind_ipi: do_bind_ipi,
    EventChannelOp.EVTCHNOP_bind_vcpu: do_bind_vcpu,
    EventChannelOp.EVTCHNOP_unmask: do_unmask,
    EventChannelOp.EVTCHNOP_reset: do_reset,
    EventChannelOp.EVTCHNOP_init_control: do_init_control,
    EventChannelOp.EVTCHNOP_expand_array: do_fifo,
    EventChannelOp.EVTCHNOP_set_priority: do_fifo,
}
