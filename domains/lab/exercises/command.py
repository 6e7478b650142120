"""What `xenctl exercise` does."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.text import Text

from domains.lab.exercises.exercise import NAMES, begin, exercise
from domains.lab.image import LabError


def list_exercises(console: Console) -> None:
    """One line each."""
    for name in NAMES:
        console.print(Text(f"{name:<16}{exercise(name).task}"))


def known(name: str) -> bool:
    """True. LabError: there is no such exercise."""
    return exercise(name) is not None


def begin_exercise(console: Console, name: str, file: Path) -> None:
    """Write the template. LabError."""
    chosen = exercise(name)
    begin(chosen, file)
    console.print(Text(f"{chosen.task}\nWrite it in {file}, then: xenctl exercise {name} {file}"))


def check_solution(console: Console, name: str, file: Path) -> bool:
    """Tell what a solution does and what it does not do yet; whether it does all. LabError."""
    chosen = exercise(name)
    if not file.is_file():
        raise LabError(f"{file}: there is no such file")
    whole = True
    for check in chosen.check(file):
        whole = whole and not check.missing
        mark = Text("✗ ", style="red bold") if check.missing else Text("✓ ", style="green")
        console.print(mark.append(check.what, style="default"))
        if check.missing:
            console.print(Text(f"    {check.missing}"))
    console.print(Text("Done." if whole else "Not yet."))
    return whole
