"""What `xenctl fleet sim` does: read the fleet, simulate it, show what came of it."""

from __future__ import annotations

from pathlib import Path

from domains.control.protocol import ControlError, Exit
from domains.fleet.simulation import Outcome, simulate
from domains.fleet.wanted import NoRoom
from domains.lab.image import LabError
from domains.lab.output.files import write_file
from domains.xenctl.fleet.sim.file import load
from domains.xenctl.fleet.sim.report import HEADER, RIGHT, as_data, charts, rows, totals
from domains.xenctl.output import print_json, print_lines, print_table
from domains.xenctl.sched_sim.command import check_pictures


def perform(path: Path, svg: Path | None, png: Path | None, *, json: bool) -> None:
    """Do it. ControlError: it cannot be done; nothing is left then."""
    pictures = {file: format for file, format in ((svg, "svg"), (png, "png")) if file is not None}
    check_pictures(list(pictures))
    try:
        outcome = simulate(load(path).play())
    except NoRoom as error:
        raise ControlError(Exit.FAILURE, f"{path}: {error}") from None
    if json:
        print_json(as_data(outcome))
    else:
        print_table(HEADER, rows(outcome), RIGHT)
        print_lines("\n" + totals(outcome))
    for file, format in pictures.items():
        draw_into(file, format, outcome)


def draw_into(file: Path, format: str, outcome: Outcome) -> None:
    """Write the charts. ControlError."""
    from domains.lab.output.picture import (
        draw,
    )  # here, and not above: it needs matplotlib, which may be missing

    try:
        write_file(file, draw(charts(outcome), format))
    except LabError as error:
        raise ControlError(Exit.FAILURE, str(error)) from None
