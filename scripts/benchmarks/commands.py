"""What whoever types a command waits for, Python's own start included."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Final

from scripts.benchmarks.figure import Figure, Sizes, compare
from scripts.benchmarks.life import imports
from scripts.benchmarks.machine import IDLE, TIMEOUT, Machine, description, environment
from scripts.benchmarks.x86.inside import images

BARE: Final = "a Python process that does nothing"
XENCTL: Final = (sys.executable, "-m", "domains.xenctl")
MILLISECONDS: Final = 1e3
GUEST: Final = "typed"
"""The name of the domain that is made."""


def bare() -> float:
    """Seconds that Python takes to begin and to end."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return time.perf_counter() - start


def on_domains(sizes: Sizes) -> Iterator[Figure]:
    """`xenctl list`, `create` and `destroy` of a Python guest, to the command's end."""
    destroyed: list[float] = []
    with Machine() as machine, tempfile.TemporaryDirectory(prefix="xx-") as folder:
        file = Path(folder) / "guest.cfg"
        file.write_text(description(IDLE, 8, name=GUEST))

        def create() -> float:
            seconds = machine.xenctl("create", str(file))
            destroyed.append(machine.xenctl("destroy", GUEST))
            return seconds

        rounds = max(2, sizes.rounds // 3)
        yield compare("command_list", "ms", BARE, lambda: machine.xenctl("list"), bare, rounds, MILLISECONDS)
        made = compare("command_create", "ms", BARE, create, bare, rounds, MILLISECONDS)
        yield made
    value = median(destroyed) * MILLISECONDS
    yield Figure("command_destroy", value, "ms", BARE, made.yardstick_value, value / made.yardstick_value)


def run(sizes: Sizes) -> Iterator[Figure]:
    """`xenctl run` of a small x86 guest, to its first line."""
    with images() as (image, _):

        def first_line() -> float:
            start = time.perf_counter()
            with subprocess.Popen(
                [*XENCTL, "run", str(image), "--memory", "16"], stdout=subprocess.PIPE, env=environment()
            ) as command:
                assert command.stdout is not None
                command.stdout.readline()
                seconds = time.perf_counter() - start
                command.terminate()
                command.wait(TIMEOUT)
            return seconds

        yield compare(
            "command_run",
            "ms",
            "a Python process that imports what a machine's processes share",
            first_line,
            imports,
            max(2, sizes.rounds // 3),
            MILLISECONDS,
        )
