"""What came of a simulation: as rows of a table, as plain data, and as charts for the laboratory's pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Final

from domains.lab.report import Chart, Figure
from domains.lab.report import Kind as FigureKind
from domains.xenctl.sched_sim.simulate import Kind, Outcome

HEADER: Final = (
    "SCHEDULER",
    "DOMAINS",
    "CPU %",
    "LEAST",
    "MOST",
    "WAITING %",
    "WAKE-UPS",
    "MEDIAN ms",
    "95 %",
    "99 %",
    "MAX",
    "MISSED",
)
RIGHT: Final = frozenset(HEADER[2:])


def rows(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """One a scheduler and description."""
    return [[outcome.scheduler, *row_of(kind)] for outcome in outcomes for kind in outcome.kinds]


def row_of(kind: Kind) -> list[str]:
    """The cells behind the scheduler's name."""
    name = kind.name if kind.domains == 1 else f"{kind.name} ×{kind.domains}"
    waits = kind.waits
    times = ["-"] * 4
    if waits is not None:
        times = [f"{one:.3f}" for one in (waits.median, waits.p95, waits.p99, waits.longest)]
    return [
        name,
        f"{kind.share:.2f}",
        f"{kind.least:.2f}",
        f"{kind.most:.2f}",
        f"{kind.waited:.2f}",
        str(waits.count if waits is not None else 0),
        *times,
        missed(kind),
    ]


def missed(kind: Kind) -> str:
    """Of work that was due, and of RTDS's own deadlines."""
    jobs = f"{kind.missed} of {kind.jobs}" if kind.jobs else "-"
    return jobs if kind.server_misses is None else f"{jobs}, servers {kind.server_misses}"


def totals(outcome: Outcome) -> str:
    """A line about the whole."""
    return (
        f"{outcome.scheduler}: {outcome.seconds:g} s on {outcome.cpus} CPU{'s' * (outcome.cpus > 1)}, "
        f"busy {outcome.busy:.2f} %, {outcome.switches:.1f} switches a second"
    )


def as_data(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """For JSON; times in ms, shares in percent of one CPU."""
    return [asdict(outcome) for outcome in outcomes]


def charts(outcomes: Sequence[Outcome]) -> list[Chart]:
    """Shares, and what wake-ups waited; a group a description, a series a scheduler."""
    kinds = outcomes[0].kinds
    names = tuple(kind.name for kind in kinds)
    sleepers = [at for at in range(len(kinds)) if any(one.kinds[at].waits is not None for one in outcomes)]

    def series(
        number: Callable[[Kind], float | None], of: Sequence[int]
    ) -> tuple[tuple[str, tuple[Figure, ...]], ...]:
        return tuple(
            (one.scheduler, tuple(Figure(number(one.kinds[at]), FigureKind.MODELLED) for at in of))
            for one in outcomes
        )

    shares = series(lambda kind: kind.share, range(len(kinds)))
    drawn = [Chart("CPU time of a domain", "percent of one CPU", names, shares)]
    if sleepers:
        woken = tuple(names[at] for at in sleepers)
        median = series(lambda kind: kind.waits.median if kind.waits else None, sleepers)
        p99 = series(lambda kind: kind.waits.p99 if kind.waits else None, sleepers)
        drawn.append(Chart("Half of the wake-ups wait at most", "ms", woken, median))
        drawn.append(Chart("99 of 100 wake-ups wait at most", "ms", woken, p99))
    return drawn
