"""A chart's picture: the same bytes each time, every figure's number in it, and its kind to be seen without colour."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from domains.lab.catalogue import experiment
from domains.lab.costs import load_costs
from domains.lab.image import LabError
from domains.lab.output.picture import colours_of, draw, legend, look, scale
from domains.lab.report import Chart, Figure, Kind
from domains.xenctl.main import run as xenctl
from tests.domains.lab.reports import a_report
from tests.machines import REPOSITORY

CHARTS = a_report().charts
PNG = b"\x89PNG\r\n\x1a\n"


def texts(svg: bytes) -> list[str]:
    root = ElementTree.fromstring(svg)
    return ["".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")]


def test_it_has_every_number_and_what_the_looks_mean() -> None:
    found = texts(draw(CHARTS[1:], "svg"))
    assert {"0.4", "200", "–", "198", "call", "fork", "modelled", "published", "µs, logarithmic"} <= set(
        found
    )
    assert "measured" not in found
    assert "measured" in texts(draw(CHARTS[:1], "svg"))


def test_another_process_draws_the_same_bytes() -> None:
    code = (
        "import sys; from tests.domains.lab.reports import a_report; from domains.lab.output.picture import draw;"
        "sys.stdout.buffer.write(draw(a_report().charts, 'svg'))"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd=REPOSITORY)
    assert other.stdout == draw(CHARTS, "svg")


def test_the_three_kinds_differ_without_colour() -> None:
    measured, modelled, published = (look(kind, "black") for kind in Kind)
    assert measured["facecolor"] == "black"
    assert (modelled["facecolor"], "hatch" in modelled) == ("none", True)
    assert (published["facecolor"], "hatch" in published) == ("none", False)


def test_one_thing_modelled_and_published_has_one_colour() -> None:
    assert len(set(colours_of(CHARTS[1]))) == 1
    assert [patch.get_label() for patch in legend(CHARTS[1])] == ["modelled", "published"]


def test_two_things_of_one_kind_have_two_colours() -> None:
    series = [("Xen, one CPU", [Figure(1)]), ("Xen, two CPUs", [Figure(2)])]
    chart = Chart("", "", ["a"], series)
    assert len(set(colours_of(chart))) == 2
    assert [patch.get_label() for patch in legend(chart)] == ["Xen, one CPU", "Xen, two CPUs", "measured"]


def test_a_logarithmic_axis_begins_below_the_smallest_figure() -> None:
    low, high = scale([0.4, 200.0], logarithmic=True)
    assert (low, high > 200) == (0.1, True)
    assert scale([], logarithmic=False)[1] > 0


def test_without_a_chart_there_is_no_picture() -> None:
    with pytest.raises(LabError, match="no chart"):
        draw([], "svg")


def test_the_picture_in_the_docs_has_the_figures_of_today() -> None:
    """If not: xenctl lab page-fault --picture docs/lab/page-fault.svg."""
    charts = experiment("page-fault").run(load_costs()).charts
    assert texts((REPOSITORY / "docs" / "lab" / "page-fault.svg").read_bytes()) == texts(draw(charts, "svg"))


def test_the_command_draws_both_kinds_of_files(tmp_path: Path) -> None:
    assert xenctl(["lab", "page-fault", "--picture", str(tmp_path / "a.png")]) == 0
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
