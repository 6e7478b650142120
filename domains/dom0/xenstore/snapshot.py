"""The store as data, and back: what a store that takes over from another one must know.

In it are the tree, the limits, and of each domain its state, its watches, what it has sent of a request and what it has not
taken yet. Not in it are Xen's own clients at the socket, whose connections end with the store, and open transactions:
they are dropped, as by a forced live update of Xen's xenstored, and whoever ends one is answered ENOENT. A request
that waits for its events to be taken counts as over.

Everything is plain: maps, lists, text, bytes and numbers.
"""

from typing import Any, Final

from domains.dom0.xenstore.connection import Connection
from domains.dom0.xenstore.node import Node
from domains.dom0.xenstore.outgoing import Message
from domains.dom0.xenstore.path import Path
from domains.dom0.xenstore.perms import Access, Perm
from domains.dom0.xenstore.quota import Quota
from domains.dom0.xenstore.server import Xenstored
from domains.dom0.xenstore.watch import Watch
from hypervisor.public.types import DomId

VERSION: Final = 1


def snapshot(xenstored: Xenstored) -> dict[str, Any]:
    """All that `restore` needs."""
    guests = sorted(
        (domain for domain in xenstored.domains if domain.connection is not None),
        key=lambda domain: domain.domid,
    )
    watches = [
        (watch.serial, [domain.domid, watch.path, watch.token, watch.hidden])
        for domain in guests
        if domain.connection is not None
        for watch in domain.connection.watches.values()
    ]
    return {
        "version": VERSION,
        "generation": xenstored.store.generation,
        "limits": {quota.value: xenstored.limits[quota] for quota in Quota},
        "nodes": [[path, *_plain(node)] for path, node in xenstored.store.nodes()],
        "domains": [[domain.domid, domain.target, domain.shutdown] for domain in guests],
        "watches": [watch for _serial, watch in sorted(watches)],
        "connections": [
            [domain.domid, *domain.connection.unfinished()]
            for domain in guests
            if domain.connection is not None
        ],
    }


def restore(xenstored: Xenstored, data: dict[str, Any]) -> dict[DomId, Connection]:
    """Make a new store what the other one was; the connection of each domain, to which its ring is to be attached."""
    if data["version"] != VERSION:
        raise ValueError(f"a snapshot of version {data['version']}")
    for name, limit in data["limits"].items():
        xenstored.limits[Quota(name)] = limit
    nodes = {Path(path): _node(*plain) for path, *plain in data["nodes"]}
    xenstored.store.load(nodes, data["generation"])
    connections: dict[DomId, Connection] = {}
    for domid, target, shutdown in data["domains"]:
        domain = xenstored.domains.get(DomId(domid))
        domain.target, domain.shutdown = target, shutdown
        domain.connection = connections[domain.domid] = xenstored.open(domain.domid)
    for domid, path, token, hidden in data["watches"]:
        connection = connections[DomId(domid)]
        connection.add_watch(Watch(connection, Path(path), token, hidden))
    for domid, sent, waiting in data["connections"]:
        messages = [Message(message, None, is_event) for message, is_event in waiting]
        connections[DomId(domid)].take_over(sent, messages)
    return connections


def _plain(node: Node) -> list[Any]:
    perms = [[perm.domid, int(perm.access), perm.ignored] for perm in node.perms]
    return [perms, node.value, node.children, node.generation]


def _node(perms: list[Any], value: bytes, children: bytes, generation: int) -> Node:
    entries = tuple(Perm(DomId(domid), Access(access), ignored) for domid, access, ignored in perms)
    return Node(entries, value, children, generation)
