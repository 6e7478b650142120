"""What an experiment has to show: tables, charts, traces, and whether each of its claims holds.

Every number says where it is from: counted in this run (measured), made of counts by costs.toml (modelled), or somebody else's
(published), with its source and its mark.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from domains.lab.costs import DEFAULT_MACHINE, MARKS, Costs
from domains.lab.trace import Entry, Step


class Kind(StrEnum):
    """Where a number is from."""

    MEASURED = "measured"
    MODELLED = "modelled"
    PUBLISHED = "published"


@dataclass(frozen=True)
class Figure:
    """One number; `value` None: there is none. `source`: of a published one, "MARK: who says so", with one of costs.MARKS."""

    value: float | int | None
    kind: Kind = Kind.MEASURED
    unit: str = ""
    source: str = ""

    def __str__(self) -> str:
        return f"{self.number} {self.unit}".rstrip() if self.value is not None else self.number

    @property
    def number(self) -> str:
        """Without its unit; in full, or to three digits."""
        if self.value is None:
            return "–"
        if isinstance(self.value, int) or abs(self.value) >= 1000:
            return f"{round(self.value):,}"
        return f"{self.value:.3g}"

    @property
    def mark(self) -> str:
        """How well the source is known; "": it is not said."""
        first = self.source.partition(":")[0]
        return first if first in MARKS else ""


Cell = Figure | str


@dataclass(frozen=True)
class Table:
    """`rows`: a heading, and as many cells as there are columns."""

    title: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]

    def __post_init__(self) -> None:
        for heading, cells in self.rows:
            if len(cells) != len(self.columns):
                raise ValueError(f"{heading}: {len(cells)} cells for {len(self.columns)} columns")


@dataclass(frozen=True)
class Chart:
    """Bars, in groups: `series` has for each name as many figures as there are groups. `logarithmic`: the axis."""

    title: str
    unit: str
    groups: Sequence[str]
    series: Sequence[tuple[str, Sequence[Figure]]]
    logarithmic: bool = False


@dataclass(frozen=True)
class Trace:
    """A run, step by step; `tables`: those that were watched, as they were before the first."""

    title: str
    steps: Sequence[Step]
    tables: Sequence[Entry] = ()


@dataclass(frozen=True)
class Claim:
    """A sentence, and whether this run bears it out."""

    text: str
    holds: bool


@dataclass
class Report:
    """What one run of an experiment found. `notes`: sentences for the reader."""

    tables: list[Table] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    traces: list[Trace] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether all claims do."""
        return all(claim.holds for claim in self.claims)


@dataclass(frozen=True)
class Experiment:
    """`claim`: one sentence; `source`: who says so; `run`: does it."""

    name: str
    claim: str
    source: str
    run: Callable[[Costs], Report]
    cpu: str = DEFAULT_MACHINE
    """The machine of costs.toml on which it is modelled, unless another is asked for."""
