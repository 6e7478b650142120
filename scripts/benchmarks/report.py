"""How figures are shown: a line each while they are measured, or a table for docs/performance.md."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from scripts.benchmarks.figure import Figure, Goal

HEADINGS: Final = ("figure", "value", "ratio", "yardstick", "its value", "goal", "beside it")


def row(figure: Figure, goal: Goal | None) -> str:
    """One line of text."""
    return (
        f"{figure.name:<22} {figure.value:>12,.4g} {figure.unit:<10} {figure.ratio:>8.3g} x "
        f"{figure.yardstick_value:,.4g} ({figure.yardstick})  {judged(figure, goal)}  {details(figure)}"
    ).rstrip()


def markdown(figures: Iterable[tuple[Figure, Goal | None]]) -> str:
    """A table."""
    rows = [
        (
            f"`{figure.name}`",
            f"{figure.value:,.4g} {figure.unit}",
            f"{figure.ratio:.3g}",
            figure.yardstick,
            f"{figure.yardstick_value:,.4g}",
            judged(figure, goal),
            details(figure),
        )
        for figure, goal in figures
    ]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (HEADINGS, ["---"] * len(HEADINGS), *rows))


def judged(figure: Figure, goal: Goal | None) -> str:
    """What the figure is to be, and whether it is; nothing if only its trend is watched."""
    return f"{'met' if goal.met(figure) else 'MISSED'}: {goal}" if goal else ""


def details(figure: Figure) -> str:
    """What was measured beside the figure, as one text."""
    return ", ".join(f"{name} {value:.4g}" for name, value in figure.details.items())
