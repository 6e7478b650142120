"""What a file about a fleet to be simulated may say, and reading one: every mistake is told, with its line and column."""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Annotated, Final

from pydantic import BaseModel, Field, model_validator

from domains.control.protocol import ControlError, Exit
from domains.fleet.lease import NS_PER_S
from domains.fleet.simulation import Event, Play
from domains.fleet.wanted import VCPUS_PER_CPU, HostSpec
from domains.xenctl.fleet.parts import Labels, Lease, Part, Placed, beside_in_a_circle
from domains.xenctl.sched_sim.workload import NAME, Duration
from domains.xenctl.topology.problems import located, read_document, validated
from domains.xenctl.topology.source import Path, Problem

WHOLE: Final = "a fleet to be simulated"
MAX_HOSTS: Final = 100_000
MAX_DOMAINS: Final = 1_000_000
MAX_RENEWALS: Final = 20_000_000
"""Of all hosts together: each takes some 20 us of the simulation."""


class Hosts(Part):
    """Hosts of one kind: `memory` MiB, `cpus` emulated CPUs each."""

    count: int = Field(ge=1, le=MAX_HOSTS)
    memory: int = Field(ge=1, le=1 << 30)
    cpus: int = Field(ge=1, le=4096)
    labels: Labels = Field(default_factory=dict)


class Domains(Placed):
    """Domains of one kind."""

    count: int = Field(ge=1, le=MAX_DOMAINS)
    memory: int = Field(ge=1, le=1 << 30)
    vcpus: int = Field(default=1, ge=1, le=4096)


class Happens(Part):
    """At a time so many hosts are killed, are cut off from the network (`for` a while), or are drained."""

    at: Duration
    kill: int | None = Field(default=None, ge=1, le=MAX_HOSTS)
    cut: int | None = Field(default=None, ge=1, le=MAX_HOSTS)
    drain: int | None = Field(default=None, ge=1, le=MAX_HOSTS)
    lasts: Duration | None = Field(default=None, alias="for")

    @model_validator(mode="after")
    def one_thing(self) -> Happens:
        """What happens is one thing."""
        given = [name for name in ("kill", "cut", "drain") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("has one of kill, cut and drain")
        if self.lasts is not None and given != ["cut"]:
            raise ValueError("'for' belongs to 'cut'")
        return self

    def event(self) -> Event:
        """For the simulation."""
        if self.kill is not None:
            return Event(self.at, "kill", self.kill)
        if self.cut is not None:
            return Event(self.at, "cut", self.cut, self.lasts)
        return Event(self.at, "drain", self.drain or 0)


class SimulatedFleet(Part):
    """A whole file."""

    hosts: dict[Annotated[str, Field(pattern=NAME)], Hosts] = Field(min_length=1)
    domains: dict[Annotated[str, Field(pattern=NAME)], Domains] = Field(min_length=1)
    events: list[Happens] = Field(default_factory=list, max_length=1000)
    time: Duration = 60 * NS_PER_S
    seed: int = Field(default=1, ge=0, lt=1 << 64)
    lease: Lease = Field(default_factory=Lease)
    vcpus_per_cpu: int = Field(default=VCPUS_PER_CPU, ge=1, le=1024)
    delay: Duration = 2_000_000
    start: Duration = NS_PER_S
    stop: Duration = NS_PER_S
    move: Duration = 3 * NS_PER_S
    starts_at_once: int = Field(default=4, ge=1, le=1024)

    def problems(self) -> list[Problem]:
        """What is wrong between its parts."""
        found = []
        hosts = sum(kind.count for kind in self.hosts.values())
        domains = sum(kind.count for kind in self.domains.values())
        renewals = hosts * self.time // self.lease.renew
        for path, number, most, what in (
            ("hosts", hosts, MAX_HOSTS, "hosts"),
            ("domains", domains, MAX_DOMAINS, "domains"),
            ("time", renewals, MAX_RENEWALS, "renewals of leases in this time"),
        ):
            if number > most:
                found.append(Problem((path,), f"{number:,} {what}; {most:,} are simulated at most"))
        for name, kind in self.domains.items():
            for key in ("beside", "apart"):
                for index, other in enumerate(getattr(kind, key)):
                    if other not in self.domains:
                        found.append(Problem(("domains", name, key, index), f"there is no domain '{other}'"))
        return found + beside_in_a_circle(
            {name: kind.beside for name, kind in self.domains.items()}, "domains"
        )

    def play(self) -> Play:
        """For the simulation."""
        hosts = [
            HostSpec(f"{name}-{number}", kind.memory, kind.cpus, kind.labels)
            for name, kind in self.hosts.items()
            for number in range(1, kind.count + 1)
        ]
        domains = [
            kind.wanted(f"{name}-{number}", name, kind.memory, kind.vcpus)
            for name, kind in self.domains.items()
            for number in range(1, kind.count + 1)
        ]
        return Play(
            hosts,
            domains,
            [event.event() for event in self.events],
            self.time,
            self.lease.terms(),
            self.vcpus_per_cpu,
            self.seed,
            self.delay,
            self.start,
            self.stop,
            self.move,
            self.starts_at_once,
        )


class SimulationError(ControlError):
    """A file that cannot be simulated; a line for each mistake, `file:line:column: message`."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__(Exit.FAILURE, "\n".join(lines))


def load(file: FilePath) -> SimulatedFleet:
    """SimulationError, and ControlError if it cannot be read."""
    document = read_document(file, SimulationError)
    fleet, problems = validated(document, SimulatedFleet, WHOLE, known_keys)
    if fleet is not None:
        problems = fleet.problems()
    if problems or fleet is None:
        raise SimulationError(list(dict.fromkeys(located(problems, document, str(file)))))
    return fleet


PARTS: Final[dict[str, type[BaseModel]]] = {
    "hosts": Hosts,
    "domains": Domains,
    "events": Happens,
    "lease": Lease,
}
"""By a word of a path that names one: what may stand there."""


def known_keys(path: Path) -> list[str]:
    """Keys that the part at `path` may have."""
    part = next((PARTS[str(word)] for word in reversed(path) if word in PARTS), SimulatedFleet)
    return [field.alias or name for name, field in part.model_fields.items()]
