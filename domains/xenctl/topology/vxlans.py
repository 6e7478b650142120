"""A topology's networks over hosts: what the file says of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from domains.control.vxlan_operations import Vxlan, parse_local, parse_peer
from domains.xenctl.topology.model import DomainNetwork, VxlanNetwork
from domains.xenctl.topology.source import Path


@dataclass
class Vxlans:
    """The VXLAN ports that a topology wants, by the names of its networks. `open`: bridges whose peers it does not say."""

    ports: dict[str, Vxlan] = field(default_factory=dict)
    open: set[str] = field(default_factory=set)

    def add(self, name: str, bridge: str, wanted: VxlanNetwork, refuse: Callable[[Path, str], None]) -> None:
        """What the file says of network `name`; `refuse` gets what is wrong with it."""
        path: Path = ("networks", name, "vxlan")
        at = path
        try:
            for number, peer in enumerate(wanted.peers or []):
                at = (*path, "peers", number)
                parse_peer(peer, wanted.port)
            at = (*path, "local")
            local = parse_local(wanted.local) if wanted.local is not None else ""
            at = (*path, "peers")
            vxlan = Vxlan(bridge, wanted.vni, tuple(wanted.peers or ()), wanted.port, local, wanted.mtu)
        except ValueError as error:
            refuse(at, str(error))
            return
        for other, before in self.ports.items():
            if before.bridge == bridge:
                refuse(path, f"networks {other} and {name} connect one bridge, {bridge}, twice")
            elif (before.own, before.vni) == (vxlan.own, vxlan.vni):
                refuse((*path, "vni"), f"networks {other} and {name} have one VNI, {vxlan.vni}")
        self.ports[name] = vxlan
        if wanted.peers is None:
            self.open.add(bridge)

    def check_mtu(self, wanted: DomainNetwork, path: Path, refuse: Callable[[Path, str], None]) -> None:
        """An interface's own MTU is not larger than what goes to other hosts."""
        vxlan = self.ports.get(wanted.network)
        if vxlan is not None and wanted.mtu is not None and wanted.mtu > vxlan.largest_packet:
            most = vxlan.largest_packet
            refuse(
                (*path, "mtu"),
                f"an MTU of {wanted.mtu} is too large for {wanted.network}, which takes {most}",
            )
