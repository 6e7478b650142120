"""How results and errors leave xenctl: results on standard output, one line an error on standard error."""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TextIO

from domains.control.protocol import ControlError, Exit
from domains.xenctl.tables import printable as printable
from domains.xenctl.tables import table


class CannotWrite(OSError):
    """Standard output takes no more. An OSError with the host's number and words, for that is what whoever prints expects."""


class StandardOutput(io.FileIO):
    """Descriptor 1. It waits for a reader that is slow, also where somebody made it non-blocking, and its errors are told from
    those of other files: BrokenPipeError if the reader is gone, else CannotWrite.
    """

    def __init__(self) -> None:
        super().__init__(1, "w", closefd=False)

    def write(self, data: Any) -> int:
        """As many of these octets as there is room for, at least one."""
        while True:
            try:
                written: int | None = super().write(data)
            except BrokenPipeError:
                raise
            except OSError as error:
                raise CannotWrite(error.errno, error.strerror) from None
            if written is not None:
                return written
            await_room(self.fileno())


def on_standard_output(text: TextIO) -> TextIO:
    """What takes the place of `text`, Python's own writer of standard output, and writes as that does."""
    assert isinstance(text, io.TextIOWrapper)
    return io.TextIOWrapper(
        io.BufferedWriter(StandardOutput()),
        encoding=text.encoding,
        errors=text.errors,
        line_buffering=text.line_buffering,
        write_through=text.write_through,
    )


def await_room(fd: int) -> None:
    """Wait until a non-blocking descriptor may be written again."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    poll.poll()


def print_json(value: Any) -> None:
    """One JSON document, indented; bytes as text."""
    import json

    text = json.dumps(value, indent=2, ensure_ascii=False, default=as_text)
    print("".join(c if c.isprintable() or c == "\n" else f"\\u{ord(c):04x}" for c in text))


def print_lines(text: str) -> None:
    """Lines from elsewhere on standard output, each safe to print."""
    for line in text.split("\n")[: -1 if text.endswith("\n") else None] if text else ():
        print(printable(line.rstrip("\r")))


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
            await_room(fd)
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
    """Columns as wide as their widest cell; those named in `right` flush right (tables.py)."""
    sys.stdout.write(table(header, rows, frozenset(header) - right))
