"""A host's IPv4: frames of one interface come in, frames go out; each datagram finds its protocol.

    receive(frame) ─► arp │ ipv4 ─► icmp │ udp │ tcp          send ─► next hop ─► arp ─► transmit(frame)

Source: RFC 894, RFC 1122 §3.3. State code: time is the Clock's, randomness the caller's. A datagram is taken if it
is for this host or for all of its network; what its sender says of itself must be an address that a host can have.
"""

import errno
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Address, IPv4Interface
from typing import Final, NamedTuple

from drivers.net.ip.arp import Arp
from drivers.net.ip.clock import Clock
from drivers.net.ip.icmp import Icmp
from drivers.net.ip.ipv4 import BROADCAST, HEADER, ICMP, TCP, UDP, Datagram, build, parse, text_of
from drivers.net.ip.tcp.ports import Tcp
from drivers.net.ip.tcp.segment import HEADER as TCP_HEADER
from drivers.net.ip.udp import Udp
from drivers.net.protocol import MAX_PACKET, Packet

ETHERNET_HEADER: Final = 14
TO_ALL: Final = b"\xff" * 6
TYPE_IPV4: Final = b"\x08\x00"
TYPE_ARP: Final = b"\x08\x06"
MAX_DATAGRAM: Final = 65535
MAX_SEGMENT: Final = MAX_PACKET - ETHERNET_HEADER - HEADER.size - TCP_HEADER.size
"""Bytes in a TCP segment that stands for many."""


class Link(NamedTuple):
    """What the device can do."""

    mtu: int = 1500
    """Bytes of the largest IP packet."""
    offload: bool = False
    """It fills in checksums of TCP and UDP (NETTXF_csum_blank)."""
    segmentation: bool = False
    """And it cuts TCP segments that stand for many."""


PLAIN: Final = Link()


class Stack:
    """`transmit` sends an Ethernet frame of the device with address `mac`; `random_bits` gives so many random bits."""

    def __init__(
        self,
        clock: Clock,
        mac: bytes,
        interface: IPv4Interface,
        gateway: IPv4Address | None,
        transmit: Callable[[Packet], object],
        random_bits: Callable[[int], int],
        link: Link = PLAIN,
    ) -> None:
        mtu, offload, segmentation = link
        self.mac = mac
        self.interface = interface
        self.mtu = min(mtu, MAX_DATAGRAM)
        self._address = interface.ip.packed
        self._gateway = b"" if gateway is None else gateway.packed
        self._network, self._mask = int(interface.network.network_address), int(interface.netmask)
        self._broadcast = interface.network.broadcast_address.packed
        self._transmit = transmit
        self._offload = offload
        self.arp = Arp(clock, mac, self._address, self._send_arp)
        self.icmp = Icmp(self.send, self._unreachable)
        send_blank = partial(self.send, csum_blank=True) if offload else self.send
        self.udp = Udp(self._address, send_blank, offload)
        mss = self.mtu - HEADER.size - TCP_HEADER.size
        most = MAX_SEGMENT if offload and segmentation else 0
        self.tcp = Tcp(clock, self._address, mss, self._send_tcp, random_bits, offload, most)

    # --- out -------------------------------------------------------------------------------------

    def send(
        self, destination: bytes, protocol: int, payload: bytes, csum_blank: bool = False, gso_size: int = 0
    ) -> None:
        """Send a datagram; what `check` refuses is dropped, for it may be the answer to a stranger."""
        if self._refusal(destination, gso_size or len(payload)):
            return
        packet = build(self._address, destination, protocol, payload)
        if destination in (BROADCAST, self._broadcast):
            self._send_frame(packet, csum_blank, gso_size, TO_ALL)
        else:
            hop = destination if self._is_near(destination) else self._gateway
            self.arp.send(hop, partial(self._send_frame, packet, csum_blank, gso_size))

    def _send_tcp(self, destination: bytes, protocol: int, payload: bytes, gso_size: int) -> None:
        self.send(destination, protocol, payload, self._offload, gso_size)

    def check(self, destination: bytes, size: int = 0) -> None:
        """Raises OSError, ENETUNREACH or EMSGSIZE, where a datagram with `size` bytes behind its IP header cannot
        go.
        """
        if (error := self._refusal(destination, size)) is not None:
            raise error

    def _refusal(self, destination: bytes, size: int) -> OSError | None:
        if size + HEADER.size > self.mtu:
            return OSError(errno.EMSGSIZE, f"a datagram of {size} bytes; the MTU is {self.mtu}")
        if self._gateway or self._is_near(destination) or destination == BROADCAST:
            return None
        return OSError(errno.ENETUNREACH, f"no route to {text_of(destination)}")

    def _is_near(self, destination: bytes) -> bool:
        """Whether an address is in this interface's own network."""
        return int.from_bytes(destination, "big") & self._mask == self._network

    def _send_frame(self, packet: bytes, csum_blank: bool, gso_size: int, mac: bytes) -> None:
        self._transmit(Packet(mac + self.mac + TYPE_IPV4 + packet, csum_blank, gso_size=gso_size))

    def _send_arp(self, mac: bytes, message: bytes) -> None:
        self._transmit(Packet(mac + self.mac + TYPE_ARP + message))

    # --- in --------------------------------------------------------------------------------------

    def receive(self, packet: Packet) -> None:
        """A frame of the link; of the checksum of its TCP or UDP segment the device may know already."""
        frame = packet.data
        to_all = frame[:1] and frame[0] & 1
        if not to_all and frame[:6] != self.mac:
            return
        kind = frame[12:ETHERNET_HEADER]
        if kind == TYPE_ARP:
            self.arp.receive(frame[ETHERNET_HEADER:])
        elif kind == TYPE_IPV4:
            datagram = parse(frame[ETHERNET_HEADER:])
            if datagram is not None and self._is_host(datagram.source):
                self._receive_datagram(datagram, bool(to_all), packet.csum_blank or packet.data_validated)

    def _receive_datagram(self, datagram: Datagram, by_group: bool, trusted: bool) -> None:
        """`by_group`: its frame was for many stations, so that it must be for many hosts (RFC 1122 §3.3.6)."""
        to_all = datagram.destination in (BROADCAST, self._broadcast)
        if not to_all and (by_group or datagram.destination != self._address):
            return
        if datagram.protocol == TCP and not to_all:
            self.tcp.receive(datagram, trusted=trusted)
        elif datagram.protocol == UDP:
            if not self.udp.receive(datagram, trusted=trusted) and not to_all:
                self.icmp.refuse_port(datagram)
        elif datagram.protocol == ICMP:
            self.icmp.receive(datagram, to_all=to_all)

    def _is_host(self, source: bytes) -> bool:
        """Whether a datagram may come from this address (RFC 1122 §3.2.1.3)."""
        return 0 < source[0] < 224 and source[0] != 127 and source not in (self._address, self._broadcast)

    def _unreachable(self, _source: bytes, quoted: bytes) -> None:
        """Somebody could not deliver a datagram of ours, of which `quoted` is the beginning."""
        if len(quoted) < HEADER.size + 4:
            return
        size = (quoted[0] & 0xF) * 4
        source, destination = quoted[12:16], quoted[16:20]
        ports = quoted[size : size + 4]
        if source == self._address and quoted[9] == TCP and len(ports) == 4:
            self.tcp.unreachable(
                destination, int.from_bytes(ports[:2], "big"), int.from_bytes(ports[2:], "big")
            )
