"""One virtual network interface, back end: a port of a switch, and its front's two rings.

Source: Xen public/io/netif.h. Packets are taken and put in `tx_server.py` and `rx_server.py`. Offered: several slots
per packet, receiving by copy, blank checksums, TCP segments that stand for many over IPv4; `rate` limits what the front
sends. Not offered: the same over IPv6, multicast filters, several queues, a control ring.
"""

from collections.abc import Callable, Hashable
from typing import NamedTuple

from domains.kernel.kernel import Kernel
from domains.kernel.tasks import Task
from drivers.back_device import BackDevice, FrontError, Nodes
from drivers.front_rings import FrontRings, reach
from drivers.net.copier import Filling, Part
from drivers.net.credit import Credit
from drivers.net.protocol import Node, Packet
from drivers.net.rx_server import RxServer
from drivers.net.switch import Observer, Switch
from drivers.net.tx_server import Limit, TxServer
from drivers.xenbus import XenbusEnd, number
from hypervisor.public.errno import XenError
from hypervisor.public.io.netif import (
    netif_rx_request,
    netif_rx_response,
    netif_tx_request,
    netif_tx_response,
)
from hypervisor.public.types import U32, U64, Port


class NetAttachment(NamedTuple):
    """What is held while a front is attached."""

    port: Port
    rings: FrontRings
    tx: TxServer
    rx: RxServer


class RxAccepts(NamedTuple):
    """What the front takes beside small packets with a checksum."""

    sg: bool
    """Packets of several slots."""
    csum: bool
    """Blank checksums."""
    gso: bool
    """TCP segments that stand for many."""


class NetDevice(BackDevice):
    """An interface for one front. `switch_of` finds the switch of a bridge's name."""

    def __init__(
        self,
        kernel: Kernel,
        end: XenbusEnd,
        ready: Callable[[], None],
        dirty: Callable[[], None],
        switch_of: Callable[[str], Switch],
    ) -> None:
        super().__init__(kernel, end, ready, dirty)
        self._switch_of = switch_of
        self._switch: Switch | None = None
        self._attachment: NetAttachment | None = None
        self.observers: list[Observer] = []
        self.bell = False
        """The front is to hear of answers."""
        self.sent_bytes = 0
        self.received_bytes = 0
        """Bytes of the packets that the front has sent, and of those that came for it, since the interface is there."""

    # --- the steps of a round (back.py), each of which may find a ring broken ---------------------

    @property
    def port(self) -> Port | None:
        """Where the front hears; None while there is none."""
        return self._attachment and self._attachment.port

    def take(self, most: int) -> list[Part]:
        """What is to be copied of what the front sends, of so many slots."""
        return self._attachment.tx.take(most) if self._attachment else []

    def sent(self, pieces: list[bytes | None]) -> None:
        """The bytes of what was taken: answer it, and hand the packets on."""
        if self._attachment is None:
            return
        packets, bell = self._attachment.tx.finish(pieces)
        self.bell |= bell
        for packet in packets:
            self.sent_bytes += len(packet.data)
            self._accept(packet)

    def match(self, most: int) -> list[Filling]:
        """What is to be copied of so many slots that the front is to get."""
        return self._attachment.rx.match(most) if self._attachment else []

    def given(self, done: list[bool]) -> None:
        """What of that was copied: answer it."""
        if self._attachment is not None:
            self.bell |= self._attachment.rx.finish(done)

    def end_round(self) -> bool:
        """Whether there is more to do, in either direction."""
        attachment = self._attachment
        if attachment is None:
            return False
        more = attachment.rx.end_round()
        return attachment.tx.end_round() or more

    # --- states ----------------------------------------------------------------------------------

    def open(self) -> Task[Nodes]:
        """Joins the bridge that xenstore names; what the front is to know of this back end."""
        bridge = yield from self.end.read(Node.BRIDGE)
        mtu = self._switch_of(bridge or "").mtu
        if mtu is not None and (yield from self.end.read(Node.MTU)) is None:  # as Xen's script vif-bridge
            yield from self.end.tell_peer(Node.MTU, mtu)
        self._switch = self._switch_of(bridge or "")
        self._switch.attach(self.end.path, self._deliver)
        return {Node.SG: 1, Node.GSO_TCPV4: 1, Node.RX_COPY: 1, Node.RX_FLIP: 0}

    def attach(self) -> Task[Nodes]:
        """Reaches both rings and binds the event channel that the front names. FrontError: they are not usable."""
        end = self.end
        tx_ref = yield from end.read_peer_number(Node.TX_RING_REF, -1, U32)
        rx_ref = yield from end.read_peer_number(Node.RX_RING_REF, -1, U32)
        remote_port = yield from end.read_peer_number(Node.EVENT_CHANNEL, -1, U32)
        if min(tx_ref, rx_ref, remote_port) < 0 or (yield from end.read_peer(Node.REQUEST_RX_COPY)) != "1":
            raise FrontError(
                f"no rings: tx and rx {[tx_ref, rx_ref]}, event-channel {remote_port}, or no request-rx-copy"
            )
        accepts = RxAccepts(
            (yield from end.read_peer(Node.SG)) == "1",
            (yield from end.read_peer(Node.NO_CSUM_OFFLOAD)) != "1",
            (yield from end.read_peer(Node.GSO_TCPV4)) == "1",
        )
        limit = self._limit((yield from end.read(Node.RATE)))
        self._reach([tx_ref, rx_ref], Port(remote_port), accepts, limit)
        return {}

    def _reach(self, refs: list[int], remote_port: Port, accepts: RxAccepts, limit: Limit | None) -> None:
        """The front's rings and event channel are held from here on; XenError, and none is."""
        kernel, domid = self.kernel, self.end.peer_domid
        records = [(netif_tx_request, netif_tx_response), (netif_rx_request, netif_rx_response)]
        rings = reach(kernel, domid, refs, records)
        try:
            port = kernel.events.bind_interdomain(domid, remote_port)
        except XenError:
            rings.release()
            raise
        tx_ring, rx_ring = rings.rings
        tx = TxServer(tx_ring, domid, limit)
        rx = RxServer(rx_ring, domid, accepts.sg, accepts.csum, accepts.gso)
        self._attachment = NetAttachment(port, rings, tx, rx)
        kernel.events.bind(port, self.ready)

    def detach(self) -> None:
        """Lets go of the front's rings and event channel."""
        attachment, self._attachment = self._attachment, None
        self.bell = False
        if attachment is None:
            return
        self.kernel.events.close(attachment.port)
        attachment.rings.release()

    def shut(self) -> None:
        """Leaves the bridge."""
        switch, self._switch = self._switch, None
        if switch is not None:
            switch.detach(self.end.path)

    def release(self) -> Task[None]:
        """Task: ends the device, and tells those who watch its packets."""
        yield from super().release()
        for observer in self.observers:
            observer.lost()
        self.observers.clear()

    def _limit(self, rate: str | None) -> Limit | None:
        """What `rate`, "bytes,microseconds", allows; None if there is none."""
        size, _, interval = (rate or "").partition(",")
        limits = number(size, 0, U64), number(interval, 0, U32)
        if not all(limits):
            return None
        kernel = self.kernel

        pending: list[bool] = []  # one turn is arranged at a time, however often the front rings

        def resume() -> None:
            pending.clear()
            self.ready()

        def later(nanoseconds: int) -> None:
            if not pending:
                pending.append(True)
                kernel.call_later(nanoseconds / 1e9, resume)

        return Limit(Credit(*limits, kernel.now()), kernel.now, later)

    def _accept(self, packet: Packet) -> None:
        """The front has sent a packet."""
        for observer in self.observers:
            observer.saw(packet)
        if self._switch is not None:
            self._switch.accept(self.end.path, packet)

    def _deliver(self, source: Hashable, packet: Packet) -> None:
        """The switch has a packet for the front."""
        for observer in self.observers:
            observer.saw(packet)
        if self._attachment is not None:
            self.received_bytes += len(packet.data)
            self._attachment.rx.queue(source, packet)
            self.ready()
