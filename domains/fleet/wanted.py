"""What a host has, and what a domain wants of one. Memory is in MiB everywhere in a fleet, as in a topology."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

Strategy = Literal["spread", "pack"]
"""spread: on the host with the least load, away from others of its kind. pack: on the fullest one that has room."""

VCPUS_PER_CPU: Final = 8
"""vCPUs that share one emulated CPU of a host at most, unless the fleet says otherwise."""


@dataclass(frozen=True, slots=True)
class HostSpec:
    """A host: `memory` MiB for domains, `cpus` emulated CPUs, and labels that domains choose by."""

    name: str
    memory: int
    cpus: int
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A domain to be placed. `kind`: what its replicas have in common. `labels`: those its host must have. `beside`: kinds of
    which one must run on its host already (its own kind: but for the first). `apart`: kinds of which none may run there; it
    holds both ways, whichever comes first.
    """

    name: str
    kind: str
    memory: int
    vcpus: int = 1
    strategy: Strategy = "spread"
    labels: Mapping[str, str] = field(default_factory=dict)
    beside: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()


class NoRoom(Exception):
    """There is no host for a domain. `str()` is one line that says why."""

    def __init__(self, domain: str, why: str) -> None:
        super().__init__(f"{domain}: {why}")
        self.domain = domain
        self.why = why
