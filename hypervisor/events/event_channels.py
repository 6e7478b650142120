"""One domain's event channels: what binds a port, and what gives it back.

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
from typing import Any, Final

from hypervisor.events.channel import ECS, NO_PORT, Channel
from hypervisor.events.delivery import Delivery, XenConsumer
from hypervisor.events.port_table import virq_key
from hypervisor.events.virq import GlobalVirqs, VirqType, virq_type
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.event_channel import EVTCHN_2L_NR_CHANNELS
from hypervisor.public.types import DomId, Port
from hypervisor.public.xen import NR_VIRQS

PORTS_PER_PORTION: Final = 64
"""How many ports a reset or a death closes before others get their turn (Q4)."""
NR_PIRQS: Final = 256
"""Physical interrupts that there can be: Dom0's host descriptors."""

EventsRecord = dict[str, Any]
"""A domain's event channels as plain data (`EventChannels.snapshot`)."""


class EventChannels(Delivery):
    """The event channels of one domain: its ports (port_table.py), where their events go (delivery.py), and what binds and
    closes them.

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
        super().__init__(domid, max_port, raise_port, wake_poller, domains)
        self.permitted_pirqs: set[int] = set()
        self._nr_vcpus = nr_vcpus
        self._virqs = virqs
        self._next_reset = 0  # where an unfinished reset goes on; 0: none is in progress

    # --- binding a port -----------------------------------------------------------------------------

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
        """A port of this domain whose events the core consumes: the guest cannot send, close or move it (E5).

        XenError: EINVAL, ENOSPC as `_free_port`.
        """
        port = self._free_port()
        if consumer not in self._consumers:
            self._consumers.append(consumer)
        channel = self._take(port, ECS.UNBOUND, vcpu_id)
        channel.remote_domid, channel.xen_consumer = remote, 1 + self._consumers.index(consumer)
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
        near.remote_domid, near.remote_port = remote, Port(remote_port)
        far.state, far.remote_port = ECS.INTERDOMAIN, port
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

    def bind_vcpu(self, port: int, vcpu_id: int) -> None:
        """Deliver a port's events to another vCPU from now on; an IPI or a per-vCPU VIRQ cannot move (E8).

        XenError: ENOENT for the vCPU, EINVAL for the port.
        """
        self._require_vcpu(vcpu_id)
        channel = self.channel(port)
        if channel.xen_consumer:
            raise XenError(Errno.EINVAL, f"E5: port {port} of d{self.domid} is the core's")
        movable = channel.state in (ECS.UNBOUND, ECS.INTERDOMAIN, ECS.PIRQ) or (
            channel.state is ECS.VIRQ and virq_type(channel.virq) is not VirqType.VCPU
        )
        if not movable:
            raise XenError(Errno.EINVAL, f"E8: port {port} of d{self.domid} stays on its vCPU")
        channel.notify_vcpu_id = vcpu_id

    # --- giving it back ----------------------------------------------------------------------------

    def close(self, port: int, *, guest: bool = True) -> None:
        """Close one port; the caller then has the process clear its pending bit (E4).

        XenError(EINVAL): an invalid, free or reserved port, or one of the core's when a guest asks (E5).
        """
        channel = self.channel(port)
        if channel.state <= ECS.RESERVED:
            raise XenError(Errno.EINVAL, f"E4: port {port} of d{self.domid} is {channel.state.name}")
        if guest and channel.xen_consumer:
            raise XenError(Errno.EINVAL, f"E5: port {port} of d{self.domid} is the core's")
        self._release_binding(channel)
        self._free(Port(port))
        self._wake_pollers(Port(port))

    def _release_binding(self, channel: Channel) -> None:
        """Take back what others hold of this port: the peer's binding (E2, E4), or the VIRQ's or PIRQ's."""
        if channel.state is ECS.INTERDOMAIN:
            far = self._domains(channel.remote_domid).channel(channel.remote_port)
            far.state, far.remote_port = ECS.UNBOUND, NO_PORT
        elif channel.state is ECS.VIRQ:
            del self._virq_ports[virq_key(channel)]
        elif channel.state is ECS.PIRQ:
            del self._pirq_ports[channel.pirq]

    def reset(self, *, resuming: bool, limit: int = PORTS_PER_PORTION) -> tuple[list[Port], bool]:
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

    def close_all(self, *, limit: int = PORTS_PER_PORTION) -> bool:
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

    # --- writing it down -----------------------------------------------------------------------------

    def snapshot(self) -> EventsRecord:
        """All state as plain data: numbers, lists and tuples of them.

        What the core does with events on its own ports is code and cannot be written down: `restore` is given it.
        """
        return {
            "dying": self.dying,
            "permitted_pirqs": sorted(self.permitted_pirqs),
            "ports": self._write_down(),
            "pollers": [(vcpu_id, sorted(ports)) for vcpu_id, ports in sorted(self._pollers.items())],
            "next_reset": self._next_reset,
        }

    def restore(self, record: EventsRecord, consumers: Collection[XenConsumer] = ()) -> None:
        """Become what `snapshot` wrote down; `consumers` in the order in which they were given at first."""
        self._read_back(record["ports"])
        self.dying = record["dying"]
        self.permitted_pirqs = set(record["permitted_pirqs"])
        self._pollers = {vcpu_id: frozenset(map(Port, ports)) for vcpu_id, ports in record["pollers"]}
        self._next_reset = record["next_reset"]
        self._consumers = list(consumers)
