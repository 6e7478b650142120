"""A report as text: rich's tables, traces, and what holds."""

from __future__ import annotations

from rich.console import Console, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from domains.lab.report import Claim, Experiment, Figure, Kind, Report, Table, Trace

STYLES = {Kind.MEASURED: "", Kind.MODELLED: "italic cyan", Kind.PUBLISHED: "yellow"}


def show(console: Console, experiment: Experiment, report: Report) -> None:
    """Print all of a report but its traces."""
    console.print(Text(experiment.name, style="bold"), Text(experiment.claim))
    console.print(Text(f"after {experiment.source}", style="dim"))
    for table in report.tables:
        console.print()
        console.print(as_table(table))
    for note in report.notes:
        console.print(Text(note))
    console.print()
    for claim in report.claims:
        console.print(as_line(claim))


def as_table(table: Table) -> RichTable:
    """One table."""
    shown = RichTable(title=table.title, title_justify="left")
    shown.add_column("")
    for column in table.columns:
        shown.add_column(column, justify="right")
    for heading, cells in table.rows:
        shown.add_row(heading, *(as_cell(cell) for cell in cells))
    return shown


def as_cell(cell: Figure | str) -> RenderableType:
    """A cell's text; where a number is from is told by its colour, and by a letter for who sees none."""
    if isinstance(cell, str):
        return Text(cell)
    mark = "" if cell.kind is Kind.MEASURED else f" ({cell.kind[0]})"
    return Text(f"{cell}{mark}", style=STYLES[cell.kind])


def as_line(claim: Claim) -> Text:
    """A claim, and whether it holds."""
    return Text("✓ " if claim.holds else "✗ ", style="green" if claim.holds else "red bold").append(
        claim.text, style="default"
    )


def steps_of(trace: Trace) -> RichTable:
    """A trace, a line each step."""
    shown = RichTable(title=trace.title, title_justify="left")
    for column in ("", "who", "ring", "at", "what", "CR3", "changed"):
        shown.add_column(column)
    for number, step in enumerate(trace.steps, 1):
        ring = str(step.ring) if step.ring >= 0 else ""
        changes = "\n".join(map(str, step.changes))
        shown.add_row(str(number), step.who, ring, step.at, step.text, f"{step.cr3:#x}", changes)
    return shown
