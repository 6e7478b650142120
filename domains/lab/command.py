"""What `xenctl lab` does: list the experiments, explain one, run one or all, and show what was found."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final, NamedTuple

from rich.console import Console

from domains.lab.catalogue import NAMES, experiment
from domains.lab.costs import DEFAULT_FILE, load_costs
from domains.lab.image import LabError
from domains.lab.output.data import Data, about, as_data
from domains.lab.output.files import check_file, check_folder, write_file
from domains.lab.output.sheet import explain
from domains.lab.output.stepper import check_terminal, step_through
from domains.lab.output.terminal import show, show_list, steps_of
from domains.lab.wanted import Wanted

LIBRARIES: Final = ("matplotlib", "jinja2")
"""Of the extra `lab`, for pictures and pages."""
PICTURES: Final = (".svg", ".png")


class Outcome(NamedTuple):
    """Whether all claims hold; and what was found, as data."""

    holds: bool
    data: Data


def list_experiments(console: Console, *, json: bool) -> list[Data]:
    """All of them, in words or as data."""
    found = [experiment(name) for name in NAMES]
    if not json:
        show_list(console, found)
    return [about(one) for one in found]


def explain_experiment(console: Console, name: str) -> None:
    """Its sheet. LabError."""
    explain(console, experiment(name).name)


def run_experiment(console: Console, name: str, wanted: Wanted) -> Outcome:
    """Run one, and show it as is wanted. LabError: something wanted cannot be; nothing is left then."""
    chosen = experiment(name)
    costs = load_costs(wanted.costs or DEFAULT_FILE, wanted.cpu or chosen.cpu)
    check(wanted)
    report = chosen.run(costs)
    if not (wanted.step or wanted.json):
        show(console, chosen, report, costs)
    if wanted.trace:
        for one in report.traces:
            console.print(steps_of(one))
    if wanted.picture is not None:
        from domains.lab.output.picture import draw

        write_file(wanted.picture, draw(report.charts, wanted.picture.suffix[1:]))
    if wanted.html is not None:
        from domains.lab.output.page import page

        write_file(wanted.html / f"{name}.html", page(chosen, report, costs))
    if wanted.step:
        step_through(console, report.traces)
    return Outcome(report.holds, as_data(chosen, report, costs))


def check(wanted: Wanted) -> None:
    """Before anything is run: what is wanted can be done. LabError."""
    if wanted.picture is not None:
        if wanted.picture.suffix not in PICTURES:
            raise LabError(f"{wanted.picture}: a picture's name ends in {' or '.join(PICTURES)}")
        check_file(wanted.picture)
    if wanted.html is not None:
        check_folder(wanted.html)
    if wanted.picture is not None or wanted.html is not None:
        missing = [name for name in LIBRARIES if find_spec(name) is None]
        if missing:
            what, words = " and ".join(missing), " ".join(missing)
            raise LabError(f"pictures and pages need {what}: pip install {words}, or scripts/setup-venv lab")
    if wanted.step:
        check_terminal()
