"""An experiment's sheet, docs/lab/NAME.md, on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markdown import Markdown

from domains.lab.image import LabError

SHEETS: Final = Path(__file__).parents[3] / "docs" / "lab"
"""In a clone; an installed package has no docs."""


def explain(console: Console, name: str) -> None:
    """Print it. LabError: it is not there."""
    file = SHEETS / f"{name}.md"
    try:
        text = file.read_text()
    except OSError:
        raise LabError(f"the sheets are in a clone of the repository, and {file} is not there") from None
    console.print(Markdown(text))
