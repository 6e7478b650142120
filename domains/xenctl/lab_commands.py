"""xenctl lab: the laboratory's experiments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

from domains.control.protocol import ControlError, Exit
from domains.lab.wanted import Wanted
from domains.xenctl.options import Argument, Json, Option
from domains.xenctl.output import print_json

ALL: Final = "all"


def lab(
    name: Annotated[
        str, Argument(help="An experiment, or all; without it, they are listed.", metavar="[NAME|all]")
    ] = "",
    step: Annotated[bool, Option("--step", help="Go through its traces step by step.")] = False,
    trace: Annotated[bool, Option("--trace", help="Print each step of each run, too.")] = False,
    json: Json = False,
    explain: Annotated[bool, Option("--explain", help="Print the experiment's sheet; run nothing.")] = False,
    html: Annotated[
        Path | None, Option("--html", metavar="DIR", help="Write a page into this folder.")
    ] = None,
    picture: Annotated[
        Path | None, Option("--picture", metavar="FILE", help="Draw its charts; .svg or .png.")
    ] = None,
    costs: Annotated[
        Path | None, Option("--costs", metavar="FILE", help="What things cost, as in costs.toml.")
    ] = None,
    cpu: Annotated[str, Option("--cpu", help="A machine of that file.")] = "",
) -> Exit:
    """Run one of the laboratory's experiments: what systems do with the same kernel, counted."""
    wanted = Wanted(step, trace, json, html, picture, costs, cpu)
    refuse_contradictions(name, wanted, explain=explain)
    return Exit.OK if perform(name, wanted, explain=explain) else Exit.FAILURE


def perform(name: str, wanted: Wanted, *, explain: bool) -> bool:
    """Do it; whether all claims hold. ControlError: it cannot be done."""
    # Here, and not above: the laboratory brings the x86 engine with it, which no other command needs.
    from domains.lab.image import LabError

    try:
        return show(name, wanted, explain=explain)
    except LabError as error:
        raise ControlError(Exit.USAGE, str(error)) from None


def show(name: str, wanted: Wanted, *, explain: bool) -> bool:
    """The same. LabError."""
    from domains.lab.command import explain_experiment, list_experiments, run_experiment
    from domains.xenctl.rich_output import StandardConsole

    console = StandardConsole()
    if not name:
        listed = list_experiments(console, json=wanted.json)
        if wanted.json:
            print_json(listed)
        return True
    if explain:
        explain_experiment(console, name)
        return True
    if name == ALL:
        from domains.lab.command_all import run_all

        outcome = run_all(console, wanted)
    else:
        outcome = run_experiment(console, name, wanted)
    if wanted.json:
        print_json(outcome.data)
    return outcome.holds


def refuse_contradictions(name: str, wanted: Wanted, *, explain: bool) -> None:
    """ControlError: options that mean nothing here, or that exclude each other."""
    given = [f"--{option}" for option, value in wanted._asdict().items() if value] + ["--explain"] * explain
    shows = [option for option in given if option in ("--step", "--trace", "--json", "--explain")]
    if len(shows) > 1:
        raise ControlError(Exit.USAGE, f"{shows[0]} and {shows[1]} exclude each other")
    if not name:
        meaningless = [option for option in given if option != "--json"]
        where = "needs the name of an experiment"
    elif name == ALL:
        meaningless = [option for option in given if option not in ("--json", "--html", "--costs", "--cpu")]
        where = "is for a single experiment"
    else:
        meaningless = [option for option in given if explain and option != "--explain"]
        where = "does not go with --explain, which runs nothing"
    if meaningless:
        raise ControlError(Exit.USAGE, f"{meaningless[0]} {where}")
