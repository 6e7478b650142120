"""Traces on a terminal, one step at a time.

Space, Enter, →   next step     n      next exit                  1 … 9   another system
b, ←              back          q      the end                    Tab     the next system
"""

from __future__ import annotations

import os
import sys
import termios
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from domains.lab.image import LabError
from domains.lab.output.playback import Playback
from domains.lab.report import Trace
from domains.lab.trace import Step

HELP: Final = "Space next   b back   n next exit   1-9, Tab system   q quit"
KEYS: Final[dict[str, Callable[[Playback], None]]] = {
    **dict.fromkeys((" ", "\r", "\n", "\x1b[C", "\x1bOC"), lambda at: at.move(1)),
    **dict.fromkeys(("b", "\x7f", "\x1b[D", "\x1bOD"), lambda at: at.move(-1)),
    "n": Playback.next_exit,
    "\t": lambda at: at.choose((at.number + 1) % len(at.traces)),
}
END: Final = ("q", "\x03", "\x04", "")
COLOURS: Final = {"program": "green", "kernel": "cyan"}
CONTEXT: Final = 4
"""Steps that are shown before and after."""
LONGEST_KEY: Final = 8
"""Bytes that a terminal sends for one key."""


def step_through(console: Console, traces: Sequence[Trace]) -> None:
    """Show them until the reader has seen enough. LabError: there is no terminal, or nothing to show."""
    check_terminal()
    traces = [trace for trace in traces if trace.steps]
    if not traces:
        raise LabError("this experiment has no trace to step through")
    playback = Playback(traces)
    with unbuffered_keys(), console.screen(hide_cursor=True) as screen:
        while True:
            screen.update(view(playback))
            key = os.read(sys.stdin.fileno(), LONGEST_KEY).decode("latin-1")
            if key in END:
                return
            if key.isdigit():
                playback.choose(int(key) - 1)
            elif key in KEYS:
                KEYS[key](playback)


def check_terminal() -> None:
    """LabError: keys cannot be read, or nothing be drawn."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise LabError("--step needs a terminal on standard input and output; --trace prints all steps")


@contextmanager
def unbuffered_keys() -> Iterator[None]:
    """The terminal hands each key on at once, and shows none."""
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    try:
        tty.setraw(fd, termios.TCSADRAIN)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def view(playback: Playback) -> RenderableType:
    """What is on the screen."""
    step, steps = playback.step, playback.trace.steps
    ring = f"ring {step.ring}" if step.ring >= 0 else "an exit" if step.is_exit else "no exit"
    cr3 = f", CR3 {step.cr3:#x}" if step.cr3 else ""
    who = Text.assemble((f" {step.who} ", f"reverse {colour(step)}"), f"  {ring}{cr3}")
    return Group(
        systems(playback),
        Text(f"step {playback.place + 1} of {len(steps)}"),
        Text(),
        who,
        Text(),
        listing(playback),
        Text(),
        tables(playback),
        Text(HELP, style="dim"),
    )


def systems(playback: Playback) -> Text:
    """The names of all traces, the one that is looked at marked."""
    line = Text()
    for number, trace in enumerate(playback.traces):
        line.append(f" {number + 1} {trace.title} ", "reverse" if number == playback.number else "")
    return line


def listing(playback: Playback) -> RichTable:
    """The steps around this one."""
    shown = RichTable.grid(padding=(0, 2))
    first, steps = playback.place - CONTEXT, playback.trace.steps
    for number in range(first, first + 2 * CONTEXT + 1):
        if 0 <= number < len(steps):
            step, here = steps[number], number == playback.place
            cells = (">" if here else "", str(number + 1), step.who, step.at, step.text)
            shown.add_row(*map(Text, cells), style=f"bold {colour(step)}" if here else "dim")
        else:
            shown.add_row(Text())
    return shown


def tables(playback: Playback) -> RichTable:
    """The watched entries, with what this step changed."""
    shown = RichTable.grid(padding=(0, 2))
    for entry in playback.tables():
        change = playback.changed(entry.where)
        was = f"was {change.old or 'not there'}" if change else ""
        shown.add_row(*map(Text, (entry.where, entry.value, was)), style="bold yellow" if change else "")
    return shown


def colour(step: Step) -> str:
    """Of whom is in control."""
    return COLOURS.get(step.who, "magenta")
