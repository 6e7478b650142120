"""How results and errors leave xenctl: results on standard output, one line an error on standard error."""

from __future__ import annotations

import json
import os
import select
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from domains.control.protocol import ControlError, Exit


def print_json(value: Any) -> None:
    """One JSON document, indented; bytes as text."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=as_text)
    print("".join(c if c.isprintable() or c == "\n" else f"\\u{ord(c):04x}" for c in text))


def printable(text: str) -> str:
    """A text from elsewhere, safe to print: what a terminal would act upon is written as \\xNN or \\uNNNN."""
    return "".join(letter if letter.isprintable() else escaped(letter) for letter in text)


def print_lines(text: str) -> None:
    """Lines from elsewhere on standard output, each safe to print."""
    for line in text.split("\n")[: -1 if text.endswith("\n") else None] if text else ():
        print(printable(line.rstrip("\r")))


def escaped(letter: str) -> str:
    """A character by its number, as Python writes it."""
    return letter.encode("unicode_escape").decode() if letter != "\ufffd" else letter


def as_text(value: Any) -> str:
    """What JSON has no form for."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def write_bytes(data: bytes) -> None:
    """Put all of `data` on standard output at once, whatever that is."""
    fd, rest = sys.stdout.fileno(), memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise ControlError(Exit.FAILURE, f"cannot write standard output: {error.strerror}") from None


def print_error(message: str) -> None:
    """One line on standard error; what a terminal would act upon is shown by its number."""
    line = printable(" ".join(message.split()))
    with suppress(OSError):  # there is nobody left to tell
        print(f"xenctl: {line}", file=sys.stderr, flush=True)


def print_warning(message: str) -> None:
    """One line on standard error about something that is done, but not quite as it was asked for."""
    print_error(f"warning: {message}")


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]], right: frozenset[str]) -> None:
    """Columns as wide as their widest cell; those named in `right` flush right."""
    cells = [list(header), *([printable(str(cell)) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    for row in cells:
        columns = zip(row, widths, header, strict=True)
        print("  ".join(c.rjust(w) if h in right else c.ljust(w) for c, w, h in columns).rstrip())
