"""Costs that an x86 guest sees, told by its own clock (its TSC counts nanoseconds), each beside what the host does natively."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from scripts.benchmarks.echo import Echo
from scripts.benchmarks.figure import Figure, Round, Sizes, Unavailable, compare
from scripts.benchmarks.hypercalls import ECHO, MICROSECONDS
from scripts.benchmarks.life import FORK, MILLISECONDS
from scripts.benchmarks.machine import Guest, Machine
from scripts.benchmarks.warm_fork import WarmFork
from tests.guests.compiled import NEEDS, can_compile, compile_guest, gcc

HERE: Final = Path(__file__).parent
LOOPS_A_CALL: Final = 50_000
INSTRUCTIONS_A_LOOP: Final = 4
NATIVE_CALLS: Final = 100
"""A native operation is repeated so many times more often than the guest's."""


@contextmanager
def folder_for_images() -> Iterator[Path]:
    """A folder for what is compiled. Unavailable without a compiler or Xen's headers."""
    if not can_compile():
        raise Unavailable(NEEDS)
    with tempfile.TemporaryDirectory(prefix="xx-") as folder:
        yield Path(folder)


@contextmanager
def images() -> Iterator[tuple[Path, Path]]:
    """The guest's image and the native program. Unavailable as `folder_for_images` is."""
    with folder_for_images() as folder:
        native = folder / "native"
        gcc("-O1", "-o", native, HERE / "native.c")
        yield compile_guest(HERE / "guest.c", folder / "guest"), native


def description(image: Path, memory: int = 16, name: str = "") -> str:
    """A domain that boots this kernel, with `memory` MiB."""
    return f'name = "{name or image.parent.name}"\nkernel = "{image}"\nmemory = {memory}\n'


def first_line(sizes: Sizes) -> Iterator[Figure]:
    """From the request at the control endpoint to the first line of a small x86 guest."""
    with images() as (image, _), Machine() as machine, WarmFork() as warm:

        def create() -> float:
            start = time.perf_counter()
            guest = Guest(machine, description(image))
            seconds = time.perf_counter() - start
            guest.destroy()
            return seconds

        def fork() -> float:
            seconds = warm.fork()
            warm.end()
            return seconds

        rounds = max(2, sizes.rounds // 3)
        yield compare("x86_first_line", "ms", FORK, create, fork, rounds, MILLISECONDS)


def inside(sizes: Sizes) -> Iterator[Figure]:
    """What the guest's commands take."""
    with images() as (image, native), Machine() as machine, Echo() as echo:
        guest = Guest(machine, description(image))

        def seconds(command: str, calls: int) -> float:
            return float(guest.ask(command, calls)) / calls / 1e9

        def on_host(command: str, calls: int) -> float:
            done = subprocess.run([native, command, str(calls)], check=True, capture_output=True)
            return int(done.stdout) / calls / 1e9

        calls = 2 * sizes.calls
        loops = LOOPS_A_CALL * sizes.calls
        yield compare(
            "guest_mips",
            "MIPS",
            "the same four instructions natively",
            lambda: INSTRUCTIONS_A_LOOP / 1e6 / seconds("loop", loops),
            lambda: INSTRUCTIONS_A_LOOP / 1e6 / on_host("loop", loops),
            sizes.rounds,
        )

        def cost(name: str, yardstick: str, command: str, reference: Round | None = None) -> Figure:
            return compare(
                name,
                "µs",
                yardstick,
                lambda: seconds(command, calls),
                reference or (lambda: on_host(command, calls * NATIVE_CALLS)),
                sizes.rounds,
                MICROSECONDS,
            )

        yield cost("x86_hypercall", ECHO, "hypercalls", lambda: echo.round_trip(calls))
        yield cost("x86_page_fault", "SIGSEGV to a native process's handler, and back", "faults")
        yield cost("x86_syscall", "getppid of a native process", "syscalls")
        yield cost("x86_context_switch", "a byte from one native process to another on its CPU", "switches")
