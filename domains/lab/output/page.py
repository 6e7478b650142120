"""Reports as web pages, each whole in itself: style, script, pictures and traces are inside, and nothing is fetched.

The pages' own text is in pages/*.html (jinja2, which escapes all that comes from elsewhere), page.css and page.js.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from domains.lab.catalogue import experiment as experiment_of
from domains.lab.costs import Costs
from domains.lab.output.picture import INK, PALETTE, draw
from domains.lab.report import Claim, Experiment, Figure, Kind, Report, Trace
from domains.lab.trace import Step

FOLDER: Final = Path(__file__).parent / "pages"
WORDS: Final = {
    Kind.MEASURED: "counted in this run",
    Kind.MODELLED: "what was counted, by what things cost",
    Kind.PUBLISHED: "somebody else's, with its source",
}


def page(experiment: Experiment, report: Report, costs: Costs, *, has_index: bool = False) -> bytes:
    """One experiment's. `has_index`: an index lies beside it."""
    figures = list(figures_of(report))
    sources = dict.fromkeys(figure.source for figure in figures if figure.source)
    kinds = [(str(kind), WORDS[kind]) for kind in Kind if any(figure.kind is kind for figure in figures)]
    return _render(
        "page.html",
        experiment=experiment,
        report=report,
        costs=costs,
        has_index=has_index,
        kinds=kinds,
        modelled=any(figure.kind is Kind.MODELLED for figure in figures),
        sources={source: number for number, source in enumerate(sources, 1)},
        pictures=[
            {"title": ", ".join(chart.title for chart in report.charts), "svg": inline(report)}
            for chart in report.charts[:1]
        ],
        traces=[compact(trace) for trace in report.traces if trace.steps],
        script=Markup((FOLDER / "page.js").read_text()),
    )


def index(results: Sequence[tuple[str, list[Claim] | str]]) -> bytes:
    """Of all: by name, each one's claims, or why it came to no result."""
    rows = []
    for name, found in results:
        failed = found if isinstance(found, str) else ""
        claims = [] if isinstance(found, str) else found
        broken = [claim.text for claim in claims if not claim.holds]
        rows.append(
            {"experiment": experiment_of(name), "failed": failed, "claims": len(claims), "broken": broken}
        )
    return _render("index.html", rows=rows)


def _render(template: str, **values: Any) -> bytes:
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = Markup((FOLDER / "page.css").read_text())
    text: str = environment.get_template(template).render(style=style, **values)
    return text.encode()


def figures_of(report: Report) -> Sequence[Figure]:
    """All figures of its tables and charts that have a value."""
    tables = [cell for table in report.tables for _, cells in table.rows for cell in cells]
    charts = [figure for chart in report.charts for _, figures in chart.series for figure in figures]
    return [cell for cell in [*tables, *charts] if isinstance(cell, Figure) and cell.value is not None]


def inline(report: Report) -> Markup:
    """The charts as an element of a page, whose ink and colours are the page's, light or dark."""
    svg = draw(report.charts, "svg", paper="none").decode()
    for number, colour in enumerate(PALETTE):
        svg = svg.replace(colour, f"var(--series-{number})")
    return Markup(svg[svg.index("<svg") :].replace(INK, "currentColor"))


def compact(trace: Trace) -> dict[str, Any]:
    """A trace as page.js wants it: lists in the place of names."""
    return {
        "title": trace.title,
        "tables": [list(entry) for entry in trace.tables],
        "steps": [compact_step(step) for step in trace.steps],
    }


def compact_step(step: Step) -> list[Any]:
    """One of its steps."""
    changes = [list(change) for change in step.changes]
    return [step.who, step.ring, step.at, step.text, step.cr3, changes, int(step.is_exit)]
