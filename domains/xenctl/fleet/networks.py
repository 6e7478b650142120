"""A fleet's networks: each of the topology's is one layer 2 over all hosts, by a VXLAN port of its bridge on each
(docs/network.md).

Hosts find each other by their addresses in the fleet's file. Hosts without one are processes of one computer, and get each an
address of its own of that computer's loopback, so that a packet tells which of them it comes from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from domains.control.client import ControlClient
from domains.control.vxlan_operations import (
    MAX_VNI,
    VXLAN_PORT,
    Vxlan,
    VxlanAttach,
    VxlanList,
    VxlanPeers,
    parse_host,
)
from domains.xenctl.topology.model import Topology
from domains.xenctl.topology.source import Problem


class Lan(BaseModel):
    """A network on a host: its bridge, and its number and UDP port on all hosts."""

    model_config = ConfigDict(frozen=True)

    bridge: str
    vni: int
    port: int
    mtu: int | None


def lans_of(topology: Topology, fleet: str, *, loopback: bool) -> list[Lan]:
    """All networks of a fleet. What the topology does not say follows from the names. On the loopback each fleet has a UDP port
    of its own: others may use the same addresses.
    """
    port = 20000 + number_of(fleet) % 12000 if loopback else VXLAN_PORT
    lans = []
    for name, network in topology.networks.items():
        said = network.vxlan
        lans.append(
            Lan(
                bridge=network.bridge or name,
                vni=said.vni if said is not None else 1 + number_of(f"{fleet}/{name}") % MAX_VNI,
                port=said.port if said is not None and not loopback else port,
                mtu=said.mtu if said is not None else None,
            )
        )
    return lans


def number_of(text: str) -> int:
    """The same for the same text everywhere."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def loopback_address(fleet: str, index: int) -> str:
    """Of the host at this place in the fleet's file."""
    return f"127.{1 + number_of(fleet) % 254}.{index // 250}.{1 + index % 250}"


def address_problems(addresses: Mapping[str, str | None], topology: Topology) -> list[Problem]:
    """What is wrong with hosts' addresses, if there are networks that join them."""
    if not topology.networks:
        return []
    found = []
    given = [host for host, address in addresses.items() if address is not None]
    for host, address in addresses.items():
        if address is None and given:
            what = f"it needs an address, as {given[0]} has one, for the networks that join them"
            found.append(Problem(("hosts", host), what))
        elif address is not None:
            try:
                parse_host(address)
            except ValueError as error:
                found.append(Problem(("hosts", host, "address"), str(error)))
    for host in given:
        if given.index(host) != [addresses[one] for one in given].index(addresses[host]):
            found.append(Problem(("hosts", host, "address"), "two hosts have this address"))
    for name, network in topology.networks.items():
        if network.vxlan is not None and (network.vxlan.peers is not None or network.vxlan.local is not None):
            found.append(
                Problem(
                    ("topology",),
                    f"network {name} names VXLAN peers or a local end; in a fleet its hosts say them",
                )
            )
    return found


def connect_lans(client: ControlClient, lans: Sequence[Lan], local: str, addresses: Sequence[str]) -> None:
    """Let a machine's bridges have their ports, with these hosts as peers, its own among them perhaps. What was learned of a
    host that is no peer any more is forgotten. Raises ControlError.
    """
    there = {port.bridge for port in client.call(VxlanList())} if lans else set()
    for lan in lans:
        if lan.bridge in there:
            client.call(VxlanPeers(lan.bridge, tuple(addresses)))
        else:
            client.call(VxlanAttach(Vxlan(lan.bridge, lan.vni, tuple(addresses), lan.port, local, lan.mtu)))
