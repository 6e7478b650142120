"""What Dom0's toolstack can be asked about networks over hosts: bridges' VXLAN ports (RFC 7348; drivers/net/vxlan). A part of
`operations.py`, which has the table of all.

An address is a text: `10.0.0.2`, `10.0.0.2:4789`, `fd00::2`, `[fd00::2]:4789`. Hosts have no names here: to ask for one would
hold Dom0.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Annotated, Any, Final, NamedTuple

from domains.control.arguments import Arguments, Count
from domains.control.description import InterfaceText
from domains.control.records import Length, Range, Record

VXLAN_PORT: Final = 4789
"""The UDP port that IANA has given to VXLAN."""
MAX_VNI: Final = (1 << 24) - 1
MAX_PEERS: Final = 256
"""Of one network: each frame for everybody goes to every one of them."""
MAX_ALL_PEERS: Final = 1024
"""Of all networks of a machine: each may have its share of stations remembered."""
MAX_NETWORKS: Final = 64
MIN_MTU: Final = 576
"""The least datagram that every IPv4 host takes (RFC 791)."""
MAX_MTU: Final = 65485
"""What fits into the largest IPv4 datagram behind all headers."""
UNDERLAY_MTU: Final = 1500
IPV4_OVERHEAD: Final = 50
"""Bytes before a packet of the network's: IPv4 20, UDP 8, VXLAN 8, Ethernet 14."""
IPV6_OVERHEAD: Final = 70
ADDRESS_ANY: Final = {False: "0.0.0.0", True: "::"}
"""All addresses of this host's, of IPv4 and, True, of IPv6."""

IPV4_IN_IPV6: Final = bytes(10) + b"\xff\xff"

AddressText = Annotated[str, Length(64)]
Peers = Annotated[tuple[AddressText, ...], Length(MAX_PEERS)]


class UdpAddress(NamedTuple):
    """An address of one host, in the form in which the host's network tells it, and a UDP port."""

    host: str
    port: int

    @property
    def is_ipv6(self) -> bool:
        """Whether it is one of IPv6."""
        return ":" in self.host

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if self.is_ipv6 else f"{self.host}:{self.port}"


def parse_host(text: str) -> str:
    """The address of one host, in its usual form. Raises ValueError with a reason of one line."""
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        packed = socket.inet_pton(family, text)
    except (OSError, ValueError):
        raise ValueError(f"'{text}' is no IP address, such as 10.0.0.2 or fd00::2") from None
    if is_of_many(packed):
        raise ValueError(f"'{text}' is not the address of one host wherever it is")
    return socket.inet_ntop(family, packed)


def is_of_many(packed: bytes) -> bool:
    """Whether an address, of 4 or 16 bytes, is of a group, of any host, of this network alone, or of IPv4 in IPv6's form."""
    if len(packed) == 4:
        return packed[0] == 0 or packed[0] >= 224
    link_local = packed[0] == 0xFE and packed[1] & 0xC0 == 0x80
    return packed[0] == 0xFF or link_local or not any(packed) or packed[:12] == IPV4_IN_IPV6


def parse_local(text: str) -> str:
    """An address of this host's own, or one of ADDRESS_ANY, in its usual form. Raises ValueError with a reason of one line."""
    return text if text in ADDRESS_ANY.values() else parse_host(text)


def parse_peer(text: str, port: int = VXLAN_PORT) -> UdpAddress:
    """Another host's end; its port is `port` unless the text says another. Raises ValueError with a reason of one line."""
    host, number = text, ""
    if text.startswith("["):
        host, bracket, number = text[1:].partition("]")
        if not bracket or (number and not number.startswith(":")):
            raise ValueError(f"'{text}' is no address with a port, such as [fd00::2]:4789")
    elif text.count(":") == 1:
        host, colon, number = text.partition(":")
        number = colon + number
    if not number:
        return UdpAddress(parse_host(host), port)
    digits = number[1:]
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 5 and 0 < int(digits) <= 0xFFFF):
        raise ValueError(f"'{digits}' in '{text}' is no UDP port; 1 to 65535 are possible")
    return UdpAddress(parse_host(host), int(digits))


def parse_peers(texts: Sequence[str], port: int = VXLAN_PORT) -> tuple[UdpAddress, ...]:
    """The other hosts' ends, each once. Raises ValueError: one is no address, two are of one host, or of two kinds of IP."""
    found: dict[str, UdpAddress] = {}
    for text in texts:
        peer = parse_peer(text, port)
        if found.setdefault(peer.host, peer) != peer:
            raise ValueError(
                f"two peers at {peer.host}: a packet tells only the address that it comes from;"
                " give each machine one of its own (--local, such as 127.0.0.2)"
            )
    if len({peer.is_ipv6 for peer in found.values()}) > 1:
        raise ValueError("peers are of IPv4 or of IPv6, not some of each")
    return tuple(found.values())


class Vxlan(Record):
    """A bridge's VXLAN port. `vni`: the network's number, the same on all hosts; `port`: the UDP port of this end, and of peers
    that say none; `local`: the address of this end, "": all of the host's; `mtu`: bytes of the largest packet that guests may
    send, None: what fits into 1500 on the way.
    """

    bridge: InterfaceText
    vni: Annotated[int, Range(1, MAX_VNI)]
    peers: Peers = ()
    port: Annotated[int, Range(1, 0xFFFF)] = VXLAN_PORT
    local: AddressText = ""
    mtu: Annotated[int, Range(MIN_MTU, MAX_MTU)] | None = None

    def __post_init__(self) -> None:
        """What concerns addresses. Raises ValueError."""
        self.ends(self.peers)

    @property
    def is_ipv6(self) -> bool:
        """Whether IPv6 carries it."""
        if self.local:
            return ":" in self.local
        return bool(self.peers) and parse_peer(self.peers[0]).is_ipv6

    @property
    def own(self) -> UdpAddress:
        """This end, or with ADDRESS_ANY all addresses of this host's."""
        return UdpAddress(parse_local(self.local) if self.local else ADDRESS_ANY[self.is_ipv6], self.port)

    @property
    def largest_packet(self) -> int:
        """Bytes of the largest packet that goes through: the MTU of the guests' interfaces."""
        return self.mtu or UNDERLAY_MTU - (IPV6_OVERHEAD if self.is_ipv6 else IPV4_OVERHEAD)

    def ends(self, peers: Sequence[str]) -> tuple[UdpAddress, ...]:
        """Peers of this network. Raises ValueError if they cannot be."""
        found = parse_peers(peers, self.port)
        own = UdpAddress(parse_local(self.local), self.port) if self.local else None
        if own is not None and found and found[0].is_ipv6 != own.is_ipv6:
            raise ValueError(f"{found[0].host} cannot be reached from {own.host}: one is IPv6")
        return found


class VxlanSummary(Record):
    """A VXLAN port, for `info`. `local`: its end here; `hosts`: how many others there are."""

    bridge: str
    vni: Count
    local: str
    mtu: Count
    hosts: Count


class VxlanPeer(Record):
    """Another host of a network: its address and port, the stations last seen behind it, frames and bytes of frames so far."""

    address: str
    stations: Count
    sent_frames: Count
    sent_bytes: Count
    received_frames: Count
    received_bytes: Count


class VxlanDropped(Record):
    """What was dropped: frames of guests that were `too_big` for the network and could not be cut, or that the host did not take
    (`unsent`); packets of hosts that are no peers (`unknown_sender`); and of all networks at the same UDP port together, packets
    that were too short, had other flags than VXLAN's, or were of a network that is not here (`other_vni`).
    """

    too_big: Count
    unsent: Count
    unknown_sender: Count
    short: Count
    bad_flags: Count
    other_vni: Count


class VxlanStatus(Record):
    """A VXLAN port as it stands. `local`: its end here; `peers`: the other hosts, this one left out."""

    bridge: str
    vni: Count
    local: str
    mtu: Count
    peers: tuple[VxlanPeer, ...]
    dropped: VxlanDropped


class VxlanAttach(Arguments[None]):
    """Give a bridge a VXLAN port. Interfaces that are plugged in from now on get the network's MTU."""

    vxlan: Vxlan


class VxlanPeers(Arguments[None]):
    """Let these be the other hosts of a bridge's network. Those that stay keep what was learned of them; this host's own end
    may be among them, and is left out.
    """

    bridge: InterfaceText
    peers: Peers


class VxlanDetach(Arguments[None]):
    """Take the VXLAN port of a bridge away."""

    bridge: InterfaceText


class VxlanList(Arguments[tuple[VxlanStatus, ...]]):
    """All VXLAN ports."""


VXLAN_OPERATIONS: Final[dict[str, type[Arguments[Any]]]] = {
    "vxlan-attach": VxlanAttach,
    "vxlan-peers": VxlanPeers,
    "vxlan-detach": VxlanDetach,
    "vxlan-list": VxlanList,
}
"""These operations by their names."""
