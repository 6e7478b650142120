"""Many domains from one file: which there are, what connects them, and which one waits for which.

    source.py   YAML text → plain data, and where each piece of it stands
    model.py    what a topology may say: typed, with a JSON Schema
    expand.py   topology → domains: replicas counted out, addresses given, descriptions written
    check.py    everything that is wrong with a topology, each with its place
    images.py   disk images, made on demand
    state.py    what was made on a machine, so that nothing else is ever taken away
    deploy.py   bringing up, taking down, telling how it stands
    graph.py    pictures

From Python:

    from domains.xenctl.topology import Deployment, load

    with Deployment(load("shop.yaml")) as shop:       # on a machine of its own, which ends with the block
        shop.expect("client-1", "200 OK", timeout=30)
        print(shop.status())

`Deployment(topology, machine="lab")` uses a machine that stays. Instead of loading a file a `Topology` can be made of
`Domain`, `Network` and `Disk` from model.py.
"""

from domains.xenctl.topology.check import TopologyError, load
from domains.xenctl.topology.deploy import Deployment
from domains.xenctl.topology.model import (
    Disk,
    Domain,
    DomainDisk,
    DomainNetwork,
    Machine,
    Network,
    Topology,
    Wait,
)

__all__ = [
    "Deployment",
    "Disk",
    "Domain",
    "DomainDisk",
    "DomainNetwork",
    "Machine",
    "Network",
    "Topology",
    "TopologyError",
    "Wait",
    "load",
]
