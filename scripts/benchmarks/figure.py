"""A figure, its yardstick, and how both are measured on a host that does other things meanwhile.

Subject and yardstick take turns, a short round each; every pair of rounds gives one ratio. What is reported are
medians: of the subject, of the yardstick, and of the ratios, which a slow moment of the host moves least.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

WARM_UP: Final = 10
"""Calls made before those that are timed."""

Round = Callable[[], float]
"""Does the work once and says what one unit of it took or how fast it was."""


class Unavailable(Exception):
    """A figure cannot be measured here; the text says in a few words what it needs."""


@dataclass(frozen=True)
class Goal:
    """`of`: which number is judged, "value" or "ratio"; it shall be at most (or at least) `limit`."""

    of: str
    limit: float
    at_least: bool = False

    def met(self, figure: Figure) -> bool:
        """Whether the figure reaches the goal."""
        number = figure.ratio if self.of == "ratio" else figure.value
        return number >= self.limit if self.at_least else number <= self.limit

    def __str__(self) -> str:
        return f"{self.of} {'≥' if self.at_least else '≤'} {self.limit:g}"


@dataclass(frozen=True)
class Figure:
    """`ratio` is value against yardstick, the median over pairs of rounds; `details` are numbers beside it."""

    name: str
    value: float
    unit: str
    yardstick: str
    yardstick_value: float
    ratio: float
    details: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """All fields, for --json."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True)
class Sizes:
    """How much is measured: `rounds` pairs, `calls` repetitions within a round, `domains` alive at once."""

    rounds: int = 60
    calls: int = 100
    domains: int = 250


QUICK: Final = Sizes(rounds=2, calls=5, domains=3)
"""Shows that everything runs, not how fast it is."""


def compare(
    name: str, unit: str, yardstick: str, subject: Round, reference: Round, rounds: int, scale: float = 1.0
) -> Figure:
    """Let both take turns. `scale` turns what the rounds return into `unit`; the ratio is subject / reference."""
    subject(), reference()
    pairs = [(subject(), reference()) for _ in range(rounds)]
    return Figure(
        name,
        median(pair[0] for pair in pairs) * scale,
        unit,
        yardstick,
        median(pair[1] for pair in pairs) * scale,
        median(pair[0] / pair[1] for pair in pairs),
    )


def per_call(work: Callable[[], object], calls: int) -> float:
    """Seconds that one call of `work` takes, after a few that are not counted."""
    for _ in range(WARM_UP):
        work()
    start = time.perf_counter()
    for _ in range(calls):
        work()
    return (time.perf_counter() - start) / calls


def host() -> str:
    """What it was measured on."""
    return f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}"
