"""Packets that wait for one front, a queue for each port they come from, taken in turn.

A sender that floods fills its own queue and waits behind itself: the packets of the others pass by, and only
the flood's are dropped. State code.
"""

from collections import deque
from collections.abc import Hashable
from typing import Final

from drivers.net.protocol import Packet

SOURCE_BYTES: Final = 512 << 10
"""Bytes that wait from one source."""


class FairQueue:
    """A source is there while it has packets."""

    def __init__(self) -> None:
        self._queues: dict[Hashable, deque[Packet]] = {}  # whose turn it is comes first
        self._bytes: dict[Hashable, int] = {}

    def __bool__(self) -> bool:
        return bool(self._queues)

    def add(self, source: Hashable, packet: Packet) -> bool:
        """Append a packet; False if its source has too much waiting."""
        waiting = self._bytes.get(source, 0) + len(packet.data)
        if waiting > SOURCE_BYTES:
            return False
        self._bytes[source] = waiting
        self._queues.setdefault(source, deque()).append(packet)
        return True

    def first(self) -> Packet:
        """The packet that is next, while there is one."""
        return next(iter(self._queues.values()))[0]

    def take(self) -> Packet:
        """The next packet; its source's turn comes again after all others'."""
        source, queue = next(iter(self._queues.items()))
        packet = queue.popleft()
        del self._queues[source]
        if queue:
            self._queues[source] = queue
            self._bytes[source] -= len(packet.data)
        else:
            del self._bytes[source]
        return packet
