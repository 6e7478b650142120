"""Commands on a running domain's network interfaces: network-attach, network-list, network-detach."""

from __future__ import annotations

import math
from typing import Annotated

from domains.control.description import Vif
from domains.control.device_operations import (
    DETACH_SECONDS,
    NetworkAttach,
    NetworkDetach,
    NetworkDevice,
    NetworkList,
)
from domains.control.records import encode
from domains.xenctl import machine
from domains.xenctl.block_commands import Domains, Timeout
from domains.xenctl.options import DEFAULT, Argument, Domain, Json, Machine
from domains.xenctl.output import print_json, printable
from domains.xenctl.usage import checked


def network_attach(
    domain: Domain,
    vif: Annotated[
        list[str] | None,
        Argument(
            help="As in an entry of vif in a description: bridge=xenbr0 mac=…", metavar="[KEY=VALUE]..."
        ),
    ] = None,
    name: Machine = DEFAULT,
    json: Json = False,
) -> None:
    """Give a running domain one more network interface."""
    wanted = NetworkAttach(domain, vif_of(vif or []))
    with machine.connect(name) as client:
        attached = client.call(wanted)
    if json:
        print_json(encode(attached))


def vif_of(words: list[str]) -> Vif:
    """The interface that words describe. Raises ControlError."""
    from domains.dom0.toolstack.xlcfg.vif import parse_vif

    return checked(lambda: parse_vif(",".join(words)))


def network_list(domains: Domains, name: Machine = DEFAULT, json: Json = False) -> None:
    """List the network interfaces of domains, as xl does."""
    with machine.connect(name) as client:
        vifs = client.call(NetworkList(tuple(domains)))
    if json:
        print_json(encode(vifs))
        return
    columns = ("Idx", "BE", "Mac Addr.", "handle", "state", "evt-ch", "tx-", "rx-ring-ref", "BE-path")
    print("{:<3} {:<2} {:<17} {:<6} {:<5} {:<6} {:>5}/{:<5} {:<30}".format(*columns))
    for vif in vifs:
        print(vif_line(vif))


def vif_line(vif: NetworkDevice) -> str:
    """One interface, as xl prints it."""
    ends = f"{vif.devid:<3} {vif.backend_id:<2} {printable(vif.mac)}{vif.devid:6} {vif.state:5}"
    rings = f"{vif.event_channel:6} {vif.tx_ring_ref:5}/{vif.rx_ring_ref:<11}"
    return f"{ends} {rings} {printable(vif.backend_path):<30}"


def network_detach(
    domain: Domain,
    device: Annotated[
        str, Argument(help="Its number in the domain, or its MAC address.", metavar="DEVID|MAC")
    ],
    timeout: Timeout = DETACH_SECONDS,
    name: Machine = DEFAULT,
    json: Json = False,
) -> None:
    """Take a network interface away from a running domain; one that does not release it in time loses it all the same."""
    with machine.connect(name) as client:
        client.call(NetworkDetach(domain, device, timeout), timeout=math.inf)
    if json:
        print_json({"domain": domain, "device": device, "detached": True})
