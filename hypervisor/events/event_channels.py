"""One domain's event channels: the ports, who is bound to them, and where an event goes.

Owns the state of every port of the domain (rules E1–E13). A pure state machine: an event leaves through
`raise_port` and `wake_poller`, which the core's wiring provides; there is no socket and no guest memory
here.

Differences from Xen, on purpose:
    * Pending and mask bits are not here. Their single writer is the domain's own process, so that the core
      never reads a decision from a page that a guest can write (E12): what is raised goes through the
      mailbox, and unmasking, or clearing the pending bit of a closed port, is an effect on the process (E6,
      E7).
    * A poller is remembered with all of its ports, and closing a port that it waits for wakes it (E11).
    * Only the 2-level ABI, as an old Xen: 4096 ports, and no control blocks.
    * A reset that finds new ports behind it makes another round instead of answering EAGAIN.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from hypervisor.events.channel import ECS, Channel, XenConsumer
from hypervisor.events.virq import GlobalVirqs, VirqType, virq_type
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.event_channel import EVTCHN_2L_NR_CHANNELS
from hypervisor.public.types import DomId, Port
from hypervisor.public.xen import NR_VIRQS

EVTCHNS_PER_BUCKET: Final = 64
"""The port table grows by this many; a port beyond it is invalid, one inside it merely closed."""
PORTS_PER_SLICE: Final = 64
"""How many ports a reset or a death closes before others get their turn (Q4)."""
NR_PIRQS: Final = 256
"""Physical interrupts there can be; Dom0's host descriptors."""


class EventChannels:
    """The event channels of one domain.

    raise_port(port, vcpu_id)   make the port pending and wake that vCPU; N calls may become one event (E6)
    wake_poller(vcpu_id)        end that vCPU's SCHEDOP_poll
    domains(domid)              a peer's EventChannels; XenError(ESRCH) if there is no such domain
    nr_vcpus()                  how many vCPUs the domain has now
    virqs                       the machine's table of global VIRQ handlers
    max_port                    XEN_DOMCTL_createdomain's max_evtchn_port
    """

    def __init__(
        self,
        domid: DomId,
        raise_port: Callable[[Port, int], None],
        *,
        wake_poller: Callable[[int], None],
        domains: Callable[[DomId], EventChannels],
        nr_vcpus: Callable[[], int],
        virqs: GlobalVirqs,
        max_port: int = EVTCHN_2L_NR_CHANNELS - 1,
    ) -> None:
        self.domid = domid
        self.max_port = max_port
        self.dying = False
        self.permitted_pirqs: set[int] = set()
        self.active = 0  # ports that are not FREE, port 0 not counted (E9)
        self.xen_owned = 0  # … of which the core owns this many
        self._raise_port = raise_port
        self._wake_poller = wake_poller
        self._domains = domains
        self._nr_vcpus = nr_vcpus
        self._virqs = virqs
        self._channels = [Channel() for _ in range(EVTCHNS_PER_BUCKET)]
        self._channels[0].state = ECS.RESERVED  # E1
        self._lowest_free = 1  # no port below it is free
        self._virq_ports: dict[tuple[int, int], Port] = {}  # (vcpu, virq) → port
        self._pirq_ports: dict[int, Port] = {}
        self._pollers: dict[int, frozenset[Port]] = {}  # vcpu → the ports it waits for
        self._next_reset = 0  # where an unfinished reset goes on; 0: none is in progress

    # --- looking -----------------------------------------------------------------------------------

    def __len__(self) -> int:
        """How many ports are valid, that is: have a place in the table."""
        return len(self._channels)

    def channel(self, port: int) -> Channel:
        """The state of a port. XenError(EINVAL) if it is not a valid one."""
        if not 0 <= port < len(self._channels):
            raise XenError(Errno.EINVAL, f"port {port} of d{self.domid} is beyond the table")
        return self._channels[port]

    def virq_port(self, vcpu_id: int, virq: int) -> Port | None:
        """The port that this vCPU's VIRQ is bound to."""
        return self._virq_ports.get((vcpu_id, virq))

    def pirq_port(self, pirq: int) -> Port | None:
        """The port that a physical interrupt is bound to."""
        return self._pirq_ports.get(pirq)

    @property
    def pollers(self) -> dict[int, frozenset[Port]]:
        """Which vCPU polls which ports; a copy."""
        return dict(self._pollers)

    # --- taking a port -----------------------------------------------------------------------------

    def _free_port(self) -> Port:
        """The lowest free port, the table grown for it if need be; nothing is taken yet (E9).

        XenError: EINVAL in a dying domain (K1), ENOSPC if there is none (E1).
        """
        if self.dying:
            raise XenError(Errno.EINVAL, f"K1: d{self.domid} is dying, it gets no port")
        port = self._lowest_free
        while port < len(self._channels) and self._channels[port].state is not ECS.FREE:
            port += 1
        self._lowest_free = port
        if port > self.max_port or port >= EVTCHN_2L_NR_CHANNELS:
            raise XenError(Errno.ENOSPC, f"E1: d{self.domid} has no free port")
        while port >= len(self._channels):
            self._channels += [Channel() for _ in range(EVTCHNS_PER_BUCKET)]
        return Port(port)

    def _take(self, port: Port, state: ECS, vcpu_id: int = 0) -> Channel:
        """Make a free port an active one; everything has been checked (E9)."""
        channel = self._channels[port]
        channel.state, channel.notify_vcpu_id = state, vcpu_id
        self.active += 1
        return channel

    def _require_vcpu(self, vcpu_id: int) -> None:
        if not 0 <= vcpu_id < self._nr_vcpus():
            raise XenError(Errno.ENOENT, f"d{self.domid} has no vCPU {vcpu_id}")

    def alloc_unbound(self, remote: DomId) -> Port:
        """A port that domain `remote` may bind; whether the caller may ask is decided before (E3).

        XenError: EINVAL, ENOSPC as `_free_port`.
        """
        port = self._free_port()
        self._take(port, ECS.UNBOUND).remote_domid = remote
        return port

    def alloc_unbound_xen(self, remote: DomId, consumer: XenConsumer, vcpu_id: int = 0) -> Port:
        """A port of this domain whose events the core consumes: the guest cannot send, close or move it
        (E5).
        """
        port = self._free_port()
        channel = self._take(port, ECS.UNBOUND, vcpu_id)
        channel.remote_domid, channel.xen_consumer = remote, consumer
        self.xen_owned += 1
        return port

    def bind_interdomain(self, remote: DomId, remote_port: int) -> Port:
        """Connect to a port that its domain left unbound for exactly this domain (E3).

        The new port is pending at once, for an event sent to the unbound port was dropped. XenError: ESRCH,
        EINVAL, ENOSPC.
        """
        peer = self._domains(remote)
        port = self._free_port()
        far = peer.channel(remote_port)
        if far.state is not ECS.UNBOUND or far.remote_domid != self.domid:
            raise XenError(Errno.EINVAL, f"E3: d{remote} port {remote_port} is not unbound for d{self.domid}")
        near = self._take(port, ECS.INTERDOMAIN)
        near.remote, near.remote_port = peer, Port(remote_port)
        far.state, far.remote, far.remote_port = ECS.INTERDOMAIN, self, port
        self._deliver(port)
        return port

    def bind_virq(self, virq: int, vcpu_id: int) -> Port:
        """Bind a VIRQ to a new port, of which there is one per vCPU and VIRQ (E8).

        XenError: EINVAL (no such VIRQ, or not on this vCPU), ENOENT, EBUSY (another domain handles it),
        EEXIST, ENOSPC. Nothing but this domain's own table is touched before the last check has passed
        (XSA-496).
        """
        if not 0 <= virq < NR_VIRQS:
            raise XenError(Errno.EINVAL, f"there is no virq {virq}")
        kind = virq_type(virq)
        if kind is not VirqType.VCPU and vcpu_id != 0:
            raise XenError(Errno.EINVAL, f"E8: virq {virq} is bound on vCPU 0 only")
        self._require_vcpu(vcpu_id)
        if kind is VirqType.GLOBAL and self._virqs.handler(virq) is not self:
            raise XenError(Errno.EBUSY, f"E8: d{self.domid} does not handle global virq {virq}")
        if (vcpu_id, virq) in self._virq_ports:
            raise XenError(Errno.EEXIST, f"E8: virq {virq} is bound on vCPU {vcpu_id} already")
        port = self._free_port()
        self._take(port, ECS.VIRQ, vcpu_id).virq = virq
        self._virq_ports[vcpu_id, virq] = port
        return port

    def bind_ipi(self, vcpu_id: int) -> Port:
        """A port that this domain's vCPUs use to notify the given one. XenError: ENOENT, ENOSPC."""
        self._require_vcpu(vcpu_id)
        port = self._free_port()
        self._take(port, ECS.IPI, vcpu_id)
        return port

    def bind_pirq(self, pirq: int) -> Port:
        """Bind a physical interrupt that this domain is permitted to have (E8). XenError: EINVAL, EPERM,
        EEXIST, ENOSPC.
        """
        if not 0 <= pirq < NR_PIRQS:
            raise XenError(Errno.EINVAL, f"there is no pirq {pirq}")
        if pirq not in self.permitted_pirqs:
            raise XenError(Errno.EPERM, f"E8: d{self.domid} has no permission for pirq {pirq}")
        if pirq in self._pirq_ports:
            raise XenError(Errno.EEXIST, f"pirq {pirq} is bound already")
        port = self._free_port()
        self._take(port, ECS.PIRQ).pirq = pirq
        self._pirq_ports[pirq] = port
        return port

    # --- giving it back ----------------------------------------------------------------------------

    def close(self, port: int, *, guest: bool = True) -> None:
        """Close one port; the caller then has the process clear its pending bit (E4).

        XenError(EINVAL): an invalid, free or reserved port, or one of the core's when a guest asks (E5).
        """
        channel = self.channel(port)
        if channel.state <= ECS.RESERVED:
            raise XenError(Errno.EINVAL, f"E4: port {port} of d{self.domid} is {channel.state.name}")
        if guest and channel.xen_consumer is not None:
            raise XenError(Errno.EINVAL, f"E5: port {port} of d{self.domid} is the core's")
        self._release_binding(channel)
        self.active -= 1
        self.xen_owned -= channel.xen_consumer is not None
        channel.free()
        self._lowest_free = min(self._lowest_free, port)
        self._wake_pollers(Port(port))

    def _release_binding(self, channel: Channel) -> None:
        """Take back what others hold of this port: the peer's binding (E2, E4), or the VIRQ's or PIRQ's."""
        if channel.remote is not None:
            far = channel.remote.channel(channel.remote_port)
            far.state, far.remote_domid = ECS.UNBOUND, self.domid
            far.remote, far.remote_port = None, Port(0)
        elif channel.state is ECS.VIRQ:
            on_vcpu = channel.notify_vcpu_id if virq_type(channel.virq) is VirqType.VCPU else 0
            del self._virq_ports[on_vcpu, channel.virq]
        elif channel.state is ECS.PIRQ:
            del self._pirq_ports[channel.pirq]

    def reset(self, *, resuming: bool, limit: int = PORTS_PER_SLICE) -> tuple[list[Port], bool]:
        """Close every port that the core does not own, at most `limit` looked at now (E10, XSA-344).

        Returns the ports closed in this step and whether it was the last; go on with `resuming=True`. Ports
        that appear behind the place where it stands get another round. XenError(EBUSY): one is in progress
        already, or none is to be resumed.
        """
        first = self._next_reset if resuming else int(not self._next_reset)
        if first == 0:
            raise XenError(
                Errno.EBUSY,
                f"E10: reset of d{self.domid}: " + ("none begun" if resuming else "already begun"),
            )
        closed: list[Port] = []
        for port in range(first, len(self._channels)):
            if self.active == self.xen_owned:
                break
            if port - first == limit:
                self._next_reset = port
                return closed, False
            if self._channels[port].usable:
                self.close(port)
                closed.append(Port(port))
        done = self.active == self.xen_owned
        self._next_reset = 0 if done else 1
        return closed, done

    def close_all(self, *, limit: int = PORTS_PER_SLICE) -> bool:
        """The domain dies: close its ports, the core's too, from the top; True once all are gone (K2, K3,
        XSA-344).

        Restartable: what was closed is no longer valid, so a repetition finds the rest. No port can be taken
        meanwhile (K1).
        """
        self.dying = True
        self._pollers.clear()
        for _ in range(limit):
            if len(self._channels) == 1:
                self._virqs.forget(self)
                return True
            if self._channels[-1].state is not ECS.FREE:
                self.close(len(self._channels) - 1, guest=False)
            self._channels.pop()
        return False

    # --- events ------------------------------------------------------------------------------------

    def send(self, port: int) -> None:
        """EVTCHNOP_send (E5). XenError(EINVAL) for a port that cannot be sent on."""
        channel = self.channel(port)
        if channel.xen_consumer is not None:
            raise XenError(Errno.EINVAL, f"E5: port {port} of d{self.domid} is the core's")
        if channel.state is ECS.INTERDOMAIN:
            self._send_to_peer(channel)
        elif channel.state is ECS.IPI:
            self._deliver(Port(port))
        elif channel.state is not ECS.UNBOUND:  # an event to an unbound port is dropped without a word
            raise XenError(Errno.EINVAL, f"E5: port {port} of d{self.domid} is {channel.state.name}")

    @staticmethod
    def _send_to_peer(channel: Channel) -> None:
        assert channel.remote is not None
        far = channel.remote.channel(channel.remote_port)
        if far.xen_consumer is not None:
            far.xen_consumer(channel.remote_port)
        else:
            channel.remote._deliver(channel.remote_port)

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

    def bind_vcpu(self, port: int, vcpu_id: int) -> None:
        """Deliver a port's events to another vCPU from now on; an IPI or a per-vCPU VIRQ cannot move (E8).

        XenError: ENOENT for the vCPU, EINVAL for the port.
        """
        self._require_vcpu(vcpu_id)
        channel = self.channel(port)
        if channel.xen_consumer is not None:
            raise XenError(Errno.EINVAL, f"E5: port {port} of d{self.domid} is the core's")
        movable = channel.state in (ECS.UNBOUND, ECS.INTERDOMAIN, ECS.PIRQ) or (
            channel.state is ECS.VIRQ and virq_type(channel.virq) is not VirqType.VCPU
        )
        if not movable:
            raise XenError(Errno.EINVAL, f"E8: port {port} of d{self.domid} stays on its vCPU")
        channel.notify_vcpu_id = vcpu_id

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
