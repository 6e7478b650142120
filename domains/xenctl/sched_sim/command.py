"""What `xenctl sched-sim` does: read the workload, simulate it under each scheduler, show what came of it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

from domains.control.protocol import ControlError, Exit
from domains.lab.image import LabError
from domains.lab.output.files import check_file, write_file
from domains.xenctl.output import print_json, print_lines, print_table
from domains.xenctl.sched_sim.report import HEADER, RIGHT, as_data, charts, rows, totals
from domains.xenctl.sched_sim.simulate import Outcome, simulate
from domains.xenctl.sched_sim.workload import load, with_options

NS_PER_S: Final = 10**9
MAX_SECONDS: Final = 24 * 3600


class Wanted(NamedTuple):
    """The command line."""

    file: Path
    sched: list[str]
    cpus: int | None
    seconds: float | None
    hours: float | None
    svg: Path | None
    png: Path | None
    json: bool


def perform(wanted: Wanted) -> None:
    """Do it. ControlError: it cannot be done; nothing is left then."""
    time_ns = duration(wanted.seconds, wanted.hours)
    pictures = {
        file: format for file, format in ((wanted.svg, "svg"), (wanted.png, "png")) if file is not None
    }
    check_pictures(list(pictures))
    workload = with_options(load(wanted.file), wanted.cpus, time_ns, wanted.sched)
    outcomes = [simulate(workload, choice) for choice in workload.schedulers]
    if wanted.json:
        print_json(as_data(outcomes))
    else:
        print_table(HEADER, rows(outcomes), RIGHT)
        print_lines("\n" + "".join(f"{totals(outcome)}\n" for outcome in outcomes))
    for file, format in pictures.items():
        draw_into(file, format, outcomes)


def duration(seconds: float | None, hours: float | None) -> int | None:
    """ns; None: as the file says. ControlError."""
    if seconds is not None and hours is not None:
        raise ControlError(Exit.USAGE, "--seconds and --hours say the same: give one of them")
    wanted = seconds if hours is None else hours * 3600
    if wanted is None:
        return None
    if not 0 < wanted <= MAX_SECONDS:
        raise ControlError(
            Exit.USAGE, f"the time to simulate is above 0 and at most {MAX_SECONDS // 3600} hours"
        )
    return max(1, round(wanted * NS_PER_S))


def check_pictures(files: list[Path]) -> None:
    """Before anything is simulated: they can be drawn. ControlError."""
    if not files:
        return
    if find_spec("matplotlib") is None:
        raise ControlError(
            Exit.FAILURE, "pictures need matplotlib: pip install matplotlib, or scripts/setup-venv lab"
        )
    try:
        for file in files:
            check_file(file)
    except LabError as error:
        raise ControlError(Exit.FAILURE, str(error)) from None


def draw_into(file: Path, format: str, outcomes: list[Outcome]) -> None:
    """Write the charts. ControlError."""
    from domains.lab.output.picture import (
        draw,
    )  # here, and not above: it needs matplotlib, which may be missing

    try:
        write_file(file, draw(charts(outcomes), format))
    except LabError as error:
        raise ControlError(Exit.FAILURE, str(error)) from None
