"""What a fleet's file and a simulated fleet's have in common: labels, leases, and how domains are to be placed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from domains.fleet.lease import NS_PER_S, Terms
from domains.fleet.wanted import Strategy, Wanted
from domains.xenctl.sched_sim.workload import NAME, Duration
from domains.xenctl.topology.source import Problem

LABEL = r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$"

Labels = dict[Annotated[str, Field(pattern=LABEL)], Annotated[str, Field(pattern=LABEL)]]
Kind = Annotated[str, Field(pattern=NAME)]


class Part(BaseModel):
    """What all parts share: nothing unknown, nothing converted, nothing changed later."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True)


class Lease(Part):
    """`lasts`: how long a host may run domains after a renewal; `renew`: between two; `margin`: what is waited beyond, before
    they start elsewhere.
    """

    lasts: Duration = 5 * NS_PER_S
    renew: Duration = NS_PER_S
    margin: Duration = 2 * NS_PER_S

    @model_validator(mode="after")
    def makes_sense(self) -> Lease:
        """As Terms says."""
        self.terms()
        return self

    def terms(self) -> Terms:
        """Raises ValueError."""
        return Terms(self.lasts, self.renew, self.margin)


class Placed(Part):
    """How a kind of domain is placed. `labels`: those that its host must have; `beside`: kinds of which one must be on its host;
    `apart`: kinds of which none may be there.
    """

    strategy: Strategy = "spread"
    labels: Labels = Field(default_factory=dict)
    beside: list[Kind] = Field(default_factory=list)
    apart: list[Kind] = Field(default_factory=list)

    @model_validator(mode="after")
    def not_both(self) -> Placed:
        """A kind cannot be beside and apart."""
        for kind in self.beside:
            if kind in self.apart:
                raise ValueError(f"cannot be beside {kind} and apart from it")
        return self

    def wanted(self, name: str, kind: str, memory: int, vcpus: int) -> Wanted:
        """A domain that is placed so."""
        beside, apart = tuple(dict.fromkeys(self.beside)), tuple(dict.fromkeys(self.apart))
        return Wanted(name, kind, memory, vcpus, self.strategy, self.labels, beside, apart)


def beside_in_a_circle(beside: Mapping[str, Sequence[str]], where: str) -> list[Problem]:
    """The problem of kinds that want to be beside each other in a circle, which no order of placing them satisfies."""
    try:
        TopologicalSorter(
            {kind: [k for k in others if k != kind] for kind, others in beside.items()}
        ).prepare()
    except CycleError as error:
        circle = list(reversed(error.args[1]))
        return [
            Problem(
                (where, circle[0], "beside"), f"domains are beside in a circle: {' beside '.join(circle)}"
            )
        ]
    return []
