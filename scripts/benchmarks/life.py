"""What it costs to start a machine, to make a domain, to end it, and to keep it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from statistics import median
from typing import Final

from scripts.benchmarks.figure import Figure, Sizes, compare
from scripts.benchmarks.machine import IDLE, Machine, description, environment, memory_mib
from scripts.benchmarks.warm_fork import WARM, WarmFork

FORK: Final = "fork of a warm process that says hello over ZeroMQ"
MILLISECONDS: Final = 1e3
BOOT: Final = 10.0
"""Seconds until a domain that was made sleeps in wait of commands."""
FEW: Final = 5
"""Rounds of what takes seconds."""


def imports() -> float:
    """Seconds of a Python process that imports what a machine's processes share."""
    begin = time.perf_counter()
    code = "".join(f"import {module}\n" for module in WARM)
    subprocess.run([sys.executable, "-c", code], check=True, env=environment())
    return time.perf_counter() - begin


def machine_start(sizes: Sizes) -> Iterator[Figure]:
    """`xenctl start`, from the command to the answer of its Dom0, interpreter start included."""

    def start() -> float:
        with Machine() as machine:
            return machine.start_seconds

    yield compare(
        "machine_start",
        "s",
        "a Python process that imports the same modules",
        start,
        imports,
        min(FEW, sizes.rounds),
    )


def create_and_destroy(sizes: Sizes) -> Iterator[Figure]:
    """From the request at the control endpoint to the guest's first line, and from the request to the id being free."""
    destroyed: list[float] = []
    reaped: list[float] = []
    with Machine() as machine, WarmFork() as warm:

        def create() -> float:
            start = time.perf_counter()
            guest = machine.guest()
            seconds = time.perf_counter() - start
            start = time.perf_counter()
            guest.destroy()
            destroyed.append(time.perf_counter() - start)
            return seconds

        def fork() -> float:
            seconds = warm.fork()
            reaped.append(warm.end())
            return seconds

        rounds = max(2, sizes.rounds // 3)
        yield compare("domain_create", "ms", FORK, create, fork, rounds, MILLISECONDS)
    yield Figure(
        "domain_destroy",
        median(destroyed) * MILLISECONDS,
        "ms",
        "kill and wait of such a process",
        median(reaped) * MILLISECONDS,
        median(ours / bare for ours, bare in zip(destroyed, reaped, strict=True)),
    )


def domain_private_memory(sizes: Sizes) -> Iterator[Figure]:
    """What only one idle Python domain's process has, among others like it."""
    with Machine() as machine, WarmFork() as warm:
        guests = [machine.guest(IDLE, 8) for _ in range(min(FEW, sizes.domains))]
        for _ in guests:
            warm.fork()
        ours = [memory_mib(guest.ask("memory")) for guest in guests]
        private, proportional = (median(column) for column in zip(*ours, strict=True))
        bare, _ = memory_mib(warm.memory())
    details = {"proportional set (MiB)": proportional}
    yield Figure("domain_private_memory", private, "MiB", FORK, bare, private / bare, details)


def domains_alive(sizes: Sizes) -> Iterator[Figure]:
    """Idle Python domains alive at the same time, each of which answers; then all are destroyed."""
    with Machine() as machine:
        start = time.perf_counter()
        ids = [machine.create(description(IDLE, 8)) for _ in range(sizes.domains)]
        created = time.perf_counter() - start
        alive, deadline = 0, time.monotonic() + BOOT
        while alive < len(ids) and time.monotonic() < deadline:  # the last one has hardly begun
            alive = sum(about.state == "-b----" for about in machine.domains() if about.domid in ids)
        start = time.perf_counter()
        for domid in ids:
            machine.destroy(domid)
        destroyed = time.perf_counter() - start
    details = {"create all (s)": created, "destroy all (s)": destroyed}
    yield Figure(
        "domains_alive", alive, "domains", "domains asked for", sizes.domains, alive / sizes.domains, details
    )
