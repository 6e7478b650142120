"""Net front: a guest's network interface.

    nic = NetFront(kernel, "device/vif/0", received)
    nic.connect()
    nic.send(frame)              `received(packet)` is called from the loop

Source: Xen public/io/netif.h. Owns the device's state in xenstore, the event channel, both rings and their pages; packets
are put and taken in `tx_front.py` and `rx_front.py`. Frames are copied between the caller's bytes and granted pages. A frame
may have up to 64 KiB, if the back end has "feature-sg". Checksums of TCP and UDP are the caller's, unless it wants
`offload`: then those of frames that go may be left blank, and those of frames that come may be; and TCP segments that come,
and go, may stand for many. What does not fit into the ring waits, up to a limit, then `send` says no.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from domains.kernel.kernel import Kernel
from domains.kernel.tasks import Task
from drivers.front_device import FrontDevice, Nodes
from drivers.net.own_page import OwnPage, grant, take_back
from drivers.net.protocol import MAX_PACKET, MIN_PACKET, Node, Packet
from drivers.net.rx_front import RxFront
from drivers.net.tx_front import WAITING_FRAMES, TxFront
from drivers.ring import FrontRing, RingBroken
from hypervisor.public.io.netif import (
    netif_rx_request,
    netif_rx_response,
    netif_tx_request,
    netif_tx_response,
)
from hypervisor.public.types import PAGE_SIZE, Port

TX_PAGES: Final = 64
RX_PAGES: Final = 64


class NetConnection(NamedTuple):
    """What is held while connected."""

    port: Port
    rings: tuple[OwnPage, OwnPage]
    tx: TxFront
    rx: RxFront
    sg: bool
    offload: bool
    gso: bool


class NetFront(FrontDevice):
    """The interface in directory `path` of this domain. `received` gets each frame that arrives."""

    def __init__(
        self, kernel: Kernel, path: str, received: Callable[[Packet], None], offload: bool = False
    ) -> None:
        super().__init__(kernel, path)
        self._received = received
        self._offload = offload
        self._connection: NetConnection | None = None
        mac = kernel.run(self.end.read(Node.MAC))
        self.mac = bytes.fromhex((mac or "00:00:00:00:00:00").replace(":", ""))

    @property
    def can_offload(self) -> bool:
        """Whether frames may go with blank checksums."""
        return self._connection is not None and self._connection.offload

    @property
    def can_segment(self) -> bool:
        """Whether TCP segments may go that stand for many."""
        return self._connection is not None and self._connection.gso

    @property
    def room(self) -> int:
        """How many frames `send` takes now."""
        return WAITING_FRAMES if self._connection is None else self._connection.tx.room

    def send(self, frame: bytes, csum_blank: bool = False, gso_size: int = 0) -> bool:
        """Send an Ethernet frame; False if too much is waiting already. DeviceError if not connected."""
        connection = self._connection
        if connection is None or not self.connected:
            raise self.failure("not connected")
        most = MAX_PACKET if connection.sg else PAGE_SIZE
        impossible = (csum_blank and not connection.offload) or (gso_size and not connection.gso)
        if not MIN_PACKET <= len(frame) <= most or impossible:
            raise ValueError(f"a frame of {len(frame)} bytes; {MIN_PACKET} to {most} are possible")
        if not self.room:
            return False
        try:
            connection.tx.send(Packet(frame, csum_blank, gso_size=gso_size))
        except RingBroken as broken:
            self.give_up(broken)
        return True

    # --- what a FrontDevice does -----------------------------------------------------------------

    def prepare(self) -> Task[Nodes]:
        """Makes the rings, the event channel and the pages; what the back end is to know of them."""
        end = self.end
        sg = (yield from end.read_peer(Node.SG)) == "1"
        csum = (yield from end.read_peer(Node.NO_CSUM_OFFLOAD)) != "1"
        gso = sg and (yield from end.read_peer(Node.GSO_TCPV4)) == "1"
        return self._allocate(sg, self._offload and csum, self._offload and gso)

    def _allocate(self, sg: bool, offload: bool, gso: bool) -> Nodes:
        kernel, domid = self.kernel, self.end.peer_domid
        tx_ring, rx_ring = grant(kernel, domid), grant(kernel, domid)
        port = kernel.events.alloc_unbound(domid)
        tx_pages = [grant(kernel, domid) for _ in range(TX_PAGES)]
        rx_pages = [grant(kernel, domid) for _ in range(RX_PAGES)]

        def notify() -> None:
            kernel.events.notify(port)

        self._connection = NetConnection(
            port,
            (tx_ring, rx_ring),
            TxFront(FrontRing(tx_ring.view, netif_tx_request, netif_tx_response), tx_pages, notify),
            RxFront(FrontRing(rx_ring.view, netif_rx_request, netif_rx_response), rx_pages, notify),
            sg,
            offload,
            gso,
        )
        kernel.events.bind(port, self.on_event)
        return {
            Node.TX_RING_REF: tx_ring.ref,
            Node.RX_RING_REF: rx_ring.ref,
            Node.EVENT_CHANNEL: port,
            Node.REQUEST_RX_COPY: 1,
            Node.RX_NOTIFY: 1,
            Node.SG: 1,
            Node.NO_CSUM_OFFLOAD: int(not self._offload),
            Node.GSO_TCPV4: int(self._offload),
        }

    def established(self) -> Task[None]:
        """There is nothing to read: the MAC address is the toolstack's."""
        yield from ()

    def idle(self) -> bool:
        """Whether nothing waits to be sent."""
        connection = self._connection
        try:
            return connection is None or connection.tx.idle()
        except RingBroken as broken:
            self.give_up(broken)
            return True

    def interrupt(self) -> None:
        """Takes what has come and sends what waits, until neither ring has news."""
        connection = self._connection
        while connection is not None:
            connection.tx.reap()
            connection.tx.transmit()
            for packet in connection.rx.receive():
                if self.connected:  # else this end is not ready to answer yet, or no more
                    self._received(packet)
            if self._connection is not connection:
                return  # a frame's receiver has found the ring broken
            tx_more = connection.tx.final_check()
            if not connection.rx.ring.final_check() and not tx_more:
                return

    def drop(self) -> None:
        """Gives back everything of the connection; packets not sent yet are lost."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self.kernel.events.close(connection.port)
        connection.tx.ring.release()
        connection.rx.ring.release()
        for own in (*connection.rings, *connection.tx.pages, *connection.rx.pages):
            take_back(self.kernel, own)
