"""A picture of a fleet as Mermaid's flowchart: a box a host, with its domains in it; networks join what is plugged into them."""

from __future__ import annotations

from collections.abc import Mapping

from domains.xenctl.fleet.file import Loaded


def mermaid(loaded: Loaded, places: Mapping[str, str | None]) -> str:
    """`places`: the host of each domain; one without a host stands by itself. Replicas on one host are one box with
    their number.
    """
    kinds: dict[tuple[str | None, str], int] = {}
    for name, planned in loaded.planned.items():
        key = (places.get(name), planned.of)
        kinds[key] = kinds.get(key, 0) + 1
    ids = {key: f"domain{number}" for number, key in enumerate(kinds)}
    lines = ["flowchart LR"]
    for number, host in enumerate(loaded.fleet.hosts):
        lines.append(f'  subgraph host{number}["{host}"]')
        lines += [
            f'    {ids[key]}["{labelled(key[1], count)}"]' for key, count in kinds.items() if key[0] == host
        ]
        lines.append("  end")
    lines += [f'  {ids[key]}["{labelled(key[1], count)}"]' for key, count in kinds.items() if key[0] is None]
    networks = {name: f"network{number}" for number, name in enumerate(loaded.project.topology.networks)}
    lines += [f'  {id_}(("{name}"))' for name, id_ in networks.items()]
    for key, id_ in ids.items():
        plugs = loaded.project.topology.domains[key[1]].networks
        lines += [f"  {id_} --- {networks[name]}" for name in dict.fromkeys(plug.network for plug in plugs)]
    return "\n".join(lines) + "\n"


def labelled(kind: str, count: int) -> str:
    """A box's text."""
    return f"{kind} ×{count}" if count > 1 else kind
