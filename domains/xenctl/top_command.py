"""The command that shows what domains use, again and again: as xentop, on a terminal or as text."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Annotated

from domains.control.client import ControlClient
from domains.xenctl import machine
from domains.xenctl.options import DEFAULT, Json, Machine, Option
from domains.xenctl.output import print_json
from domains.xenctl.top_look import LEAST_DELAY, Look, lines_of


def top(
    delay: Annotated[
        float, Option("--delay", "-d", min=LEAST_DELAY, help="Seconds between two looks.")
    ] = 3.0,
    iterations: Annotated[
        int, Option("--iterations", "-i", min=0, help="End after so many; 0: go on until it is ended.")
    ] = 0,
    batch: Annotated[
        bool, Option("--batch", "-b", help="Print text, as where there is no terminal.")
    ] = False,
    full_name: Annotated[bool, Option("--full-name", "-f", help="Do not cut names.")] = False,
    dom0_first: Annotated[bool, Option("--dom0-first", "-z", help="Dom0 first, however sorted.")] = False,
    name: Machine = DEFAULT,
    json: Json = False,
) -> None:
    """Show what domains use, again and again. On a terminal: q ends, s sorts by another column, the arrows scroll."""
    with machine.connect(name) as client:
        if json:
            print_json(Look(client, None).used)
        elif batch or not sys.stdout.isatty() or os.environ.get("TERM", "dumb") == "dumb":
            repeat(client, delay, iterations, lambda look: print_look(look, full_name=full_name))
        else:
            from domains.xenctl.top_screen import watch

            watch(client, delay, iterations, full_name=full_name, dom0_first=dom0_first)


def repeat(client: ControlClient, delay: float, iterations: int, show: Callable[[Look], None]) -> None:
    """Look again and again, and show it."""
    before, count = None, 0
    while True:
        before = Look(client, before)
        show(before)
        count += 1
        if count == iterations:
            return
        time.sleep(delay)


def print_look(look: Look, *, full_name: bool) -> None:
    """Its table, as `xentop -b` prints it."""
    print("\n".join(lines_of(look.used, full_name=full_name)), flush=True)
