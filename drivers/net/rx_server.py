"""Puts packets into a front's rx ring: the receiving half of net back, without xenstore and without waiting.

A packet needs one posted page for each 4 KiB, filled from its beginning; all slots but the last say
NETRXF_more_data. Packets for which the front has not posted enough pages wait here, up to a limit for each port
they come from; what comes then is dropped and counted.
"""

from collections.abc import Callable, Hashable
from typing import Final

import numpy as np

from drivers.net import checksum
from drivers.net.copier import Copier
from drivers.net.fair_queue import FairQueue
from drivers.net.protocol import MAX_PACKET, Packet, slots_of
from drivers.ring import BackRing
from hypervisor.public.io.netif import (
    NETIF_RSP_ERROR,
    NETRXF_csum_blank,
    NETRXF_data_validated,
    NETRXF_more_data,
    netif_rx_request,
    netif_rx_response,
)
from hypervisor.public.types import PAGE_SIZE, DomId

TURN_PACKETS: Final = 32
CSUM_BLANK, DATA_VALIDATED = int(NETRXF_csum_blank), int(NETRXF_data_validated)
MORE_DATA: Final = int(NETRXF_more_data)


class RxServer:
    """One rx ring. `sg`: the front takes packets of several slots; `csum`: and such with a blank checksum."""

    def __init__(
        self, ring: BackRing, copier: Copier, domid: DomId, sg: bool, csum: bool, notify: Callable[[], None]
    ) -> None:
        self._ring = ring
        self._copier = copier
        self._domid = domid
        self._max = MAX_PACKET if sg else PAGE_SIZE
        self._csum = csum
        self._notify = notify
        self._queue = FairQueue()
        self._answer = np.zeros(1, netif_rx_response.dtype)
        self.dropped = 0

    def queue(self, source: Hashable, packet: Packet) -> None:
        """Deliver a packet that came in at port `source` in one of the next turns, or drop it."""
        if packet.csum_blank and not self._csum:
            packet = Packet(checksum.fill(packet.data), data_validated=True)
        if not 0 < len(packet.data) <= self._max or not self._queue.add(source, packet):
            self.dropped += 1

    def serve(self, crowd: int = 1) -> bool:
        """One turn, bounded and shared with `crowd`; True if there is more to do. Raises RingBroken."""
        if not self._queue:
            return False
        packets, requests = self._match(max(TURN_PACKETS // crowd, 1))
        parts = self._parts(packets, requests)
        done = self._copier.deliver(self._domid, [(ref, data) for _, ref, _, data in parts])
        for (id, _, flags, data), okay in zip(parts, done, strict=True):
            self._answer[0] = (id, 0, flags, len(data) if okay else NETIF_RSP_ERROR)
            self._ring.put([self._answer.tobytes()])
        if parts and self._ring.push():
            self._notify()
        return bool(self._queue) and self._ring.final_check(slots_of(len(self._queue.first().data)))

    def _match(self, most: int) -> tuple[list[Packet], bytes]:
        """At most so many packets that can go now, and the posted pages that they fill."""
        waiting = self._ring.waiting
        packets: list[Packet] = []
        slots = 0
        while self._queue and len(packets) < most:
            needed = slots_of(len(self._queue.first().data))
            if slots + needed > waiting:
                break
            slots += needed
            packets.append(self._queue.take())
        return packets, self._ring.take(slots)

    def _parts(self, packets: list[Packet], requests: bytes) -> list[tuple[int, int, int, memoryview]]:
        """(id, reference, flags, data) of each page to fill."""
        pages = iter(self._ring.records(requests, netif_rx_request).tolist())
        parts = []
        for packet in packets:
            flags = (packet.csum_blank * CSUM_BLANK) | (
                (packet.csum_blank or packet.data_validated) * DATA_VALIDATED
            )
            data = memoryview(packet.data)
            for at in range(0, len(data), PAGE_SIZE):
                id, _, ref = next(pages)
                more = MORE_DATA if at + PAGE_SIZE < len(data) else 0
                parts.append((id, ref, flags | more, data[at : at + PAGE_SIZE]))
                flags = 0
        return parts
