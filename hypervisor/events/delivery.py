"""Where an event goes: from a send, a VIRQ or a PIRQ to the vCPU of the port, and to the polls that wait for it.

send(port) ──► INTERDOMAIN: the peer's port ─┐
               IPI: the port itself ─────────┼──► core's own: its consumer
send_guest_virq, send_pirq: the bound port ──┘    usable: raise_port(port, vcpu), then the pollers of the port
                                                  else: dropped
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from hypervisor.events.channel import ECS, Channel
from hypervisor.events.port_table import PortTable
from hypervisor.events.virq import VirqType, virq_type
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.types import DomId, Port

XenConsumer = Callable[[Port], None]
"""What the core does with an event on a port that it owns."""


class Delivery(PortTable):
    """A domain's ports with the ways of their events out: `EventChannels` says what its arguments are."""

    def __init__(
        self,
        domid: DomId,
        max_port: int,
        raise_port: Callable[[Port, int], None],
        wake_poller: Callable[[int], None],
        domains: Callable[[DomId], Delivery],
    ) -> None:
        super().__init__(domid, max_port)
        self._raise_port = raise_port
        self._wake_poller = wake_poller
        self._domains = domains
        self._consumers: list[XenConsumer] = []
        self._pollers: dict[int, frozenset[Port]] = {}  # vcpu → the ports it waits for

    @property
    def pollers(self) -> dict[int, frozenset[Port]]:
        """Which vCPU polls which ports; a copy."""
        return dict(self._pollers)

    # --- events ------------------------------------------------------------------------------------

    def send(self, port: int) -> None:
        """EVTCHNOP_send (E5). XenError(EINVAL) for a port that cannot be sent on."""
        channel = self.channel(port)
        if channel.xen_consumer:
            raise XenError(Errno.EINVAL, f"E5: port {port} of d{self.domid} is the core's")
        if channel.state is ECS.INTERDOMAIN:
            self._send_to_peer(channel)
        elif channel.state is ECS.IPI:
            self._deliver(Port(port))
        elif channel.state is not ECS.UNBOUND:  # an event to an unbound port is dropped without a word
            raise XenError(Errno.EINVAL, f"E5: port {port} of d{self.domid} is {channel.state.name}")

    def _send_to_peer(self, channel: Channel) -> None:
        peer = self._domains(channel.remote_domid)
        if consumer := peer.channel(channel.remote_port).xen_consumer:
            peer._consumers[consumer - 1](channel.remote_port)
        else:
            peer._deliver(channel.remote_port)

    def notify_xen(self, port: Port) -> None:
        """The core sends on its own port (notify_via_xen_event_channel); it is dropped while unbound."""
        channel = self.channel(port)
        if channel.state is ECS.INTERDOMAIN:
            self._send_to_peer(channel)

    def send_guest_virq(self, virq: int, vcpu_id: int = 0) -> None:
        """Deliver a VIRQ if it is bound; `vcpu_id` counts for those bound per vCPU only."""
        on_vcpu = vcpu_id if virq_type(virq) is VirqType.VCPU else 0
        if (port := self._virq_ports.get((on_vcpu, virq))) is not None:
            self._deliver(port)

    def send_pirq(self, pirq: int) -> None:
        """Deliver a physical interrupt if it is bound."""
        if (port := self._pirq_ports.get(pirq)) is not None:
            self._deliver(port)

    def _deliver(self, port: Port) -> None:
        """Make a usable port pending for its vCPU, and end the polls that wait for it (E6, E11)."""
        channel = self._channels[port]
        if channel.usable:
            self._raise_port(port, channel.notify_vcpu_id)
            self._wake_pollers(port)

    # --- polling -----------------------------------------------------------------------------------

    def poll(self, vcpu_id: int, ports: Collection[int]) -> None:
        """A vCPU is about to wait for any of these ports: all are valid (E11, XSA-221), and `wake_poller`
        ends it once.

        XenError(EINVAL): an invalid port; then nobody waits. Whether one is pending already is the caller's
        to see.
        """
        for port in ports:
            self.channel(port)
        self._pollers[vcpu_id] = frozenset(Port(port) for port in ports)

    def unpoll(self, vcpu_id: int) -> None:
        """The wait is over for another reason: time-out, an upcall, the vCPU's end (E11)."""
        self._pollers.pop(vcpu_id, None)

    def _wake_pollers(self, port: Port) -> None:
        for vcpu_id in [v for v, ports in self._pollers.items() if port in ports]:
            del self._pollers[vcpu_id]
            self._wake_poller(vcpu_id)
