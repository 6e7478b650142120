"""Puts packets into a front's rx ring: the receiving half of net back, without xenstore and without waiting.

    queue ─► match: pages to fill, for somebody to copy into ─► finish: answers ─► more?

A packet needs one posted page for each 4 KiB, filled from its beginning; all slots but the last say
NETRXF_more_data. Behind the first slot of a TCP segment that stands for many comes an extra info, which uses up a
posted page as well; a front that does not take such gets the many. Packets for which the front has not posted enough
pages wait here, up to a limit for each port they come from; what comes then is dropped and counted.
"""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from drivers.net import checksum
from drivers.net.copier import Filling
from drivers.net.fair_queue import FairQueue
from drivers.net.protocol import MAX_PACKET, Packet, gso_extra
from drivers.net.segmentation import split
from drivers.ring import BackRing
from hypervisor.public.io.netif import (
    NETIF_RSP_ERROR,
    NETRXF_csum_blank,
    NETRXF_data_validated,
    NETRXF_extra_info,
    NETRXF_more_data,
    netif_rx_request,
    netif_rx_response,
)
from hypervisor.public.types import PAGE_SIZE, DomId

CSUM_BLANK, DATA_VALIDATED = int(NETRXF_csum_blank), int(NETRXF_data_validated)
MORE_DATA, EXTRA_INFO = int(NETRXF_more_data), int(NETRXF_extra_info)


class Page(NamedTuple):
    """A posted page that is to be filled, and what its answer says; behind it the extra info `extra`, if any."""

    id: int
    ref: int
    flags: int
    data: memoryview
    extra: bytes = b""


class RxServer:
    """One rx ring, of `domid`'s front. `sg`: the front takes packets of several slots; `csum`: and such with a blank
    checksum; `gso`: and TCP segments that stand for many.
    """

    def __init__(self, ring: BackRing, domid: DomId, sg: bool, csum: bool, gso: bool = False) -> None:
        self._ring = ring
        self._domid = domid
        self._max = MAX_PACKET if sg else PAGE_SIZE
        self._csum = csum
        self._gso = gso and sg and csum
        self._queue = FairQueue()
        self._matched: list[Page] = []
        self._answer = np.zeros(1, netif_rx_response.dtype)
        self.dropped = 0

    def queue(self, source: Hashable, packet: Packet) -> None:
        """Deliver a packet that came in at port `source` in one of the next turns, or drop it."""
        if packet.gso_size and not self._gso:
            for segment in split(packet):
                self.queue(source, segment)
            return
        if packet.csum_blank and not self._csum:
            packet = Packet(checksum.fill(packet.data), data_validated=True)
        if not 0 < len(packet.data) <= self._max or not self._queue.add(source, packet):
            self.dropped += 1

    def match(self, most: int) -> list[Filling]:
        """What is to be copied where, of a packet that can go now, and more in at most so many slots. Raises RingBroken."""
        self._matched = self._parts(*self._match(most)) if self._queue else []
        return [Filling(self._domid, page.ref, page.data) for page in self._matched]

    def finish(self, done: Sequence[bool]) -> bool:
        """Answer what was matched; whether the front wants to hear of it. Raises RingBroken."""
        pages, self._matched = self._matched, []
        for (id, _, flags, data, extra), copied in zip(pages, done, strict=True):
            self._answer[0] = (id, 0, flags, len(data) if copied else NETIF_RSP_ERROR)
            self._ring.put([self._answer.tobytes(), extra] if extra else [self._answer.tobytes()])
        return self._ring.push()

    def end_round(self) -> bool:
        """Whether a packet can go now; if not, the front will say when one can, if there is one. Raises RingBroken."""
        return bool(self._queue) and self._ring.final_check(self._queue.first().slots)

    def _match(self, most: int) -> tuple[list[Packet], bytes]:
        """The packets that can go now, and the posted pages that they fill."""
        waiting = self._ring.waiting
        packets: list[Packet] = []
        slots = 0
        while self._queue:
            needed = self._queue.first().slots
            if slots + needed > waiting or (packets and slots + needed > most):
                break
            slots += needed
            packets.append(self._queue.take())
        return packets, self._ring.take(slots)

    def _parts(self, packets: list[Packet], requests: bytes) -> list[Page]:
        """Each page to fill."""
        pages = iter(self._ring.records(requests, netif_rx_request).tolist())
        parts = []
        for packet in packets:
            flags = (packet.csum_blank * CSUM_BLANK) | (
                (packet.csum_blank or packet.data_validated) * DATA_VALIDATED
            )
            extra = gso_extra(packet.gso_size) if packet.gso_size else b""
            data = memoryview(packet.data)
            for at in range(0, len(data), PAGE_SIZE):
                id, _, ref = next(pages)
                more = MORE_DATA if at + PAGE_SIZE < len(data) else 0
                if extra:
                    next(pages)
                    flags |= EXTRA_INFO
                parts.append(Page(id, ref, flags | more, data[at : at + PAGE_SIZE], extra))
                flags, extra = 0, b""
        return parts
