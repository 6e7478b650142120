"""How results and errors leave xenctl: results on standard output, one line an error on standard error."""

from __future__ import annotations

import json
import os
import select
import sys
from collections.abc import Sequence
from typing import Any


def print_json(value: Any) -> None:
    """One JSON document, indented; bytes as text."""
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False, default=as_text)
    print()


def printable(text: str) -> str:
    """A text from elsewhere, safe to print: what a terminal would act upon is written as \\xNN or \\uNNNN."""
    return "".join(letter if letter.isprintable() else escaped(letter) for letter in text)


def escaped(letter: str) -> str:
    """A character by its number, as Python writes it."""
    return letter.encode("unicode_escape").decode() if letter != "\ufffd" else letter


def as_text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def write_bytes(data: bytes) -> None:
    """Put all of `data` on standard output at once, whatever that is."""
    fd, rest = sys.stdout.fileno(), memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            select.select([], [fd], [])


def print_error(message: str) -> None:
    print("xenctl: " + " ".join(message.split()), file=sys.stderr, flush=True)


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]], right: frozenset[str]) -> None:
    """Columns as wide as their widest cell; those named in `right` flush right."""
    cells = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    for row in cells:
        columns = zip(row, widths, header, strict=True)
        print("  ".join(c.rjust(w) if h in right else c.ljust(w) for c, w, h in columns).rstrip())
