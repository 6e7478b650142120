"""This host's end of all networks at one UDP port: whose a packet is that came in. State code.

Invariant: what a packet costs does not depend on what is in it: it is looked up by its header, and counted if it is nobody's.
"""

from typing import NamedTuple

from drivers.net.vxlan.header import ETHERNET_SIZE, HEADER, Bad, fault
from drivers.net.vxlan.segment import Peer, Segment


class Arrived(NamedTuple):
    """A frame that a peer has sent."""

    segment: Segment
    peer: Peer
    frame: bytes


class Vtep:
    """Owns which networks there are at the port."""

    def __init__(self) -> None:
        self._segments: dict[bytes, Segment] = {}
        self.bad = dict.fromkeys(Bad, 0)
        """Packets that were dropped because they are of none of the networks."""

    @property
    def is_empty(self) -> bool:
        """Whether there is no network."""
        return not self._segments

    def has(self, vni: int) -> bool:
        """Whether the network of that number is here."""
        return any(segment.vni == vni for segment in self._segments.values())

    def add(self, segment: Segment) -> None:
        """One more network; ValueError if there is one of that number."""
        if segment.header in self._segments:
            raise ValueError(f"there is a network of VNI {segment.vni}")
        self._segments[segment.header] = segment

    def remove(self, segment: Segment) -> None:
        """The network is gone."""
        del self._segments[segment.header]

    def received(self, packet: bytes, host: str) -> Arrived | None:
        """The frame in a packet that has come from `host`; None, and counted, if it is nobody's."""
        segment = self._segments.get(packet[: HEADER.size])
        if segment is None or len(packet) < HEADER.size + ETHERNET_SIZE:
            self.bad[fault(packet)] += 1
            return None
        peer = segment.came_from(host, len(packet) - HEADER.size)
        return Arrived(segment, peer, packet[HEADER.size :]) if peer is not None else None
