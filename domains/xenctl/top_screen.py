"""`xenctl top` on a terminal: the screen is rich's, which only this command loads, and what is on it is cut to its size."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from domains.control.client import ControlClient
from domains.xenctl.top_look import WIDTHS, Look, lines_of

SORTS: Final = ("", *(column for column in WIDTHS if column not in ("STATE", "VBD_OO", "SSID")))
"""What `s` goes through; the first is by id."""
KEYS: Final = {b"\x1b[A": -1, b"\x1b[B": 1, b"\x1b[5~": -10, b"\x1b[6~": 10}
"""Arrows and page keys, and by how many lines they scroll."""
QUIT: Final = (b"q", b"Q", b"\x1b", b"\x03")


class Screen:
    """What is shown of a look; the keys change it."""

    def __init__(self, *, full_name: bool, dom0_first: bool) -> None:
        self._full_name = full_name
        self._dom0_first = dom0_first
        self._sort = 0
        self._first = 0

    def press(self, key: bytes) -> bool:
        """Do what a key says; False: end."""
        if key in QUIT:
            return False
        if key in (b"s", b"S"):
            self._sort = (self._sort + 1) % len(SORTS)
        self._first = max(self._first + KEYS.get(key, 0), 0)
        return True

    def of(self, look: Look, width: int, height: int) -> Group:
        """The lines that fit."""
        rows = self._sorted(look.used)
        self._first = min(self._first, max(len(rows) - 1, 0))
        header, *lines = lines_of(rows, full_name=self._full_name)
        sort = SORTS[self._sort]
        head = [f"{look.head[0]}   by {sort or 'id'}", *look.head[1:]]
        room = max(height - len(head) - 2, 1)
        texts = [Text(line[:width]) for line in head]
        texts.append(Text(header[:width].ljust(width), style="reverse"))
        texts += [Text(line[:width]) for line in lines[self._first : self._first + room]]
        return Group(*texts)

    def _sorted(self, rows: list[dict[str, object]]) -> list[dict[str, object]]:
        """Names from A on, numbers from the largest on; what is no number comes first."""
        column = SORTS[self._sort]
        if not column:
            return rows
        dom0, others = (rows[:1], rows[1:]) if self._dom0_first else ([], rows)
        return dom0 + sorted(others, key=lambda row: rank(row[column]))


def rank(cell: Any) -> tuple[int, Any]:
    """Where a cell stands among those of its column."""
    return (1, -cell) if isinstance(cell, int | float) else (0, cell)


def watch(client: ControlClient, delay: float, iterations: int, *, full_name: bool, dom0_first: bool) -> None:
    """Show looks until a key ends it, or so many iterations (0: for ever)."""
    console = Console(highlight=False)
    screen = Screen(full_name=full_name, dom0_first=dom0_first)
    look = Look(client, None)
    count, due = 1, time.monotonic() + delay
    with keys() as reader, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(screen.of(look, console.width, console.height), refresh=True)
            left = due - time.monotonic()
            if left > 0:
                if not screen.press(key_within(reader, left)):
                    return
                continue
            if count == iterations:
                return
            look = Look(client, look)
            count, due = count + 1, time.monotonic() + delay


@contextmanager
def keys() -> Iterator[int | None]:
    """The terminal that keys come from one by one; None if standard input is none."""
    fd = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
    if fd is None:
        yield None
        return
    before = termios.tcgetattr(fd)
    try:
        tty.setcbreak(fd)
        yield fd
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def key_within(fd: int | None, seconds: float) -> bytes:
    """A key that is pressed in that time; nothing if none is."""
    if fd is None:
        time.sleep(seconds)
        return b""
    ready, _, _ = select.select([fd], [], [], seconds)
    return os.read(fd, 16) if ready else b""
