"""The VXLAN ports of a machine, made as a topology wants them, and taken away again."""

from __future__ import annotations

from domains.control.client import ControlClient
from domains.control.protocol import ControlError, Exit
from domains.control.vxlan_operations import (
    Vxlan,
    VxlanAttach,
    VxlanDetach,
    VxlanList,
    VxlanPeers,
    VxlanStatus,
)
from domains.xenctl.topology.state import State
from domains.xenctl.topology.vxlans import Vxlans


def connect(client: ControlClient, vxlans: Vxlans, state: State) -> None:
    """Give the machine's bridges their VXLAN ports. Those that are there stay, with the file's peers if it says any. Raises
    ControlError, and then none that was not there is left.
    """
    if not vxlans.ports:
        return
    there = {port.bridge: port for port in client.call(VxlanList())}
    changed = [v for v in vxlans.ports.values() if v.bridge in there and differs(v, there[v.bridge])]
    if changed:
        port = there[changed[0].bridge]
        raise ControlError(
            Exit.FAILURE,
            f"bridge {port.bridge} is in VXLAN {port.vni} at {port.local} with MTU {port.mtu}, which is not what"
            f" the topology wants; 'xenctl vxlan-detach {port.bridge}' disconnects it",
        )
    made: list[str] = []
    before = state.vxlans
    state.note_vxlans(before | {v.bridge for v in vxlans.ports.values()} - there.keys())
    try:
        for vxlan in vxlans.ports.values():
            if vxlan.bridge not in there:
                client.call(VxlanAttach(vxlan))
                made.append(vxlan.bridge)
            elif vxlan.bridge not in vxlans.open:
                client.call(VxlanPeers(vxlan.bridge, vxlan.peers))
    except ControlError:
        for bridge in made:
            client.call(VxlanDetach(bridge))
        state.note_vxlans(before)
        raise


def differs(wanted: Vxlan, there: VxlanStatus) -> bool:
    """Whether a port is another one than is wanted; its peers may be changed."""
    return (wanted.vni, str(wanted.own), wanted.largest_packet) != (there.vni, there.local, there.mtu)


def disconnect(client: ControlClient, state: State) -> None:
    """Take those away that `connect` has made."""
    bridges = state.vxlans
    if not bridges:
        return
    there = {port.bridge for port in client.call(VxlanList())}
    for bridge in bridges & there:
        client.call(VxlanDetach(bridge))
