"""A report as text: rich's tables, traces, and what holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from rich.console import Console, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from domains.lab.costs import Costs
from domains.lab.report import Claim, Experiment, Figure, Kind, Report, Table, Trace

STYLES: Final = {Kind.MEASURED: "", Kind.MODELLED: "italic cyan", Kind.PUBLISHED: "yellow"}
MARKS: Final = {Kind.MEASURED: "", Kind.MODELLED: " (m)", Kind.PUBLISHED: " (p)"}


def show_list(console: Console, experiments: Iterable[Experiment]) -> None:
    """Each with its claim."""
    shown = RichTable.grid(padding=(0, 2))
    shown.add_column(no_wrap=True, style="bold")
    shown.add_column()
    for one in experiments:
        shown.add_row(one.name, Text(one.claim))
    console.print(shown)


def show(console: Console, experiment: Experiment, report: Report, costs: Costs) -> None:
    """Print all of a report but its traces."""
    console.print(Text(experiment.name, style="bold"))
    console.print(Text(experiment.claim))
    console.print(Text(f"after {experiment.source}", style="dim"))
    for table in report.tables:
        console.print()
        console.print(as_table(table))
    console.print()
    for line in legend(report.tables, costs):
        console.print(line)
    for note in report.notes:
        console.print(Text(note))
    console.print()
    for claim in report.claims:
        console.print(as_line(claim))


def as_table(table: Table) -> RichTable:
    """One table."""
    shown = RichTable(title=table.title, title_justify="left")
    shown.add_column("", overflow="fold")
    for column in table.columns:
        shown.add_column(Text(column), justify="right", overflow="fold")
    for heading, cells in table.rows:
        shown.add_row(Text(heading), *(as_cell(cell) for cell in cells))
    return shown


def as_cell(cell: Figure | str) -> RenderableType:
    """A cell's text; where a number is from is told by its colour, and by a letter for who sees none."""
    if isinstance(cell, str):
        return Text(cell)
    if cell.value is None:
        return Text(str(cell))
    return Text(f"{cell}{MARKS[cell.kind]}", style=STYLES[cell.kind])


def legend(tables: Sequence[Table], costs: Costs) -> list[Text]:
    """What the letters in these tables mean, and who published what."""
    figures = [cell for table in tables for _, row in table.rows for cell in row if isinstance(cell, Figure)]
    lines = []
    if any(figure.kind is Kind.MODELLED for figure in figures):
        text = f"(m) modelled: what was counted here, by the costs of {costs.machine} ({costs.title})"
        lines.append(Text(text, style=STYLES[Kind.MODELLED]))
    sources = dict.fromkeys(figure.source for figure in figures if figure.kind is Kind.PUBLISHED)
    lines += [Text(f"(p) published; {source}", style=STYLES[Kind.PUBLISHED]) for source in sources]
    if lines:
        lines.append(Text("All other numbers were counted in this run."))
    return lines


def as_line(claim: Claim) -> Text:
    """A claim, and whether it holds."""
    return Text("✓ " if claim.holds else "✗ ", style="green" if claim.holds else "red bold").append(
        claim.text, style="default"
    )


def summary(name: str, claims: Sequence[Claim]) -> Text:
    """A run in one line: how many claims hold, or which do not."""
    failed = [claim for claim in claims if not claim.holds]
    line = as_line(Claim(f"{name:<24}", not failed))
    if failed:
        return line.append("does not hold: " + "; ".join(claim.text for claim in failed))
    return line.append(f"{len(claims)} claims hold")


def not_run(name: str, reason: str) -> Text:
    """An experiment that came to no result, in one line."""
    return as_line(Claim(f"{name:<24}failed: {' '.join(reason.split())}", False))


def steps_of(trace: Trace) -> RichTable:
    """A trace, a line each step."""
    shown = RichTable(title=trace.title, title_justify="left")
    for column in ("", "who", "ring", "at", "what", "CR3", "changed"):
        shown.add_column(column, overflow="fold")
    for number, step in enumerate(trace.steps, 1):
        ring = str(step.ring) if step.ring >= 0 else ""
        changes = "\n".join(map(str, step.changes))
        cells = (
            str(number),
            step.who,
            ring,
            step.at,
            step.text,
            f"{step.cr3:#x}" if step.cr3 else "",
            changes,
        )
        shown.add_row(*map(Text, cells))
    return shown
