"""Commands on networks over hosts: vxlan-attach, vxlan-peers, vxlan-list, vxlan-detach."""

from __future__ import annotations

from typing import Annotated

from domains.control.protocol import ControlError, Exit
from domains.control.records import Malformed, decode, encode
from domains.control.vxlan_operations import (
    MAX_MTU,
    MAX_VNI,
    MIN_MTU,
    VXLAN_PORT,
    Vxlan,
    VxlanAttach,
    VxlanDetach,
    VxlanList,
    VxlanPeer,
    VxlanPeers,
    VxlanStatus,
    VxlanSummary,
)
from domains.xenctl import machine
from domains.xenctl.options import DEFAULT, Argument, Json, Machine, Option
from domains.xenctl.output import print_json, print_warning
from domains.xenctl.usage import checked

SEVERAL = "of several machines on one host each has an address of its own by --local, such as 127.0.0.2"
Bridge = Annotated[str, Argument(help="A bridge of Dom0, such as xenbr0.", metavar="BRIDGE")]
PEERS = "The other hosts: 10.0.0.2, 10.0.0.2:4789, fd00::2 or [fd00::2]:4789."


def vxlan_attach(
    bridge: Bridge,
    vni: Annotated[
        int, Argument(help="The network's number on all hosts.", metavar="VNI", min=1, max=MAX_VNI)
    ],
    peer: Annotated[list[str] | None, Argument(help=PEERS, metavar="[PEER]...")] = None,
    port: Annotated[
        int, Option(min=1, max=0xFFFF, help="UDP port here, and of peers that say none.")
    ] = VXLAN_PORT,
    local: Annotated[str, Option(metavar="ADDRESS", help="Of this end; all of the host's.")] = "",
    mtu: Annotated[
        int | None, Option(min=MIN_MTU, max=MAX_MTU, help="Of guests; 1450, over IPv6 1430.")
    ] = None,
    name: Machine = DEFAULT,
    json: Json = False,
) -> None:
    """Connect a bridge with those of other hosts by VXLAN. It encrypts nothing."""
    plain = {"bridge": bridge, "vni": vni, "peers": peer or [], "port": port, "local": local, "mtu": mtu}
    wanted = VxlanAttach(checked(lambda: described(plain)))
    with machine.connect(name) as client:
        client.call(wanted)
        there = {port.bridge: port for port in client.call(VxlanList())}.get(bridge) if peer else None
    if there is not None and not there.peers:
        print_warning(f"{', '.join(peer or [])}: this host's own, and no peer; {SEVERAL}")
    if json:
        print_json(encode(wanted.vxlan))


def described(plain: dict[str, object]) -> Vxlan:
    """The port that was asked for. Raises ValueError with a reason of one line."""
    try:
        vxlan: Vxlan = decode(Vxlan, plain)
    except Malformed as error:
        raise ValueError(str(error).removeprefix("the value: ")) from None
    return vxlan


def vxlan_peers(
    bridge: Bridge,
    peer: Annotated[list[str] | None, Argument(help=PEERS, metavar="[PEER]...")] = None,
    none: Annotated[bool, Option("--none", help="No other hosts.")] = False,
    name: Machine = DEFAULT,
    json: Json = False,
) -> None:
    """Say anew which other hosts a bridge is connected with; those that stay notice nothing."""
    if bool(peer) == none:
        raise ControlError(Exit.USAGE, "name all other hosts, or --none")
    with machine.connect(name) as client:
        client.call(VxlanPeers(bridge, tuple(peer or ())))
    if json:
        print_json({"bridge": bridge, "peers": peer or []})


def vxlan_detach(bridge: Bridge, name: Machine = DEFAULT, json: Json = False) -> None:
    """Disconnect a bridge from those of other hosts."""
    with machine.connect(name) as client:
        client.call(VxlanDetach(bridge))
    if json:
        print_json({"bridge": bridge, "detached": True})


def vxlan_list(name: Machine = DEFAULT, json: Json = False) -> None:
    """Show the connections of bridges with other hosts: peers, what has passed, and what was dropped."""
    with machine.connect(name) as client:
        ports = client.call(VxlanList())
    if json:
        print_json(encode(ports))
        return
    for port in ports:
        print(vxlan_text(port, len(port.peers)))
        for peer in port.peers:
            print(f"  peer {peer_text(peer)}")
        counts = ", ".join(
            f"{what.replace('_', ' ')} {count}" for what, count in encode(port.dropped).items()
        )
        print(f"  dropped: {counts}")


def vxlan_text(port: VxlanSummary | VxlanStatus, hosts: int) -> str:
    """A port with so many peers in a line."""
    peers = "1 peer" if hosts == 1 else f"{hosts} peers"
    return f"{port.bridge}: VNI {port.vni} at {port.local}, MTU {port.mtu}, {peers}"


def peer_text(peer: VxlanPeer) -> str:
    """A peer in a line."""
    sent = f"sent {peer.sent_frames} frames ({peer.sent_bytes} bytes)"
    received = f"received {peer.received_frames} ({peer.received_bytes})"
    return f"{peer.address}: stations {peer.stations}, {sent}, {received}"
