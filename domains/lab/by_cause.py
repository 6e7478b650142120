"""Entries into hypervisors and monitors, told by their cause: rows of a table."""

from __future__ import annotations

from collections.abc import Sequence

from domains.lab.compare import Measured
from domains.lab.report import Cell, Figure, Table

TOTAL = "all"


def entries_by_cause(title: str, runs: Sequence[Measured]) -> Table:
    """A row for each cause that any of the runs has, in the order in which they are met, and one for all of them."""
    causes = list(dict.fromkeys(name for one in runs for name in one.part.names))
    rows: list[tuple[str, Sequence[Cell]]] = [
        (cause, [Figure(one.part.names[cause]) for one in runs]) for cause in causes
    ]
    rows.append((TOTAL, [Figure(one.part.nr_exits) for one in runs]))
    return Table(title, [one.title for one in runs], rows)
