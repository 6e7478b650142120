"""Net front: a guest's network interface.

    nic = NetFront(kernel, "device/vif/0", received)
    nic.connect()
    nic.send(frame)              `received(packet)` is called from the loop

Source: Xen public/io/netif.h. Owns both rings, the event channel, the pages for sending and the pages posted
for receiving. Frames are copied between the caller's bytes and granted pages. A frame may have up to 64 KiB,
if the back end has "feature-sg". Checksums of TCP and UDP are the caller's, unless it wants `offload`: then
those of frames that go may be left blank, and those of frames that come may be; and TCP segments that come, and go,
may stand for many. What does not fit into the ring
waits, up to a limit, then `send` says no. The back end is not trusted: an answer to nothing, or a length beyond its page, is
RingBroken.
"""

from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np

from domains.kernel.kernel import Kernel
from domains.kernel.memory import Page
from drivers.front_device import FrontDevice, Nodes
from drivers.net.protocol import MAX_PACKET, MAX_SLOTS, MIN_PACKET, Node, Packet, gso_extra
from drivers.ring import FrontRing, RingBroken
from hypervisor.public.io.netif import (
    NETIF_RSP_NULL,
    XEN_NETIF_EXTRA_FLAG_MORE,
    XEN_NETIF_EXTRA_TYPE_GSO,
    XEN_NETIF_GSO_TYPE_TCPV4,
    NETRXF_csum_blank,
    NETRXF_data_validated,
    NETRXF_extra_info,
    NETRXF_more_data,
    NETTXF_csum_blank,
    NETTXF_data_validated,
    NETTXF_extra_info,
    NETTXF_more_data,
    netif_extra_info,
    netif_rx_request,
    netif_rx_response,
    netif_tx_request,
    netif_tx_response,
)
from hypervisor.public.types import PAGE_SIZE, GrantRef, Port

TX_PAGES: Final = 64
RX_PAGES: Final = 64
WAITING_FRAMES: Final = 256
RX_MORE, TX_MORE = int(NETRXF_more_data), int(NETTXF_more_data)
RX_BLANK, RX_VALIDATED = int(NETRXF_csum_blank), int(NETRXF_data_validated)
RX_EXTRA, TX_EXTRA = int(NETRXF_extra_info), int(NETTXF_extra_info)
BLANK: Final = int(NETTXF_csum_blank | NETTXF_data_validated)
GSO, GSO_TCPV4 = int(XEN_NETIF_EXTRA_TYPE_GSO), int(XEN_NETIF_GSO_TYPE_TCPV4)


class Granted(NamedTuple):
    """A page that the back end may use."""

    page: Page
    ref: GrantRef
    view: memoryview


class Connection(NamedTuple):
    """What is held while connected."""

    port: Port
    rings: tuple[Granted, Granted]
    tx: FrontRing
    rx: FrontRing
    tx_pages: list[Granted]
    rx_pages: list[Granted]
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
        self._connection: Connection | None = None
        self._free: list[int] = []  # of tx_pages
        self._flying: set[int] = set()
        self._waiting: deque[Packet] = deque()
        self._posted: dict[int, None] = {}  # of rx_pages, in the ring's order
        self._partial: list[bytes] = []  # of a frame of several slots
        self._lost = False  # that frame is not to be delivered
        self._flags = 0  # of its first slot
        self._gso_size = 0  # as its extra info says
        self._in_extras = False
        self._more = False  # it goes on with another slot
        self.mac = bytes.fromhex((self.end.read(Node.MAC) or "00:00:00:00:00:00").replace(":", ""))

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
        return WAITING_FRAMES - len(self._waiting)

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
        self._waiting.append(Packet(frame, csum_blank, gso_size=gso_size))
        try:
            self._transmit(connection)
        except RingBroken as broken:
            self.give_up(broken)
        return True

    # --- what a FrontDevice does -----------------------------------------------------------------

    def prepare(self) -> Nodes:
        kernel, end = self.kernel, self.end
        tx_ring, rx_ring = self._granted(), self._granted()
        sg = end.read_peer(Node.SG) == "1"
        port = kernel.events.alloc_unbound(end.peer_domid)
        self._connection = connection = Connection(
            port,
            (tx_ring, rx_ring),
            FrontRing(tx_ring.view, netif_tx_request, netif_tx_response),
            FrontRing(rx_ring.view, netif_rx_request, netif_rx_response),
            [self._granted() for _ in range(TX_PAGES)],
            [self._granted() for _ in range(RX_PAGES)],
            sg,
            self._offload and end.read_peer(Node.NO_CSUM_OFFLOAD) != "1",
            self._offload and sg and end.read_peer(Node.GSO_TCPV4) == "1",
        )
        self._free = list(range(TX_PAGES))
        self._post(connection, range(RX_PAGES))
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

    def established(self) -> None:
        """There is nothing to read: the MAC address is the toolstack's."""

    def idle(self) -> bool:
        connection = self._connection
        if connection is not None and self._flying:
            try:
                connection.tx.final_check()  # now every answer counts
                self._reap(connection)
            except RingBroken as broken:
                self.give_up(broken)
        return not self._waiting and not self._flying

    def interrupt(self) -> None:
        connection = self._connection
        while connection is not None:
            self._reap(connection)
            self._transmit(connection)
            self._receive(connection)
            if self._connection is not connection:
                return  # a frame's receiver has closed it
            tx_more = connection.tx.final_check(self._worth_hearing())
            if not connection.rx.final_check() and not tx_more:
                return

    def drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self.kernel.events.close(connection.port)
        connection.tx.release()
        connection.rx.release()
        for granted in (*connection.rings, *connection.tx_pages, *connection.rx_pages):
            if self.kernel.grants.end_access(granted.ref):
                self.kernel.memory.free_page(granted.page)
        self._waiting.clear()
        self._flying.clear()
        self._posted.clear()
        self._begin_frame()

    # --- sending ---------------------------------------------------------------------------------

    def _transmit(self, connection: Connection) -> None:
        """Put waiting frames into the ring as long as they fit, and show them all at once."""
        sent = False
        while self._waiting:
            packet = self._waiting[0]
            if not self._fits(connection, packet.slots):
                break
            self._waiting.popleft()
            frame, flags = packet.data, BLANK if packet.csum_blank else 0
            extra = gso_extra(packet.gso_size) if packet.gso_size else b""
            for at in range(0, len(frame), PAGE_SIZE):
                more = TX_MORE if at + PAGE_SIZE < len(frame) else 0
                self._put(connection, frame, at, flags | more | (TX_EXTRA if extra else 0))
                if extra:
                    connection.tx.put(extra)
                flags, extra = 0, b""
            sent = True
        if sent and connection.tx.push():
            self.kernel.events.notify(connection.port)

    def _fits(self, connection: Connection, slots: int) -> bool:
        """Whether so many slots and pages are free; if not, the back end says when some may be."""
        if slots <= min(len(self._free), connection.tx.free):
            return True
        self._reap(connection)
        if slots <= min(len(self._free), connection.tx.free):
            return True
        if connection.tx.final_check():
            self._reap(connection)
        return slots <= min(len(self._free), connection.tx.free)

    def _put(self, connection: Connection, frame: bytes, at: int, flags: int) -> None:
        """One slot; the first one says the whole frame's size."""
        id = self._free.pop()
        piece = frame[at : at + PAGE_SIZE]
        granted = connection.tx_pages[id]
        granted.view[: len(piece)] = piece
        self._flying.add(id)
        request = netif_tx_request(
            gref=granted.ref,
            flags=flags,
            id=id,
            size=len(piece) if at else len(frame),
        )
        connection.tx.put(request.pack())

    def _worth_hearing(self) -> int:
        """After how many answers the back end shall say so: at once if something waits for their pages.

        Otherwise none is needed soon, and each event would cost both domains more than the frame did.
        """
        return 1 if self._waiting else TX_PAGES // 2

    def _reap(self, connection: Connection) -> None:
        """Take back the pages of what was sent."""
        for id, status in connection.tx.records(connection.tx.take(), netif_tx_response).tolist():
            if status == NETIF_RSP_NULL:
                continue  # in the place of an extra info
            if id not in self._flying:
                raise RingBroken(f"an answer to slot {id}, which was not sent")
            self._flying.remove(id)
            self._free.append(id)

    # --- receiving -------------------------------------------------------------------------------

    def _post(self, connection: Connection, ids: "range | list[int]") -> None:
        """Give the back end pages to fill."""
        for id in ids:
            self._posted[id] = None
            connection.rx.put(netif_rx_request(id=id, gref=connection.rx_pages[id].ref).pack())
        if connection.rx.push():
            self.kernel.events.notify(connection.port)

    def _receive(self, connection: Connection) -> None:
        """Take what has arrived and post its pages again; then hand out the frames."""
        entries = connection.rx.take()
        rows = connection.rx.records(entries, netif_rx_response).tolist()
        extras = connection.rx.records(entries, netif_extra_info)
        ids: list[int] = []
        frames: list[Packet] = []
        for at, row in enumerate(rows):
            if self._in_extras:
                ids.append(self._take_extra(extras[at]))
            else:
                ids.append(self._take_piece(connection, *row))
            if self._more or self._in_extras:
                continue
            if not self._lost:
                blank, valid = bool(self._flags & RX_BLANK), bool(self._flags & RX_VALIDATED)
                frames.append(Packet(b"".join(self._partial), blank, valid, self._gso_size))
            self._begin_frame()
        if ids:
            self._post(connection, ids)
        for frame in frames:
            if self.connected:  # else this end is not ready to answer yet, or no more
                self._received(frame)

    def _begin_frame(self) -> None:
        """What comes next is a frame's first slot."""
        self._partial.clear()
        self._lost = self._more = self._in_extras = False
        self._gso_size = 0

    def _take_piece(self, connection: Connection, id: int, offset: int, flags: int, status: int) -> int:
        """A page with a piece of a frame; its id."""
        if id not in self._posted or offset + max(status, 0) > PAGE_SIZE:
            raise RingBroken(f"an answer of {status} bytes at {offset} in page {id}")
        del self._posted[id]
        self._lost |= status < 0 or len(self._partial) == MAX_SLOTS
        if not self._more:
            self._flags = flags
            self._in_extras = bool(flags & RX_EXTRA)
        if not self._lost:
            self._partial.append(bytes(connection.rx_pages[id].view[offset : offset + status]))
        self._more = bool(flags & RX_MORE)
        return id

    def _take_extra(self, extra: np.void) -> int:
        """What else there is to know of a frame; the page in whose place in the ring it is, which is the next."""
        if not self._posted:
            raise RingBroken("an extra info in the place of no page")
        id = next(iter(self._posted))
        del self._posted[id]
        gso = extra["u"]["gso"]
        self._lost |= bool(extra["type"] != GSO or gso["type"] != GSO_TCPV4)
        self._gso_size = int(gso["size"])
        self._in_extras = bool(extra["flags"] & XEN_NETIF_EXTRA_FLAG_MORE)
        return id

    def _granted(self) -> Granted:
        page = self.kernel.memory.alloc_page()
        ref = self.kernel.grants.grant_access(self.end.peer_domid, page.mfn)
        return Granted(page, ref, self.kernel.cpu.view(page.va, PAGE_SIZE, True))
