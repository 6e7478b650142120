"""xenctl exercise: the laboratory's exercises, begun and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from domains.control.protocol import ControlError, Exit
from domains.xenctl.options import Argument, Option


def exercise(
    name: Annotated[str, Argument(help="An exercise; without it, they are listed.")] = "",
    file: Annotated[Path | None, Argument(help="The solution to check.")] = None,
    begin: Annotated[
        Path | None, Option("--begin", help="Write the template, with its hole, to this file.")
    ] = None,
) -> Exit:
    """Begin one of the laboratory's exercises, or check a solution: what it does not do yet is told."""
    # Here, and not above: the laboratory brings the x86 engine with it, which no other command needs.
    from domains.lab.exercises.command import begin_exercise, check_solution, known, list_exercises
    from domains.lab.image import LabError
    from domains.xenctl.rich_output import StandardConsole

    console = StandardConsole()
    try:
        if not name and begin is None:
            list_exercises(console)
        elif known(name) and (begin is None) == (file is None):
            raise ControlError(
                Exit.USAGE, "give the file of a solution, or --begin and where to write the template"
            )
        elif begin is not None:
            begin_exercise(console, name, begin)
        elif file is not None and not check_solution(console, name, file):
            return Exit.FAILURE
    except LabError as error:
        raise ControlError(Exit.USAGE, str(error)) from None
    return Exit.OK
