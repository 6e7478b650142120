"""An independent recount of event channels: E1, E2, E4, E8, E9 and E11 from the port tables alone.

It trusts no counter and no index: both are computed again from the states of all ports and compared. May be
called after any step, also between two slices of a reset or a death.
"""

from collections.abc import Iterable
from dataclasses import fields
from itertools import compress
from operator import attrgetter

from hypervisor.events.channel import ECS, Channel
from hypervisor.events.event_channels import EventChannels
from hypervisor.events.virq import VirqType, virq_type
from hypervisor.public.event_channel import EVTCHN_2L_NR_CHANNELS
from hypervisor.public.types import Port

REMEMBERED = attrgetter(*(field.name for field in fields(Channel)))
UNUSED = REMEMBERED(Channel())


def recount_events(tables: Iterable[EventChannels]) -> None:
    """AssertionError naming domain, port and rule if any table of the machine is inconsistent."""
    everybody = list(tables)
    for events in everybody:
        recount_one(events, everybody)


def recount_one(events: EventChannels, everybody: list[EventChannels]) -> None:
    ports = events._channels
    whose = f"d{events.domid}"
    assert ports[0].state is ECS.RESERVED, f"E1: {whose} port 0 is {ports[0].state.name}"
    assert len(ports) <= EVTCHN_2L_NR_CHANNELS, f"E1: {whose} has {len(ports)} ports"
    used = list(compress(range(1, len(ports)), map(UNUSED.__ne__, map(REMEMBERED, ports[1:]))))
    for port in used:
        assert ports[port].state is not ECS.FREE, f"E4: {whose} port {port} is free, not {ports[port]}"
    live = [(Port(port), ports[port]) for port in used]
    assert events.active == len(live), f"E9: {whose} counts {events.active} ports, there are {len(live)}"
    owned = sum(bool(channel.xen_consumer) for _, channel in live)
    assert events.xen_owned == owned, f"E9: {whose} counts {events.xen_owned} core ports, not {owned}"
    for port, channel in live:
        recount_port(events, port, channel, everybody)
    recount_bindings(events, live)
    for vcpu_id, polled in events.pollers.items():
        assert all(port < len(ports) for port in polled), f"E11: {whose} vCPU {vcpu_id} polls an invalid port"


def recount_port(events: EventChannels, port: Port, channel: Channel, everybody: list[EventChannels]) -> None:
    where = f"d{events.domid} port {port}"
    assert channel.state is not ECS.RESERVED, f"E1: {where} is reserved"
    assert port <= events.max_port, f"E1: {where} is beyond the domain's limit {events.max_port}"
    if channel.state is ECS.INTERDOMAIN:
        peer = next((table for table in everybody if table.domid == channel.remote_domid), None)
        assert peer is not None, f"E2: {where} leads to a domain that is gone"
        far = peer.channel(channel.remote_port)
        assert far.state is ECS.INTERDOMAIN, f"E2: {where} leads to a port that is {far.state.name}"
        assert (far.remote_domid, far.remote_port) == (events.domid, port), (
            f"E2: the peer of {where} leads elsewhere"
        )
    else:
        assert not channel.remote_port, f"E2: {where} is {channel.state.name} and has a peer"
    if bool(channel.xen_consumer):
        assert channel.state in (ECS.UNBOUND, ECS.INTERDOMAIN), (
            f"E5: {where} is the core's and {channel.state.name}"
        )


def recount_bindings(events: EventChannels, live: list[tuple[Port, Channel]]) -> None:
    """VIRQ and PIRQ bindings, both ways: every port has its binding, and there is no other (E8)."""
    virqs = {}
    for port, channel in live:
        if channel.state is ECS.VIRQ:
            per_vcpu = virq_type(channel.virq) is VirqType.VCPU
            virqs[channel.notify_vcpu_id if per_vcpu else 0, channel.virq] = port
    assert events._virq_ports == virqs, f"E8: d{events.domid} binds {events._virq_ports}, ports say {virqs}"
    pirqs = {channel.pirq: port for port, channel in live if channel.state is ECS.PIRQ}
    assert events._pirq_ports == pirqs, f"E8: d{events.domid} binds {events._pirq_ports}, ports say {pirqs}"
    counted = sum(channel.state in (ECS.VIRQ, ECS.PIRQ) for _, channel in live)
    assert counted == len(virqs) + len(pirqs), f"E8: d{events.domid} has two ports for one virq or pirq"
