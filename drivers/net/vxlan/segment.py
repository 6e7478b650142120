"""One network over hosts: its peers, and what has gone to and come from each. State code.

A packet is a peer's if it comes from its address; from which port says nothing, for that is chosen by the flow.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from drivers.net.vxlan.header import ETHERNET_SIZE, header_of

End = tuple[str, int]
"""An IP address, and a UDP port."""


@dataclass(eq=False, slots=True)
class Peer:
    """Another host of a network; it is also the name of the switch's port that leads there."""

    end: End
    sent_frames: int = 0
    sent_bytes: int = 0
    received_frames: int = 0
    received_bytes: int = 0


@dataclass(slots=True)
class Segment:
    """The network of that `vni`, whose guests' packets have at most `mtu` bytes."""

    vni: int
    mtu: int
    header: bytes = field(init=False)
    peers: dict[str, Peer] = field(default_factory=dict)
    """By address."""
    too_big: int = 0
    unsent: int = 0
    unknown_sender: int = 0

    def __post_init__(self) -> None:
        self.header = header_of(self.vni)

    @property
    def largest_frame(self) -> int:
        """Bytes of the largest frame that goes through."""
        return self.mtu + ETHERNET_SIZE

    def set_peers(self, ends: Sequence[End]) -> tuple[list[Peer], list[Peer]]:
        """Let the peers be at these ends, no two of which have one address: those that are gone, and those that are new. A peer
        whose end stays is the same as before.
        """
        wanted: Final = dict(ends)
        gone = [peer for host, peer in self.peers.items() if (host, wanted.get(host)) != peer.end]
        stay = {host: peer for host, peer in self.peers.items() if (host, wanted.get(host)) == peer.end}
        new = [Peer(end) for end in wanted.items() if end[0] not in stay]
        self.peers = stay | {peer.end[0]: peer for peer in new}
        return gone, new

    def came_from(self, host: str, size: int) -> Peer | None:
        """The peer that a frame of `size` bytes has come from; None, and counted, if that host is none."""
        peer = self.peers.get(host)
        if peer is None:
            self.unknown_sender += 1
            return None
        peer.received_frames += 1
        peer.received_bytes += size
        return peer
