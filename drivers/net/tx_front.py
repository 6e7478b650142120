"""Sends packets by way of a tx ring: the sending half of net front, without xenstore and without waiting.

    send ─► waiting ─► the ring and its pages: flying ─► the back end's answer ─► the pages are free again

What does not fit into the ring waits, up to a limit. The back end is not trusted: an answer to nothing is RingBroken.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from drivers.net.own_page import OwnPage
from drivers.net.protocol import Packet, gso_extra
from drivers.ring import FrontRing, RingBroken
from hypervisor.public.io.netif import (
    NETIF_RSP_NULL,
    NETTXF_csum_blank,
    NETTXF_data_validated,
    NETTXF_extra_info,
    NETTXF_more_data,
    netif_tx_request,
    netif_tx_response,
)
from hypervisor.public.types import PAGE_SIZE

WAITING_FRAMES: Final = 256
MORE, EXTRA = int(NETTXF_more_data), int(NETTXF_extra_info)
BLANK: Final = int(NETTXF_csum_blank | NETTXF_data_validated)


class TxFront:
    """One tx ring. `pages` hold what is sent; `notify` sends the back end its event."""

    def __init__(self, ring: FrontRing, pages: Sequence[OwnPage], notify: Callable[[], None]) -> None:
        self.ring = ring
        self.pages = pages
        self._notify = notify
        self._free = list(range(len(pages)))
        self._flying: set[int] = set()
        self._waiting: deque[Packet] = deque()

    @property
    def room(self) -> int:
        """How many more packets may wait."""
        return WAITING_FRAMES - len(self._waiting)

    def send(self, packet: Packet) -> None:
        """Send a packet as soon as it fits; the caller has checked `room`. Raises RingBroken."""
        self._waiting.append(packet)
        self.transmit()

    def transmit(self) -> None:
        """Put waiting packets into the ring as long as they fit, and show them all at once. Raises RingBroken."""
        sent = False
        while self._waiting and self._fits(self._waiting[0].slots):
            self._put(self._waiting.popleft())
            sent = True
        if sent and self.ring.push():
            self._notify()

    def reap(self) -> None:
        """Take back the pages of what was sent. Raises RingBroken."""
        for id, status in self.ring.records(self.ring.take(), netif_tx_response).tolist():
            if status == NETIF_RSP_NULL:
                continue  # in the place of an extra info
            if id not in self._flying:
                raise RingBroken(f"an answer to slot {id}, which was not sent")
            self._flying.remove(id)
            self._free.append(id)

    def final_check(self) -> bool:
        """Before sleeping: whether there are answers; if not, the back end will say when. Raises RingBroken.

        It says so at once if something waits for their pages. Otherwise none is needed soon, and each event would cost
        both domains more than the frame did.
        """
        return self.ring.final_check(1 if self._waiting else len(self.pages) // 2)

    def idle(self) -> bool:
        """Whether nothing is on its way; if something is, every answer counts from now on. Raises RingBroken."""
        if self._flying:
            self.ring.final_check()
            self.reap()
        return not self._waiting and not self._flying

    def _fits(self, slots: int) -> bool:
        """Whether so many slots and pages are free; if not, the back end says when some may be."""
        if slots <= min(len(self._free), self.ring.free):
            return True
        self.reap()
        if slots <= min(len(self._free), self.ring.free):
            return True
        if self.ring.final_check():
            self.reap()
        return slots <= min(len(self._free), self.ring.free)

    def _put(self, packet: Packet) -> None:
        """A packet in its slots; behind the first comes what else there is to know of it."""
        frame, flags = packet.data, BLANK if packet.csum_blank else 0
        extra = gso_extra(packet.gso_size) if packet.gso_size else b""
        for at in range(0, len(frame), PAGE_SIZE):
            more = MORE if at + PAGE_SIZE < len(frame) else 0
            self._put_slot(frame, at, flags | more | (EXTRA if extra else 0))
            if extra:
                self.ring.put(extra)
            flags, extra = 0, b""

    def _put_slot(self, frame: bytes, at: int, flags: int) -> None:
        """One slot; the first one says the whole frame's size."""
        id = self._free.pop()
        piece = frame[at : at + PAGE_SIZE]
        page = self.pages[id]
        page.view[: len(piece)] = piece
        self._flying.add(id)
        size = len(piece) if at else len(frame)
        self.ring.put(netif_tx_request(gref=page.ref, flags=flags, id=id, size=size).pack())
