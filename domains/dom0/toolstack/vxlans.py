"""The machine's VXLAN ports: made, changed and taken away while it runs, closed with it (drivers/net/vxlan).

Networks with the same UDP port and address of this host's share its sockets. An operation is done whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from domains.control import vxlan_operations as ops
from domains.control.records import encode
from domains.control.vxlan_operations import UdpAddress
from domains.dom0.toolstack.errors import ToolstackError
from domains.kernel.kernel import Kernel
from domains.kernel.tasks import NEXT_TURN, Task
from drivers.net.back import NetBack
from drivers.net.vxlan.header import Bad
from drivers.net.vxlan.overlay import Overlay, VxlanEnd
from drivers.net.vxlan.segment import Peer
from drivers.net.vxlan.udp import UdpError, local_among


@dataclass(slots=True)
class Port:
    """A bridge's. `config`: as it was asked for, the peers as of now."""

    config: ops.Vxlan
    end: VxlanEnd
    overlay: Overlay


class Vxlans:
    """One per Dom0. `repeats`: the machine is one that repeats itself, which the network of hosts does not."""

    def __init__(self, kernel: Kernel, nets: NetBack, repeats: bool) -> None:
        self._kernel = kernel
        self._nets = nets
        self._repeats = repeats
        self._ports: dict[str, Port] = {}
        self._ends: dict[tuple[str, int], VxlanEnd] = {}

    def perform(self, wanted: Any) -> Any:
        """What the operation answers, or a task that will. Raises ToolstackError."""
        return self.HANDLERS[type(wanted)](self, wanted)

    def close(self) -> None:
        """The sockets are closed."""
        for end in self._ends.values():
            end.close()

    def summaries(self) -> tuple[ops.VxlanSummary, ...]:
        """All ports, for `info`."""
        return tuple(summary(port) for port in self._ports.values())

    def _list(self, _wanted: ops.VxlanList) -> Task[list[Any]]:
        """All ports as they stand, in the form in which they are sent; the others' turn comes after each."""
        listed: list[Any] = []
        for port in list(self._ports.values()):
            listed.append(encode(status(port)))
            yield NEXT_TURN
        return listed

    def _attach(self, wanted: ops.VxlanAttach) -> None:
        config = wanted.vxlan
        if self._repeats:
            raise ToolstackError("a machine with a seed has no VXLAN: the network does not repeat itself")
        if config.bridge in self._ports:
            raise ToolstackError(f"bridge {config.bridge} has a VXLAN port; 'xenctl vxlan-list' shows it")
        if len(self._ports) == ops.MAX_NETWORKS:
            raise ToolstackError(f"the machine has {ops.MAX_NETWORKS} VXLAN ports; it can have no more")
        peers = self._others(config, config.peers)
        end = self._end(config.own)
        if end.vtep.has(config.vni):
            other = next(p.config for p in self._ports.values() if (p.end, p.config.vni) == (end, config.vni))
            raise ToolstackError(
                f"bridge {other.bridge} has VNI {config.vni} at UDP port {config.port} already;"
                " choose another VNI, port or --local"
            )
        overlay = end.attach(self._nets.switch_of(config.bridge), config.vni, config.largest_packet)
        overlay.set_peers(peers)
        self._ports[config.bridge] = Port(config, end, overlay)

    def _set_peers(self, wanted: ops.VxlanPeers) -> None:
        port = self._port(wanted.bridge)
        try:
            config = port.config.replaced(peers=wanted.peers)
        except ValueError as error:
            raise ToolstackError(str(error)) from None
        if wanted.peers and config.own != port.config.own:
            raise ToolstackError(
                f"the VXLAN port of {wanted.bridge} is at {port.config.own}: its peers are of the same kind of IP"
            )
        port.overlay.set_peers(self._others(config, wanted.peers))
        port.config = config

    def _detach(self, wanted: ops.VxlanDetach) -> None:
        port = self._port(wanted.bridge)
        del self._ports[wanted.bridge]
        port.end.detach(port.overlay)
        self._close_unused(port.end)

    def _port(self, bridge: str) -> Port:
        port = self._ports.get(bridge)
        if port is None:
            there = ", ".join(sorted(self._ports)) or "none"
            raise ToolstackError(f"bridge '{bridge}' has no VXLAN port; there are: {there}")
        return port

    def _others(self, config: ops.Vxlan, peers: tuple[str, ...]) -> list[UdpAddress]:
        """The peers without this host's own end. ToolstackError: they are too many for the machine."""
        own = config.own
        any_address = own.host in ops.ADDRESS_ANY.values()
        ends = config.ends(peers)
        mine = local_among([end.host for end in ends if end.port == own.port]) if any_address else {own.host}
        others = [end for end in ends if end.port != own.port or end.host not in mine]
        of_others = sum(
            len(port.overlay.segment.peers)
            for port in self._ports.values()
            if port.config.bridge != config.bridge
        )
        if of_others + len(others) > ops.MAX_ALL_PEERS:
            raise ToolstackError(f"a machine has at most {ops.MAX_ALL_PEERS} VXLAN peers in all")
        return others

    def _end(self, own: UdpAddress) -> VxlanEnd:
        """The sockets at that address, made if there are none. Raises ToolstackError."""
        if own not in self._ends:
            try:
                self._ends[own] = VxlanEnd(self._kernel, *own)
            except UdpError as error:
                raise ToolstackError(str(error)) from None
        return self._ends[own]

    def _close_unused(self, end: VxlanEnd) -> None:
        if end.vtep.is_empty:
            end.close()
            del self._ends[end.end]

    HANDLERS: Final[dict[type[Any], Callable[[Vxlans, Any], Any]]] = {
        ops.VxlanAttach: _attach,
        ops.VxlanPeers: _set_peers,
        ops.VxlanDetach: _detach,
        ops.VxlanList: _list,
    }
    """What performs each operation."""


def summary(port: Port) -> ops.VxlanSummary:
    """A port without what has passed."""
    segment = port.overlay.segment
    own = str(port.config.own)
    return ops.VxlanSummary(port.config.bridge, segment.vni, own, segment.mtu, len(segment.peers))


def status(port: Port) -> ops.VxlanStatus:
    """A port as it stands."""
    segment, bad = port.overlay.segment, port.end.vtep.bad
    return ops.VxlanStatus(
        bridge=port.config.bridge,
        vni=segment.vni,
        local=str(port.config.own),
        mtu=segment.mtu,
        peers=tuple(peer_status(peer, port.overlay) for peer in segment.peers.values()),
        dropped=ops.VxlanDropped(
            too_big=segment.too_big,
            unsent=segment.unsent,
            unknown_sender=segment.unknown_sender,
            short=bad[Bad.SHORT],
            bad_flags=bad[Bad.FLAGS],
            other_vni=bad[Bad.OTHER_VNI],
        ),
    )


def peer_status(peer: Peer, overlay: Overlay) -> ops.VxlanPeer:
    """A peer as it stands."""
    return ops.VxlanPeer(
        address=str(UdpAddress(*peer.end)),
        stations=overlay.switch.stations(peer),
        sent_frames=peer.sent_frames,
        sent_bytes=peer.sent_bytes,
        received_frames=peer.received_frames,
        received_bytes=peer.received_bytes,
    )
