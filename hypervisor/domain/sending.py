"""An event that a vCPU sends: asked for (hypercalls/event_channel_op.py), or posted (posts.py)."""

from __future__ import annotations

from hypervisor.domain.domain import Vcpu
from hypervisor.domain.hypervisor import Hypervisor
from hypervisor.events.channel import ECS


def send_event(hv: Hypervisor, vcpu: Vcpu, port: int) -> None:
    """EVTCHNOP_send. The vCPU that an IPI is for has its turn next: its sender may wait for it. XenError(EINVAL)."""
    events = vcpu.domain.events
    events.send(port)
    channel = events.channel(port)
    if channel.state is ECS.IPI and channel.notify_vcpu_id != vcpu.vcpu_id:
        sibling = vcpu.domain.vcpus[channel.notify_vcpu_id]
        hv.run.slices.yield_to(vcpu.unit, sibling.unit, hv.now())
