"""Pictures of a topology: Mermaid's flowchart, Graphviz' dot.

Domains of one description are one box with their number; networks are circles, disks are cylinders; a dotted arrow
leads from a domain to what comes after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from domains.xenctl.topology.model import Topology


@dataclass(frozen=True)
class Node:
    """`kind`: domain, network or disk."""

    kind: str
    label: str


@dataclass(frozen=True)
class Edge:
    """`kind`: plug, disk or after."""

    kind: str
    start: str
    end: str


@dataclass(frozen=True)
class Picture:
    """Nodes by their ids, and edges."""

    nodes: dict[str, Node]
    edges: list[Edge]


def picture_of(topology: Topology) -> Picture:
    """What there is to draw. The topology has no problems."""
    kinds = (("network", topology.networks), ("disk", topology.disks), ("domain", topology.domains))
    ids = {(kind, name): f"{kind}{number}" for kind, names in kinds for number, name in enumerate(names)}
    nodes = {id_: Node(kind, name) for (kind, name), id_ in ids.items()}
    edges: dict[Edge, None] = {}
    for name, domain in topology.domains.items():
        own = ids["domain", name]
        if (domain.replicas or 1) > 1:
            nodes[own] = Node("domain", f"{name} ×{domain.replicas}")
        for plug in domain.networks:
            edges[Edge("plug", own, ids["network", plug.network])] = None
        for disk in domain.disks:
            if disk.disk is not None:
                edges[Edge("disk", own, ids["disk", disk.disk])] = None
        for before in domain.after:
            edges[Edge("after", ids["domain", description_of(topology, before)], own)] = None
    return Picture(nodes, list(edges))


def description_of(topology: Topology, name: str) -> str:
    """The domain that a name means, which may be one of its replicas'."""
    return name if name in topology.domains else name.rpartition("-")[0]


MERMAID_SHAPES: Final = {"domain": '["{}"]', "network": '(("{}"))', "disk": '[("{}")]'}
MERMAID_EDGES: Final = {"plug": "---", "disk": "---", "after": "-.->"}


def mermaid(picture: Picture) -> str:
    """As GitHub shows it in a block of `mermaid`."""
    nodes = [f"  {id_}{MERMAID_SHAPES[node.kind].format(node.label)}" for id_, node in picture.nodes.items()]
    edges = [f"  {edge.start} {MERMAID_EDGES[edge.kind]} {edge.end}" for edge in picture.edges]
    return "\n".join(["flowchart LR", *nodes, *edges]) + "\n"


DOT_SHAPES: Final = {"domain": "box", "network": "ellipse", "disk": "cylinder"}
DOT_EDGES: Final = {"plug": "dir=none", "disk": "dir=none", "after": "style=dotted"}


def graphviz(picture: Picture) -> str:
    """As `dot -Tsvg` reads it."""
    nodes = [
        f'  {id_} [label="{node.label}", shape={DOT_SHAPES[node.kind]}];'
        for id_, node in picture.nodes.items()
    ]
    edges = [f"  {edge.start} -> {edge.end} [{DOT_EDGES[edge.kind]}];" for edge in picture.edges]
    return "\n".join(["digraph topology {", "  rankdir=LR;", *nodes, *edges, "}"]) + "\n"
