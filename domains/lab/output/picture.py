"""Charts as a picture, by matplotlib: bars beside each other, the same bytes for the same figures.

measured: a full bar; modelled: hatched; published: an outline. So the three can be told apart without colour, and every bar has
its number at its end. A series has its colour, whose lightness differs from the others'; series whose names agree up to a comma,
such as "Xen, modelled" and "Xen, published", are one thing of several kinds, and have one colour.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from domains.lab.image import LabError
from domains.lab.report import Chart, Figure, Kind

INK: Final = "#1c2733"
"""Of everything but bars."""
PALETTE: Final = ("#1f6f8b", "#e0912f", "#7a3b69", "#8fb339", "#5b6c7d", "#d1495b", "#2f4858")
WIDTH: Final = 8.0
"""Inches, as all lengths below."""
BAR: Final = 0.24
GAP: Final = 0.6
"""Between two groups, in bars."""
TITLE: Final = 0.45
AXIS: Final = 0.6
LEGEND_LINE: Final = 0.25
EDGE: Final = 0.15
LETTER: Final = 0.083
"""Of a group's name."""
NAME: Final = 28
"""Letters of a line of it."""
SWATCH: Final = 0.65
"""Of a legend's entry, beside its letters."""
LEGEND: Final = 5.0
"""The least width that there is for a legend."""
MAX_COLUMNS: Final = 4
DOTS_PER_INCH: Final = 144
PLAIN: Final[Any] = {
    "svg.hashsalt": "xenoscope",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10.0,
    "hatch.linewidth": 1.2,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
ROOM_FOR_NUMBERS: Final = 1.16
ROOM_LOGARITHMIC: Final = 3.0
"""Of the axis, beyond the longest bar."""


class Bar(NamedTuple):
    """One bar: where it lies, whose it is, what it says."""

    y: float
    series: int
    figure: Figure


def draw(charts: Sequence[Chart], format: str, *, paper: str = "white") -> bytes:
    """All charts, one below the other, on such paper; `format`: svg or png. LabError: there is none."""
    if not charts:
        raise LabError("this experiment has no chart to draw")
    total = sum(height_in_inches(chart) for chart in charts)
    left = 2 * EDGE + LETTER * max(min(NAME, len(group)) for chart in charts for group in chart.groups)
    width = WIDTH - left - EDGE
    with matplotlib.rc_context(PLAIN):
        drawing = Drawing(figsize=(WIDTH, total))
        below = total
        for chart in charts:
            height = BAR * height_of(chart)
            bottom = below - TITLE - height
            axes = drawing.add_axes((left / WIDTH, bottom / total, width / WIDTH, height / total))
            draw_chart(axes, chart)
            draw_legend(axes, chart, -AXIS / height)
            below -= height_in_inches(chart)
        out = io.BytesIO()
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type") if format == "svg" else ("Software",))
        drawing.savefig(
            out,
            format=format,
            dpi=DOTS_PER_INCH,
            metadata=metadata,
            facecolor=paper,
        )
    return out.getvalue()


def height_in_inches(chart: Chart) -> float:
    """With all around it."""
    lines = -(-len(legend(chart)) // legend_columns(chart))
    return TITLE + BAR * height_of(chart) + AXIS + LEGEND_LINE * lines + EDGE


def height_of(chart: Chart) -> float:
    """In bars."""
    return len(chart.groups) * (len(chart.series) + GAP)


def bars_of(chart: Chart) -> Iterator[Bar]:
    """From the top down, in the order of the groups."""
    step = len(chart.series) + GAP
    for group in range(len(chart.groups)):
        for series, (_, figures) in enumerate(chart.series):
            yield Bar(group * step + series + GAP / 2 + 0.5, series, figures[group])


def draw_chart(axes: Axes, chart: Chart) -> None:
    """One chart."""
    bars, colours = list(bars_of(chart)), colours_of(chart)
    values = [value for value in (length(bar.figure) for bar in bars) if value]
    lowest, highest = scale(values, logarithmic=chart.logarithmic)
    axes.set_facecolor("none")
    axes.set_xscale("log" if chart.logarithmic else "linear")
    axes.set_xlim(lowest, highest)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.set_ylim(height_of(chart), 0)
    step = len(chart.series) + GAP
    names = [textwrap.fill(group, NAME) for group in chart.groups]
    axes.set_yticks([(group + 0.5) * step for group in range(len(names))], names)
    for bar in bars:
        draw_bar(axes, bar, lowest, colours[bar.series])
    axes.set_title(chart.title, loc="left", fontweight="bold")
    axes.set_xlabel(chart.unit + (", logarithmic" if chart.logarithmic else ""))
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def length(figure: Figure) -> float:
    """Of its bar; 0: it has none."""
    return float(figure.value) if figure.value is not None and math.isfinite(figure.value) else 0.0


def scale(values: Sequence[float], *, logarithmic: bool) -> tuple[float, float]:
    """The axis' ends."""
    if not logarithmic:
        return 0.0, max(values, default=1.0) * ROOM_FOR_NUMBERS
    positive = [value for value in values if value > 0] or [1.0]
    return 10.0 ** math.floor(math.log10(min(positive)) - 0.01), max(positive) * ROOM_LOGARITHMIC


def draw_bar(axes: Axes, bar: Bar, lowest: float, colour: str) -> None:
    """A bar, and its number."""
    value = length(bar.figure)
    if value > lowest:
        style = look(bar.figure.kind, colour)
        axes.barh(bar.y, value - lowest, height=0.86, left=lowest, **style)
    place = (max(value, lowest), bar.y)
    axes.annotate(bar.figure.number, place, (4, 0), textcoords="offset points", va="center", fontsize=9)


def look(kind: Kind, colour: str) -> dict[str, Any]:
    """Full, hatched, or an outline."""
    if kind is Kind.MEASURED:
        return {"facecolor": colour, "edgecolor": colour}
    hatch = {"hatch": "////"} if kind is Kind.MODELLED else {}
    return {"facecolor": "none", "edgecolor": colour, "linewidth": 1.4, **hatch}


def things(chart: Chart) -> list[str]:
    """What each series is of: its name, or that up to the comma where this tells several kinds of one thing apart."""
    kinds: dict[str, list[Kind]] = {}
    for name, figures in chart.series:
        kinds.setdefault(name.partition(",")[0], []).extend({figure.kind for figure in figures})
    apart = {thing for thing, found in kinds.items() if len(set(found)) == len(found)}
    return [thing if (thing := name.partition(",")[0]) in apart else name for name, _ in chart.series]


def colours_of(chart: Chart) -> list[str]:
    """Of each series."""
    known = list(dict.fromkeys(things(chart)))
    return [PALETTE[known.index(thing) % len(PALETTE)] for thing in things(chart)]


def legend(chart: Chart) -> list[Patch]:
    """Which thing has which colour, if there are several; what full, hatched and outlined mean, of those that occur."""
    colours = dict(zip(things(chart), colours_of(chart), strict=True))
    entries = [Patch(label=thing, facecolor=colour, edgecolor=colour) for thing, colour in colours.items()]
    kinds = [kind for kind in Kind if any(bar.figure.kind is kind for bar in bars_of(chart))]
    several = entries if len(entries) > 1 else []
    return several + [Patch(label=str(kind), **look(kind, INK)) for kind in kinds]


def legend_columns(chart: Chart) -> int:
    """As many as have room."""
    longest = max(len(str(patch.get_label())) for patch in legend(chart))
    return max(1, min(MAX_COLUMNS, int(LEGEND / (SWATCH + LETTER * longest))))


def draw_legend(axes: Axes, chart: Chart, below: float) -> None:
    """The legend at this height of the axes, 1 being their own."""
    axes.legend(
        handles=legend(chart),
        loc="upper left",
        bbox_to_anchor=(0, below),
        borderaxespad=0,
        ncols=legend_columns(chart),
        frameon=False,
        fontsize=9,
    )
