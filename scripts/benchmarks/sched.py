"""What it costs to share an emulated CPU: the work that slices lose, and how late a domain wakes beside one that computes.

The paper's experiment (Barham et al. 2003, figure 6): many domains that compute, in slices of 5 and of 50 ms, against one alone.
128 of them lost 7.5 percent there in slices of 5 ms, and nearly nothing in slices of 50 ms.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Final

from scripts.benchmarks.figure import Figure, Sizes, compare
from scripts.benchmarks.machine import Guest, Machine
from scripts.benchmarks.x86.inside import INSTRUCTIONS_A_LOOP, description, images

ONE_CPU: Final = ("--cpus", "1")
SHORT_MS: Final = 5
LONG_MS: Final = 50
PUBLISHED_LOSS: Final = 0.075
DOMAINS: Final = (2, 8, 32, 128)
SLICES_EACH: Final = 8
"""A domain's part of the work is so many slices of its own, beside which telling it to begin is little."""
TRIAL: Final = 10**8
"""Loops of which it is known afterwards how many a millisecond holds: about 0.2 s."""
LONG_WORK: Final = 10**9
"""Loops that outlast any measurement."""


class Computing:
    """A machine of one CPU in which up to so many domains compute, in slices of that length."""

    def __init__(
        self, stack: ExitStack, image: Path, domains: int, slice_ms: int, sched: str = "bvt"
    ) -> None:
        options = (*ONE_CPU, "--sched", sched, "--slice-ms", str(slice_ms))
        machine = stack.enter_context(Machine(options=options))
        self._guests = [
            Guest(machine, description(image, name=f"computes-{number}")) for number in range(domains)
        ]
        self.mips(TRIAL, 1)
        self.loops_a_ms = self.mips(TRIAL, 1) * 1e3 / INSTRUCTIONS_A_LOOP

    def mips(self, loops: int, domains: int) -> float:
        """How fast the work is done, with an equal part for each of so many domains."""
        guests = self._guests[:domains]
        start = time.perf_counter()
        for guest in guests:
            guest.tell("loop", loops // domains)
        for guest in guests:
            guest.answer()
        return INSTRUCTIONS_A_LOOP * loops / 1e6 / (time.perf_counter() - start)


def scaling(sizes: Sizes) -> Iterator[Figure]:
    """Ever more together, in short slices and in long ones; `switch`: what one costs, if it is all that is lost, in ms."""
    most = min(DOMAINS[-1], sizes.domains)
    counts = [count for count in DOMAINS if count < most] + [most]
    rounds = max(2, sizes.rounds // 30)
    with images() as (image, _), ExitStack() as stack:
        found: dict[tuple[int, int], Figure] = {}
        for slice_ms in (SHORT_MS, LONG_MS):
            computing = Computing(stack, image, most, slice_ms)
            for count in counts:
                found[slice_ms, count] = shared(computing, count, slice_ms, rounds, sizes)
            stack.pop_all().close()
        figure = found[SHORT_MS, most]
        figure.details.update(
            {f"ratio of {count} at {ms} ms": round(one.ratio, 3) for (ms, count), one in found.items()}
        )
        figure.details["switch, ms"] = round((1 - figure.ratio) * SHORT_MS, 3)
        figure.details["published ratio of 128 at 5 ms"] = 1 - PUBLISHED_LOSS
        yield figure


def shared(computing: Computing, domains: int, slice_ms: int, rounds: int, sizes: Sizes) -> Figure:
    """So many domains against one: each has eight slices' work, and a round a second's at least."""
    ms = max(1000, SLICES_EACH * domains * slice_ms) * sizes.calls // Sizes.calls
    loops = round(computing.loops_a_ms * max(ms, 1))
    return compare(
        "sched_scaling",
        "MIPS",
        f"one domain alone; {domains} share a CPU in slices of {slice_ms} ms",
        lambda: computing.mips(loops, domains),
        lambda: computing.mips(loops, 1),
        rounds,
    )


def wakeup(sizes: Sizes) -> Iterator[Figure]:
    """A Python domain that sleeps most of the time, beside one that computes; the yardstick is the same while that one is
    paused.
    """
    naps = max(5, sizes.calls // 5)
    with images() as (image, _), Machine(options=ONE_CPU) as machine:
        hog, sleeper = Guest(machine, description(image)), machine.guest("Naps")

        def late() -> float:
            return float(sleeper.ask("naps", naps))

        alone = [late() for _ in range(max(2, sizes.rounds // 6))]
        hog.tell("loop", LONG_WORK)
        beside = [late() for _ in alone]
        yield Figure(
            "sched_wakeup",
            median(beside) * 1e3,
            "ms",
            "without the other domain",
            median(alone) * 1e3,
            median(one / other for one, other in zip(beside, alone, strict=True)),
        )
