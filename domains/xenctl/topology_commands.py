"""Commands on topologies: up, down, validate, graph, ps. The heavy modules are imported when one of them runs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from domains.control.protocol import Exit
from domains.xenctl.options import DEFAULT, Argument, Json, Machine, Option
from domains.xenctl.output import print_error, print_json, print_lines, print_table, printable

File = Annotated[Path, Argument(help="The topology, as YAML.", metavar="FILE")]


class GraphFormat(StrEnum):
    """What `graph` can write."""

    mermaid = "mermaid"
    graphviz = "graphviz"


def up(
    file: File,
    only: Annotated[
        list[str] | None, Option(help="Only this domain and what it comes after; repeatable.")
    ] = None,
    name: Machine = DEFAULT,
    json: Json = False,
) -> None:
    """Bring up the domains of a topology; what is there already stays as it is."""
    from domains.xenctl.topology.check import load
    from domains.xenctl.topology.deploy import Deployment, as_data
    from domains.xenctl.topology.progress import shown

    project = load(file)
    with shown(len(project.plan().domains), f"{project.name} comes up") as tell:
        deployment = Deployment(project, name, tell)
        deployment.up(only or [])
    if json:
        print_json(as_data(deployment.status()))


def down(file: File, name: Machine = DEFAULT, json: Json = False) -> None:
    """Take away what 'up' made of a topology, and nothing else."""
    from domains.xenctl.topology.check import load
    from domains.xenctl.topology.deploy import Deployment
    from domains.xenctl.topology.progress import shown

    project = load(file)
    with shown(len(project.plan().domains), f"{project.name} goes down") as tell:
        Deployment(project, name, tell).down()
    if json:
        print_json({"topology": project.name, "down": True})


def validate(file: File, json: Json = False) -> Exit:
    """Tell everything that is wrong with a topology, with its line and column."""
    from domains.xenctl.topology.check import TopologyError, load

    lines: list[str] = []
    try:
        project = load(file)
    except TopologyError as error:
        lines = error.lines
    if json:
        print_json({"file": str(file), "problems": lines})
    if lines:
        for line in lines:
            print_error(line)
        return Exit.FAILURE
    if not json:
        print(
            printable(
                f"{file}: topology {project.name} of {len(project.plan().domains)} domains has no mistakes"
            )
        )
    return Exit.OK


def graph(
    file: File,
    format: Annotated[GraphFormat, Option("--format", "-f", help="Of the picture.")] = GraphFormat.mermaid,
) -> None:
    """Draw a topology."""
    from domains.xenctl.topology import graph as pictures
    from domains.xenctl.topology.check import load

    draw = {GraphFormat.mermaid: pictures.mermaid, GraphFormat.graphviz: pictures.graphviz}[format]
    print_lines(draw(pictures.picture_of(load(file).topology)))


def ps(file: File, name: Machine = DEFAULT, json: Json = False) -> None:
    """Show how each domain of a topology stands."""
    from domains.xenctl.topology.check import load
    from domains.xenctl.topology.deploy import Deployment, as_data

    rows = Deployment(load(file), name).status()
    if json:
        print_json(as_data(rows))
        return
    header = ("Name", "State", "ID", "Mem", "Addresses")
    cells = [
        (r.name, r.state, blank(r.domid), blank(r.memory_mib), " ".join(r.addresses) or "-") for r in rows
    ]
    print_table(header, cells, frozenset({"ID", "Mem"}))


def blank(value: int | None) -> str:
    """The number, or `-` where there is none."""
    return "-" if value is None else str(value)
