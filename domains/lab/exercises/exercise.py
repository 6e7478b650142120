"""What an exercise is: a template to begin with, and checks of what became of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Final, NamedTuple

from domains.lab.image import LabError

NAMES: Final = {"page-fault": "page_fault", "validate-l1": "validate_l1"}
"""By name, the module."""


class Check(NamedTuple):
    """`missing`: what the solution does not do yet, "" if it does."""

    what: str
    missing: str = ""


@dataclass(frozen=True)
class Exercise:
    """`check` tries a solution, check by check; it stops where going on makes no sense. LabError: it cannot be tried at all."""

    name: str
    task: str
    template: Path
    check: Callable[[Path], Iterator[Check]]


def exercise(name: str) -> Exercise:
    """LabError: there is none of that name."""
    if name not in NAMES:
        raise LabError(f"there is no exercise {name!r}; there are {', '.join(NAMES)}")
    found: Exercise = import_module(f"domains.lab.exercises.{NAMES[name]}").EXERCISE
    return found


def begin(chosen: Exercise, file: Path) -> None:
    """Write the template to `file`, which must not be there. LabError."""
    try:
        with file.open("x") as stream:
            stream.write(chosen.template.read_text())
    except OSError as error:
        raise LabError(f"{file}: {error.strerror}") from None
