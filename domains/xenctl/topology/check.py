"""Everything that is wrong with a topology, each with its line and column."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path as FilePath
from typing import Final

from pydantic import BaseModel

from domains.control.description import DISK_PREFIX, PYTHON_PREFIX, DomainConfig
from domains.control.protocol import ControlError, Exit
from domains.dom0.toolstack.xlcfg.load import config_of
from domains.dom0.toolstack.xlcfg.syntax import ConfigError
from domains.xenctl.topology.expand import Plan, Planned, expand
from domains.xenctl.topology.model import (
    Disk,
    Domain,
    DomainDisk,
    DomainNetwork,
    Machine,
    Network,
    Topology,
    VxlanNetwork,
    Wait,
)
from domains.xenctl.topology.problems import located, read_document, validated
from domains.xenctl.topology.source import Document, Path, Problem
from hypervisor.machine.config import MACHINE_OVERHEAD

ANYWHERE: Final = FilePath("/nowhere")
"""Stands for the folder of made images while a topology is only looked at."""


class TopologyError(ControlError):
    """A topology that cannot be used. `lines`: all problems, `file:line:column: message` each."""

    def __init__(self, lines: list[str]) -> None:
        more = f" (and {len(lines) - 1} more; 'xenctl validate' tells all)" if len(lines) > 1 else ""
        super().__init__(Exit.FAILURE, lines[0] + more)
        self.lines = lines


@dataclass(frozen=True)
class Project:
    """A topology, what it is called, and where its relative paths start."""

    topology: Topology
    name: str
    folder: FilePath
    file: str = "topology"
    document: Document = field(default_factory=Document)

    def plan(self, scratch: FilePath = ANYWHERE) -> Plan:
        """Its domains. Raises TopologyError if anything is wrong."""
        plan = expand(self.topology, self.name, self.folder, scratch)
        self.refuse(plan.problems or check_plan(self, plan))
        return plan

    def refuse(self, problems: list[Problem]) -> None:
        """Raises TopologyError if there are any."""
        if problems:
            raise TopologyError(located(problems, self.document, self.file))


def load(path: str | FilePath) -> Project:
    """Read a file and check all of it. Raises TopologyError, and ControlError if it cannot be read."""
    file = FilePath(path)
    document = read_document(file, TopologyError)
    topology, problems = validated(document, Topology, "a topology", known_keys)
    if topology is None:
        raise TopologyError(located(problems, document, str(file)))
    project = Project(topology, topology.name or name_from(file), file.absolute().parent, str(file), document)
    project.plan()
    return project


def project_of(topology: Topology | Project) -> Project:
    """A project of a topology that was made in Python; relative paths start at the working directory."""
    if isinstance(topology, Project):
        return topology
    return Project(topology, topology.name or "topology", FilePath.cwd())


def name_from(file: FilePath) -> str:
    """A topology's name from its file's, with what a name cannot have left out."""
    letters = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "-" for c in file.stem)
    return letters.lstrip("-_0123456789")[:32] or "topology"


# --- which keys there are ------------------------------------------------------------

PARTS: Final[dict[str, dict[int, type[BaseModel]]]] = {
    "domains": {2: Domain},
    "networks": {2: Network, 4: DomainNetwork},
    "disks": {2: Disk, 4: DomainDisk},
    "vxlan": {3: VxlanNetwork},
    "wait": {3: Wait},
    "machine": {1: Machine},
}
"""The part that a path leads to: by the nearest word in it that names one, and by its length."""


def known_keys(path: Path) -> list[str]:
    """Keys that the part at `path` may have."""
    part: type[BaseModel] = Topology
    for word in reversed(path):
        if word in PARTS and len(path) in PARTS[str(word)]:
            part = PARTS[str(word)][len(path)]
            break
    return [field.alias or name for name, field in part.model_fields.items()]


# --- what concerns more than one part ------------------------------------------------------------


def check_plan(project: Project, plan: Plan) -> list[Problem]:
    """What is wrong with domains that could be counted out: their descriptions, files, disks, order, memory."""
    problems: dict[Problem, None] = {}
    for planned in plan.domains.values():
        problems |= dict.fromkeys(check_domain(project, planned))
    for check in (check_order, check_sharing, check_memory):
        problems |= dict.fromkeys(check(project, plan))
    return list(problems)


def check_domain(project: Project, planned: Planned) -> list[Problem]:
    """What its description says is read as xl.cfg is; files that it names must be there."""
    path: Path = ("domains", planned.of)
    try:
        config = config_for(planned, project.folder)
    except ConfigError as error:
        return [Problem(planned.origins[one.position.line - 1], one.message) for one in error.each]
    problems = []
    for key, file in files_of(config):
        if not FilePath(file).exists():
            problems.append(Problem((*path, key), f"{key} {file} does not exist"))
    for image in planned.images:
        if image.copy_of is not None and not image.copy_of.is_file():
            problems.append(Problem(image.origin, f"{image.copy_of} does not exist"))
    made = {image.path for image in planned.images}
    for disk in planned.disks:
        if disk.target not in made and not disk.target.exists():
            problems.append(Problem(disk.origin, f"disk {disk.target} does not exist"))
    return problems


def config_for(planned: Planned, folder: FilePath) -> DomainConfig:
    """The description of a domain; of one that goes on from a snapshot its name and interfaces alone mean something. Raises
    ConfigError.
    """
    nothing = {} if planned.snapshot is None else {"kernel": f"{PYTHON_PREFIX}snapshot:Fork"}
    return config_of({**planned.settings, **nothing}, planned.name, folder)


def files_of(config: DomainConfig) -> list[tuple[str, str]]:
    """(key, path) of the files that a description names, but for disks."""
    files = [("ramdisk", config.ramdisk)] if config.ramdisk is not None else []
    if config.kernel.startswith(DISK_PREFIX):
        return files
    if config.python_guest is None:
        files.append(("kernel", config.kernel))
    elif (module := config.python_guest.rpartition(":")[0]).endswith(".py"):
        files.append(("kernel", module))
    return files


def check_order(_project: Project, plan: Plan) -> list[Problem]:
    """Domains must not wait for each other in a circle."""
    try:
        TopologicalSorter({p.name: p.after for p in plan.domains.values()}).prepare()
    except CycleError as error:
        circle = list(reversed(error.args[1]))
        of = plan.domains[circle[0]].of
        return [Problem(("domains", of, "after"), f"domains wait in a circle: {' after '.join(circle)}")]
    return []


def check_sharing(_project: Project, plan: Plan) -> list[Problem]:
    """An image that somebody writes is nobody else's."""
    users: defaultdict[FilePath, list[tuple[Planned, bool, Path]]] = defaultdict(list)
    for planned in plan.domains.values():
        for disk in planned.disks:
            users[disk.target].append((planned, disk.writable, disk.origin))
    return [
        Problem(
            next(origin for _, writable, origin in rows if writable),
            f"{rows[0][0].name} and {rows[1][0].name} share a disk that one of them writes; use access: ro",
        )
        for rows in users.values()
        if len(rows) > 1 and any(writable for _, writable, _ in rows)
    ]


def check_memory(project: Project, plan: Plan) -> list[Problem]:
    """What the machine has must do for its domains."""
    memory, needed = project.topology.machine.memory, memory_needed(plan)
    if memory is None or needed <= memory:
        return []
    return [
        Problem(
            ("machine", "memory"), f"the domains and Dom0 need {needed} MiB, the machine has {memory} MiB"
        )
    ]


def memory_needed(plan: Plan) -> int:
    """MiB of a machine that holds all domains."""
    return sum(planned.memory for planned in plan.domains.values()) + MACHINE_OVERHEAD + len(plan.domains)
