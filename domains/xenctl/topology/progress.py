"""What `up` and `down` show: a line for each domain as something becomes of it, and on a terminal a bar below."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from domains.xenctl.output import printable

FINAL: Final = ("ready", "unchanged", "has done", "failed", "left out", "is gone")


@contextmanager
def shown(total: int, what: str) -> Iterator[Callable[[str, str], None]]:
    """A function to be told of `total` domains while `what` is being done."""
    if not sys.stderr.isatty():
        yield lambda name, became: print(printable(f"{name}: {became}"), file=sys.stderr, flush=True)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(what, total=total)

        def tell(name: str, became: str) -> None:
            progress.console.print(printable(f"{name}: {became}"), highlight=False, markup=False)
            if became.startswith(FINAL):
                progress.advance(bar)

        yield tell
