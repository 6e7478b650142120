"""A report as plain data, for `--json` and for pages.

    experiment, claim, source, holds      as in Experiment; `holds`: whether all claims do
    machine                               name, title, ghz: what modelled figures are for
    claims      [text, holds]             notes   [sentence]
    tables      title, columns, rows      a row: heading, cells; a cell: a figure, or {"text": …}
    charts      title, unit, logarithmic, groups, series      of a series: name, figures, one for each group
    traces      title, tables, steps      tables: where, value, before the first step; a step: who, ring (-1: outside the guest),
                                          at, text, cr3, changes, is_exit (an entry into the monitor, which is `who`);
                                          a change: where, old, new ("": not there)

A figure: value, kind (measured, modelled, published), unit, source, mark (read, quoted, recalled, or ""). Where there is none,
value and kind are null.
These names do not change; others may be added.
"""

from __future__ import annotations

from typing import Any

from domains.lab.costs import Costs
from domains.lab.report import Cell, Chart, Experiment, Figure, Report, Table, Trace
from domains.lab.trace import Step

Data = dict[str, Any]


def as_data(experiment: Experiment, report: Report, costs: Costs) -> Data:
    """All of it."""
    return {
        **about(experiment),
        "holds": report.holds,
        "machine": {"name": costs.machine, "title": costs.title, "ghz": costs.ghz},
        "claims": [{"text": claim.text, "holds": claim.holds} for claim in report.claims],
        "notes": list(report.notes),
        "tables": [_table(table) for table in report.tables],
        "charts": [_chart(chart) for chart in report.charts],
        "traces": [_trace(trace) for trace in report.traces],
    }


def about(experiment: Experiment) -> Data:
    """What it is, without a run."""
    return {"experiment": experiment.name, "claim": experiment.claim, "source": experiment.source}


def _cell(cell: Cell) -> Data:
    return {"text": cell} if isinstance(cell, str) else _figure(cell)


def _figure(figure: Figure) -> Data:
    return {
        "value": figure.value,
        "kind": None if figure.value is None else str(figure.kind),
        "unit": figure.unit,
        "source": figure.source,
        "mark": figure.mark,
    }


def _table(table: Table) -> Data:
    rows = [{"heading": heading, "cells": [_cell(cell) for cell in cells]} for heading, cells in table.rows]
    return {"title": table.title, "columns": list(table.columns), "rows": rows}


def _chart(chart: Chart) -> Data:
    return {
        "title": chart.title,
        "unit": chart.unit,
        "logarithmic": chart.logarithmic,
        "groups": list(chart.groups),
        "series": [
            {"name": name, "figures": [_figure(one) for one in figures]} for name, figures in chart.series
        ],
    }


def _trace(trace: Trace) -> Data:
    return {
        "title": trace.title,
        "tables": [entry._asdict() for entry in trace.tables],
        "steps": [_step(step) for step in trace.steps],
    }


def _step(step: Step) -> Data:
    changes = [change._asdict() for change in step.changes]
    return {
        "who": step.who,
        "ring": step.ring,
        "at": step.at,
        "text": step.text,
        "cr3": step.cr3,
        "changes": changes,
        "is_exit": step.is_exit,
    }
