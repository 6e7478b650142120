"""The toolstacks side by side: the whole system's start and memory, and what a user types for one small domain."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Final

from domains.xenctl.folder import supervisor_pid
from scripts.benchmarks.figure import Figure, Sizes, compare
from scripts.benchmarks.machine import Machine, memory_mib
from scripts.benchmarks.peer.images import tiny
from scripts.benchmarks.peer.qemu import Peer
from scripts.benchmarks.peer.sides import FEW, XEN, Sides, both, images
from tests.machines import pids_of

MILLISECONDS: Final = 1e3
SEVERAL: Final = 9
"""Rounds of what takes a second."""
FIRST_LINE: Final = "tiny is up"
TINY: Final = 'name = "tiny"\nkernel = "{guests}/tiny"\nmemory = 16\n'


def whole(sizes: Sizes) -> Iterator[Figure]:
    """From the start of everything to the toolstack's answer, and the memory of all its processes then."""
    started: list[tuple[float, float]] = []
    used: list[tuple[float, float]] = []
    with images({}) as (_, booted):
        for _ in range(min(FEW, sizes.rounds)):
            with Machine() as machine:
                ours = machine.start_seconds, proportional_set(machine)
            with Peer(booted) as peer:
                started.append((ours[0], peer.ready_seconds))
                used.append((ours[1], peer.memory_mib()))
    yield of_pairs("peer_start", "s", f"to xl's answer, {XEN}", started)
    yield of_pairs("peer_memory", "MiB", f"proportional set, {XEN}", used)


def of_pairs(name: str, unit: str, yardstick: str, pairs: list[tuple[float, float]]) -> Figure:
    """A figure of values that came in pairs, ours and theirs."""
    ours, theirs = (median(column) for column in zip(*pairs, strict=True))
    return Figure(name, ours, unit, yardstick, theirs, median(mine / other for mine, other in pairs))


def proportional_set(machine: Machine) -> float:
    """MiB of all processes of a machine."""
    supervisor = supervisor_pid(machine.folder)
    processes = [] if supervisor is None else pids_of(supervisor)
    return sum(memory_mib(Path(f"/proc/{pid}/smaps_rollup").read_text())[1] for pid in processes)


def life(sizes: Sizes) -> Iterator[Figure]:
    """What a user types, with the start of the command: to the first line of a small PV kernel, then one by one."""
    rounds = min(SEVERAL, sizes.rounds)
    with tiny() as kernel, both({"tiny": kernel}) as sides:
        run = compare(
            "peer_run",
            "ms",
            f"xl create -c, {XEN}",
            lambda: run_here(sides.folder / "tiny"),
            lambda: run_there(sides),
            rounds,
            MILLISECONDS,
        )
        yield run
        yield from one_by_one(sides, rounds)


def run_here(kernel: Path) -> float:
    """Seconds until `xenctl run`, which makes a machine for it, shows the kernel's first line."""
    command = [sys.executable, "-m", "domains.xenctl", "run", str(kernel), "--memory", "16"]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        seconds = time.perf_counter() - start
        process.terminate()
    if FIRST_LINE not in said:
        raise RuntimeError(f"xenctl run showed {said!r}")
    return seconds


def run_there(sides: Sides) -> float:
    """The same on Xen."""
    seconds = sides.peer.run(f"xl create -c {sides.describe('tiny', TINY)[1]}", FIRST_LINE).seconds
    sides.peer.run("xl destroy tiny")
    return seconds


def one_by_one(sides: Sides, rounds: int) -> Iterator[Figure]:
    """`create`, `list` beside that domain, and `destroy`, in turns."""
    ours, theirs = sides.describe("tiny", TINY)
    commands = {"create": (ours, theirs), "list": ("", ""), "destroy": ("tiny", "tiny")}
    pairs: dict[str, list[tuple[float, float]]] = {command: [] for command in commands}
    for _ in range(rounds):
        for command, (here, there) in commands.items():
            mine = sides.machine.xenctl(command, *here.split())
            pairs[command].append((mine, sides.peer.run(f"xl {command} {there}").seconds))
    for command, taken in pairs.items():
        in_ms = [(mine * MILLISECONDS, other * MILLISECONDS) for mine, other in taken]
        yield of_pairs(f"peer_{command}", "ms", f"xl {command}, {XEN}", in_ms)
