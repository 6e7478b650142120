"""Takes packets off an rx ring: the receiving half of net front, without xenstore and without waiting.

    post: pages to fill ─► the back end's answers: pieces of a packet ─► packets; the pages are posted again

The back end is not trusted: an answer to nothing, or a length beyond its page, is RingBroken.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from drivers.net.own_page import OwnPage
from drivers.net.protocol import MAX_SLOTS, Packet
from drivers.ring import FrontRing, RingBroken
from hypervisor.public.io.netif import (
    XEN_NETIF_EXTRA_FLAG_MORE,
    XEN_NETIF_EXTRA_TYPE_GSO,
    XEN_NETIF_GSO_TYPE_TCPV4,
    NETRXF_csum_blank,
    NETRXF_data_validated,
    NETRXF_extra_info,
    NETRXF_more_data,
    netif_extra_info,
    netif_rx_request,
    netif_rx_response,
)
from hypervisor.public.types import PAGE_SIZE

MORE, EXTRA = int(NETRXF_more_data), int(NETRXF_extra_info)
BLANK, VALIDATED = int(NETRXF_csum_blank), int(NETRXF_data_validated)
GSO, GSO_TCPV4 = int(XEN_NETIF_EXTRA_TYPE_GSO), int(XEN_NETIF_GSO_TYPE_TCPV4)


class RxFront:
    """One rx ring, all of whose `pages` are posted; `notify` sends the back end its event."""

    def __init__(self, ring: FrontRing, pages: Sequence[OwnPage], notify: Callable[[], None]) -> None:
        self.ring = ring
        self.pages = pages
        self._notify = notify
        self._posted: dict[int, None] = {}  # indices of pages, in the ring's order
        self._partial: list[bytes] = []  # of a packet of several slots
        self._lost = False  # that packet is not to be delivered
        self._flags = 0  # of its first slot
        self._gso_size = 0  # as its extra info says
        self._in_extras = False
        self._more = False  # it goes on with another slot
        self._post(range(len(pages)))

    def receive(self) -> list[Packet]:
        """The packets that have arrived whole; their pages are posted again. Raises RingBroken."""
        entries = self.ring.take()
        rows = self.ring.records(entries, netif_rx_response).tolist()
        extras = self.ring.records(entries, netif_extra_info)
        ids: list[int] = []
        packets: list[Packet] = []
        for at, row in enumerate(rows):
            ids.append(self._take_extra(extras[at]) if self._in_extras else self._take_piece(*row))
            if self._more or self._in_extras:
                continue
            if not self._lost:
                blank, valid = bool(self._flags & BLANK), bool(self._flags & VALIDATED)
                packets.append(Packet(b"".join(self._partial), blank, valid, self._gso_size))
            self._begin_packet()
        if ids:
            self._post(ids)
        return packets

    def _post(self, ids: Iterable[int]) -> None:
        """Give the back end pages to fill."""
        for id in ids:
            self._posted[id] = None
            self.ring.put(netif_rx_request(id=id, gref=self.pages[id].ref).pack())
        if self.ring.push():
            self._notify()

    def _begin_packet(self) -> None:
        """What comes next is a packet's first slot."""
        self._partial.clear()
        self._lost = self._more = self._in_extras = False
        self._gso_size = 0

    def _take_piece(self, id: int, offset: int, flags: int, status: int) -> int:
        """A page with a piece of a packet; its index."""
        if id not in self._posted or offset + max(status, 0) > PAGE_SIZE:
            raise RingBroken(f"an answer of {status} bytes at {offset} in page {id}")
        del self._posted[id]
        self._lost |= status < 0 or len(self._partial) == MAX_SLOTS
        if not self._more:
            self._flags = flags
            self._in_extras = bool(flags & EXTRA)
        if not self._lost:
            self._partial.append(bytes(self.pages[id].view[offset : offset + status]))
        self._more = bool(flags & MORE)
        return id

    def _take_extra(self, extra: np.void) -> int:
        """What else there is to know of a packet; the page in whose place in the ring it is, which is the next."""
        if not self._posted:
            raise RingBroken("an extra info in the place of no page")
        id = next(iter(self._posted))
        del self._posted[id]
        gso = extra["u"]["gso"]
        self._lost |= bool(extra["type"] != GSO or gso["type"] != GSO_TCPV4)
        self._gso_size = int(gso["size"])
        self._in_extras = bool(extra["flags"] & XEN_NETIF_EXTRA_FLAG_MORE)
        return id
