"""Texts from elsewhere made safe to print, and tables of them.

Nothing is imported here that takes a while, such as `typing`: see quick.py.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence

LEAST_COLUMN = 8
"""Characters that a column keeps on a narrow terminal."""
LISTED = ("Name", "ID", "Mem", "VCPUs", "State", "Time(s)", "PID")
"""The columns of `xenctl list`."""
LISTED_LEFT = frozenset(("Name", "State", "Cpupool", "UUID", "Reason-Code", "Security Label"))
"""Those of them, and of what its options add, that are flush left."""


def printable(text: str) -> str:
    """A text from elsewhere, safe to print: what a terminal would act upon is written as \\xNN or \\uNNNN."""
    return "".join(letter if letter.isprintable() else escaped(letter) for letter in text)


def escaped(letter: str) -> str:
    """A character by its number, as Python writes it."""
    return letter.encode("unicode_escape").decode() if letter != "\ufffd" else letter


def table(header: Sequence[str], rows: Iterable[Sequence[object]], left: frozenset[str]) -> str:
    """Lines with columns as wide as their widest cell, those named in `left` flush left. On a terminal that is too narrow for
    them these columns are cut, the widest first; in a pipe or a file nothing is."""
    cells = [list(header), *([printable(str(cell)) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    narrow(widths, [at for at, name in enumerate(header) if name in left], terminal_width())
    lines = []
    for row in cells:
        columns = zip(row, widths, header, strict=True)
        lines.append("  ".join(c.ljust(w) if h in left else c.rjust(w) for c, w, h in cut(columns)).rstrip())
    return "\n".join(lines) + "\n"


def cut(columns: Iterable[tuple[str, int, str]]) -> Iterable[tuple[str, int, str]]:
    """Cells that are no longer than their columns are wide."""
    for cell, width, name in columns:
        yield cell if len(cell) <= width else f"{cell[: width - 1]}…", width, name


def narrow(widths: list[int], left: Sequence[int], most: int | None) -> None:
    """Take from the widest of the columns `left` until all fit into `most` characters, if they can; None: any number."""
    while most is not None and left and sum(widths) + 2 * (len(widths) - 1) > most:
        widest = max(left, key=lambda at: widths[at])
        if widths[widest] <= LEAST_COLUMN:
            return
        widths[widest] -= 1


def terminal_width() -> int | None:
    """Characters in a line of the terminal that standard output is, or what COLUMNS says they are, as for the help; None: it
    is no terminal."""
    try:
        width = os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError, AttributeError):
        return None
    said = os.environ.get("COLUMNS", "")[:6]
    return (int(said) if said.isascii() and said.isdigit() else 0) or width or None


def listed(
    name: str | None, domid: int, memory_kib: int, vcpus: int, state: str, cpu_time: float, pid: int | None
) -> tuple[object, ...]:
    """A domain's row in `xenctl list`."""
    return (name or "(null)", domid, memory_kib // 1024, vcpus, state, f"{cpu_time:.1f}", pid or "-")
