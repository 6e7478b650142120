"""What a fleet's file may say, and reading one: every mistake is told, with its line and column.

A fleet is a topology, which the file names and which `xenctl up` brings up on one machine as it is, with hosts and with what
its domains want of them.
"""

from __future__ import annotations

import difflib
import shlex
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from domains.control.protocol import ControlError, Exit
from domains.fleet.placement import Placement
from domains.fleet.wanted import VCPUS_PER_CPU, HostSpec, NoRoom, Wanted
from domains.xenctl.fleet.networks import address_problems, loopback_address
from domains.xenctl.fleet.parts import Labels, Lease, Part, Placed, beside_in_a_circle
from domains.xenctl.place import LONGEST_NAME
from domains.xenctl.topology import check as topologies
from domains.xenctl.topology.expand import Planned
from domains.xenctl.topology.model import NAME
from domains.xenctl.topology.problems import located, read_document, validated
from domains.xenctl.topology.source import Path, Problem
from hypervisor.machine.config import MACHINE_OVERHEAD

WHOLE: Final = "a fleet"
MAX_HOSTS: Final = 1000
MADE: Final = FilePath("@made")
"""Stands for the folder of made disk images, which each host has for itself."""


def words_of(value: Any) -> Any:
    """A command line as its words."""
    return shlex.split(value) if isinstance(value, str) else value


Words = Annotated[list[Annotated[str, Field(min_length=1)]], BeforeValidator(words_of)]


class Host(Part):
    """A host and its machine: `memory` MiB, `cpus` emulated CPUs."""

    memory: int = Field(ge=MACHINE_OVERHEAD + 8, le=64 * 1024, description="MiB of its machine")
    cpus: int = Field(default=2, ge=1, le=64, description="Emulated CPUs of its machine")
    labels: Labels = Field(default_factory=dict)
    address: str | None = Field(
        default=None, min_length=1, description="Where other hosts reach it; by default the head's"
    )
    through: Words = Field(
        default_factory=list,
        description="What starts a command there: ssh host2, or ip netns exec h1; nothing: this host",
    )
    store: str | None = Field(default=None, min_length=1, description="The folder of its images")


class Fleet(Part):
    """A whole file."""

    topology: str = Field(min_length=1, description="The topology's file")
    name: str | None = Field(default=None, pattern=NAME, description="By default the topology's")
    engine: Literal["processes", "ray"] = "processes"
    address: str = Field(default="127.0.0.1", min_length=1, description="Where hosts reach the head")
    ray_address: str | None = Field(default=None, description="Of Ray's head; by default the one found")
    hosts: dict[Annotated[str, Field(pattern=NAME)], Host] = Field(min_length=1, max_length=MAX_HOSTS)
    placement: dict[Annotated[str, Field(pattern=NAME)], Placed] = Field(default_factory=dict)
    lease: Lease = Field(default_factory=Lease)
    vcpus_per_cpu: int = Field(default=VCPUS_PER_CPU, ge=1, le=1024)

    @model_validator(mode="after")
    def one_engine(self) -> Fleet:
        """`through` is for processes alone."""
        if self.engine == "ray" and any(host.through for host in self.hosts.values()):
            raise ValueError("with engine: ray a host has no 'through': Ray starts the agents")
        return self


class FleetError(ControlError):
    """A fleet that cannot be used; a line for each mistake, `file:line:column: message`."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__(Exit.FAILURE, "\n".join(lines))


@dataclass(frozen=True)
class Loaded:
    """A fleet's file and its topology, without mistakes. `wanted`: what each domain wants of a host."""

    path: FilePath
    fleet: Fleet
    project: topologies.Project
    planned: dict[str, Planned]
    wanted: dict[str, Wanted]

    @property
    def name(self) -> str:
        """The fleet's."""
        return self.fleet.name or self.project.name

    def machine_of(self, host: str) -> str:
        """What the machine of a host is called."""
        return f"{self.name}-{host}"

    @property
    def on_loopback(self) -> bool:
        """Whether the hosts are processes of one computer, and reach each other by its loopback."""
        return all(host.address is None for host in self.fleet.hosts.values())

    def address_of(self, host: str) -> str:
        """Where other hosts reach it."""
        given = self.fleet.hosts[host].address
        return loopback_address(self.name, list(self.fleet.hosts).index(host)) if given is None else given

    def spec_of(self, host: str) -> HostSpec:
        """What a host has for domains."""
        about = self.fleet.hosts[host]
        return HostSpec(host, about.memory - MACHINE_OVERHEAD, about.cpus, about.labels)

    def rehearse(self) -> dict[str, str]:
        """Where the domains would run on empty hosts, so that nothing is begun that cannot be placed. Raises ControlError."""
        placement = Placement(self.fleet.vcpus_per_cpu)
        for host in self.fleet.hosts:
            placement.add_host(self.spec_of(host))
        try:
            return placement.place_all(self.wanted.values())
        except NoRoom as error:
            raise ControlError(Exit.FAILURE, f"{self.path}: {error}") from None


def load(path: FilePath) -> Loaded:
    """Read a fleet's file and its topology. Raises FleetError, and ControlError if one of them cannot be read."""
    document = read_document(path, FleetError)
    fleet, problems = validated(document, Fleet, WHOLE, known_keys)
    if fleet is None:
        raise FleetError(list(dict.fromkeys(located(problems, document, str(path)))))
    project = topologies.load(path.absolute().parent / FilePath(fleet.topology).expanduser())
    planned = project.plan(MADE).domains
    wanted = {name: wanted_of(one, fleet) for name, one in planned.items()}
    loaded = Loaded(path, fleet, project, planned, wanted)
    if problems := problems_of(loaded):
        raise FleetError(list(dict.fromkeys(located(problems, document, str(path)))))
    return loaded


def wanted_of(planned: Planned, fleet: Fleet) -> Wanted:
    """What a domain wants of its host; a MiB beside its memory is what a machine needs for each."""
    vcpus = planned.settings.get("maxvcpus") or planned.settings.get("vcpus") or 1
    placed = fleet.placement.get(planned.name) or fleet.placement.get(planned.of) or Placed()
    return placed.wanted(planned.name, planned.of, planned.memory + 1, int(str(vcpus)))


def problems_of(loaded: Loaded) -> list[Problem]:
    """What is wrong between the parts of a fleet and its topology."""
    fleet, found = loaded.fleet, []
    kinds = list(loaded.project.topology.domains)
    known = set(kinds) | set(loaded.planned)
    for name, placed in fleet.placement.items():
        if name not in known:
            found.append(Problem(("placement", name), there_is_no(name, kinds), at_key=True))
        for key in ("beside", "apart"):
            for index, kind in enumerate(getattr(placed, key)):
                if kind not in kinds:
                    found.append(Problem(("placement", name, key, index), there_is_no(kind, kinds)))
    beside: dict[str, list[str]] = {}
    for one in loaded.wanted.values():
        beside.setdefault(one.kind, []).extend(one.beside)
    found += beside_in_a_circle(beside, "placement")
    for name, network in loaded.project.topology.networks.items():
        if network.uplink is not None:
            found.append(
                Problem(("topology",), f"network {name} has an uplink, and a fleet has none on any host")
            )
    found += address_problems(
        {name: host.address for name, host in fleet.hosts.items()}, loaded.project.topology
    )
    for name, about in fleet.hosts.items():
        if (
            loaded.project.topology.networks
            and about.address is None
            and (about.through or fleet.engine == "ray")
        ):
            found.append(
                Problem(("hosts", name), "it needs an address, for the networks that join it with others")
            )
    for host in fleet.hosts:
        if len(loaded.machine_of(host)) > LONGEST_NAME:
            what = f"machine {loaded.machine_of(host)} has a name of more than {LONGEST_NAME} letters"
            found.append(Problem(("hosts", host), what, at_key=True))
    return found


def there_is_no(name: str, kinds: list[str]) -> str:
    """The message about a domain that the topology does not have."""
    near = difflib.get_close_matches(name, kinds, n=1)
    return f"the topology has no domain '{name}'" + (f"; did you mean '{near[0]}'?" if near else "")


PARTS: Final[dict[str, type[BaseModel]]] = {"hosts": Host, "placement": Placed, "lease": Lease}
"""By a word of a path that names one: what may stand there."""


def known_keys(path: Path) -> list[str]:
    """Keys that the part at `path` may have."""
    part = next((PARTS[str(word)] for word in reversed(path) if word in PARTS), Fleet)
    return list(part.model_fields)
