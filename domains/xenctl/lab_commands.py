"""xenctl lab: the laboratory's experiments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from domains.control.protocol import ControlError, Exit


def register(app: typer.Typer) -> None:
    """Add the command to xenctl's."""
    app.command("lab")(lab)


def lab(
    name: Annotated[str, typer.Argument(help="An experiment; without it, they are listed.")] = "",
    trace: Annotated[bool, typer.Option("--trace", help="Print each step of each run, too.")] = False,
    costs: Annotated[
        Path | None, typer.Option("--costs", help="What things cost, in the form of costs.toml.")
    ] = None,
    cpu: Annotated[str, typer.Option("--cpu", help="A machine of that file.")] = "",
) -> None:
    """Run one of the laboratory's experiments: what systems do with the same kernel, counted."""
    # Here, and not above: the laboratory brings the x86 engine with it, which no other command needs.
    from rich.console import Console

    from domains.lab.command import list_experiments, run_experiment
    from domains.lab.image import LabError

    console = Console()
    try:
        if not name:
            list_experiments(console)
        elif not run_experiment(console, name, trace=trace, costs=costs, cpu=cpu):
            raise typer.Exit(Exit.FAILURE)
    except LabError as error:
        raise ControlError(Exit.USAGE, str(error)) from None
