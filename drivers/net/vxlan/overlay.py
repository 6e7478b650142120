"""VXLAN ports of switches: what guests send goes out to the hosts behind which its receivers are, and what comes in is handed on.

A frame leaves as on a wire: with its checksum, and of no more bytes than the network has. A TCP segment over IPv4 that is
longer, whether it stands for many or not, is cut; anything else that is longer is dropped and counted, and no ICMP message says
so, for a bridge has no address to say it from.

Whoever sends too much, guest or host, loses packets: of what has come a turn takes TURN_PACKETS, then it is others' turn. What
the host has no room for is dropped and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Final

from domains.kernel.kernel import Kernel
from drivers.net import checksum
from drivers.net.protocol import Packet
from drivers.net.segmentation import segments_of, split
from drivers.net.switch import Switch
from drivers.net.vxlan.flow import flow_of
from drivers.net.vxlan.segment import End, Peer, Segment
from drivers.net.vxlan.udp import UdpEnd
from drivers.net.vxlan.vtep import Vtep

TURN_PACKETS: Final = 32
"""Packets taken in one turn of the loop."""
TURN_BYTES: Final = 1 << 16
"""A turn ends with the packet that makes it so many bytes: a peer may send frames of 64 KiB."""
Send = Callable[[bytes, End, int], bool]
"""Gets a packet, where it goes, and the number of its flow; whether the host took it."""


class Overlay:
    """Connects `switch` with the other hosts of a network. Guests that come from now on get the network's MTU."""

    def __init__(self, switch: Switch, segment: Segment, send: Send) -> None:
        self.segment = segment
        self.switch = switch
        self._send = send
        self._last: tuple[Packet, list[tuple[bytes, int]]] = Packet(b""), []
        """The packet that was made ready last, which may go to several peers; its frames and their flows."""
        switch.mtu = segment.mtu

    def set_peers(self, ends: Sequence[End]) -> None:
        """Let the other hosts be at these ends, no two of which have one address."""
        gone, new = self.segment.set_peers(ends)
        for peer in gone:
            self.switch.detach(peer)
        for peer in new:
            self.switch.attach(peer, partial(self._deliver, peer), isolated=True)

    def close(self) -> None:
        """Leave the switch."""
        self.set_peers([])
        self.switch.mtu = None

    def arrived(self, peer: Peer, frame: bytes) -> None:
        """A peer has sent a frame. What the host's own network has left to a device that it never reached is made good: a
        checksum, and that a segment is cut.
        """
        packet = Packet(frame, checksum.is_blank(frame))
        self.switch.accept(peer, segments_of(packet, self.segment.largest_frame))

    def _deliver(self, peer: Peer, _source: Hashable, packet: Packet) -> None:
        """The switch has something for a peer."""
        if packet is not self._last[0]:
            self._last = packet, self._frames(packet)
        segment = self.segment
        for frame, flow in self._last[1]:
            if self._send(segment.header + frame, peer.end, flow):
                peer.sent_frames += 1
                peer.sent_bytes += len(frame)
            else:
                segment.unsent += 1

    def _frames(self, packet: Packet) -> list[tuple[bytes, int]]:
        """What leaves for a packet."""
        frames = []
        for one in split(segments_of(packet, self.segment.largest_frame)):
            if len(one.data) > self.segment.largest_frame:
                self.segment.too_big += 1
                continue
            frame = checksum.fill(one.data) if one.csum_blank else one.data
            frames.append((frame, flow_of(frame)))
        return frames


class VxlanEnd:
    """All networks at one UDP port of this host's address `host`. Raises UdpError if there can be no such port."""

    def __init__(self, kernel: Kernel, host: str, port: int) -> None:
        self._kernel = kernel
        self._udp = UdpEnd(host, port)
        self._overlays: dict[int, Overlay] = {}
        self.vtep = Vtep()
        self.end: End = host, port
        kernel.add_reader(self._udp.fileno(), self._take)

    def attach(self, switch: Switch, vni: int, mtu: int) -> Overlay:
        """Connect a switch with a network; ValueError if that is connected already."""
        segment = Segment(vni, mtu)
        self.vtep.add(segment)
        self._overlays[vni] = Overlay(switch, segment, self._udp.send)
        return self._overlays[vni]

    def detach(self, overlay: Overlay) -> None:
        """The switch is not connected with the network any more."""
        overlay.close()
        self.vtep.remove(overlay.segment)
        del self._overlays[overlay.segment.vni]

    def close(self) -> None:
        """Harmless if it is closed already."""
        if self._udp.fileno() >= 0:
            self._kernel.remove_reader(self._udp.fileno())
            self._udp.close()

    def _take(self) -> None:
        """Packets have come."""
        size = 0
        for _ in range(TURN_PACKETS):
            came = self._udp.receive() if size < TURN_BYTES else None
            if came is None:
                return
            size += len(came[0])
            arrived = self.vtep.received(*came)
            if arrived is not None:
                self._overlays[arrived.segment.vni].arrived(arrived.peer, arrived.frame)
