"""Hostile neighbours: somebody who takes all that can be taken of one thing, and what another one notices."""

from __future__ import annotations

from typing import Final, NamedTuple

from domains.lab.costs import Costs
from domains.lab.neighbours import (
    EVENTS,
    MS,
    SECOND,
    UPDATES,
    WORK,
    Grabbed,
    Stormed,
    disk_writer,
    event_storm,
    flooder,
    hypercall_storm,
    longest_wait,
    memory_hog,
    shares,
)
from domains.lab.report import Cell, Chart, Claim, Experiment, Figure, Kind, Report, Table
from hypervisor.sched.credit2 import LEAST_SLICE_NS, Credit2
from hypervisor.sched.round_robin import RoundRobin
from hypervisor.sched.scheduler import DEFAULT_WEIGHT

SPINNERS: Final = 3
DOUBLE: Final = 2 * DEFAULT_WEIGHT
NEAR: Final = 0.02
"""Shares that differ by no more are the same."""
PAPER: Final = "recalled: Barham et al., SOSP 2003, 4.4: two honest domains beside two hostile ones"
NOTES: Final = (
    "Seconds of this experiment are counted and do not pass. The paper measured the throughput of whole systems; its figures are "
    "beside, and are not what is measured here.",
    "A fork bomb is a domain that never sleeps: its processes share one virtual CPU, and the scheduler knows that one alone.",
)


class Found(NamedTuple):
    """`even`: of a second, in ns, for each of four; `double`: the same where the first has twice the weight; `wait` and
    `wait_in_turn`: the longest of somebody who mostly sleeps, under credit2 and under round robin; the others by name.
    """

    even: list[int]
    double: list[int]
    wait: int
    wait_in_turn: int
    memory: Grabbed
    storm: Stormed
    upcalls: tuple[int, int]
    disk: tuple[int, int]
    packets: tuple[tuple[int, int], tuple[int, int]]


def look() -> Found:
    """Let each of the neighbours loose."""
    others = [DEFAULT_WEIGHT] * SPINNERS
    return Found(
        shares(Credit2(), [DEFAULT_WEIGHT, *others]),
        shares(Credit2(), [DOUBLE, *others]),
        longest_wait(Credit2(), SPINNERS),
        longest_wait(RoundRobin(), SPINNERS),
        memory_hog(),
        hypercall_storm(),
        (event_storm(), event_storm(looks_each_time=True)),
        (disk_writer(crowd=2), disk_writer(crowd=1)),
        (flooder(), flooder(fair=False)),
    )


def run(_costs: Costs) -> Report:
    """See EXPERIMENT."""
    found = look()
    report = Report(notes=list(NOTES), claims=claims(found))
    report.tables += [processors(found), others(found), published()]
    report.charts.append(
        Chart(
            f"Of a second, beside {SPINNERS} who never sleep",
            "ms",
            ["even weights", "twice the weight"],
            [("the one", [Figure(each[0] / MS) for each in (found.even, found.double)])],
        )
    )
    return report


def processors(found: Found) -> Table:
    """CPUs: shares and waits."""
    rows: list[tuple[str, tuple[Cell, Cell]]] = [
        (
            "of a second, even weights",
            (Figure(found.even[0] / MS, unit="ms"), Figure(sum(found.even[1:]) / MS, unit="ms")),
        ),
        (
            "of a second, twice the weight",
            (Figure(found.double[0] / MS, unit="ms"), Figure(sum(found.double[1:]) / MS, unit="ms")),
        ),
        (f"longest wait for {WORK // MS} ms every 10 ms", (Figure(found.wait / MS, unit="ms"), "–")),
        ("the same under round robin", (Figure(found.wait_in_turn / MS, unit="ms"), "–")),
    ]
    return Table(f"CPU: one, and {SPINNERS} neighbours who never sleep", ("the one", "the neighbours"), rows)


def others(found: Found) -> Table:
    """Everything else: what is taken, and what another notices; beside it, without what holds the neighbour off."""
    memory, storm, (fair, unfair) = found.memory, found.storm, found.packets
    rows: list[tuple[str, tuple[Cell, Cell]]] = [
        (f"memory: frames given of {memory.asked:,} asked for", (Figure(memory.given), "–")),
        ("frames left for others", (Figure(memory.left), "–")),
        ("disk: its requests before another's", (Figure(found.disk[0]), Figure(found.disk[1]))),
        (f"network: of {fair[0]} waiting packets, before another's", (Figure(fair[1]), Figure(unfair[1]))),
        (f"hypercall: portions of one with {UPDATES:,} updates", (Figure(storm.portions), "–")),
        ("of these, before another's hypercall", (Figure(storm.before), "–")),
        (f"events: upcalls for {EVENTS:,}", (Figure(found.upcalls[0]), Figure(found.upcalls[1]))),
    ]
    return Table("Memory, devices, hypercalls, events", ("measured", "if nothing held it off"), rows)


def published() -> Table:
    """What the paper found of whole systems."""
    rows: list[tuple[str, tuple[Cell, ...]]] = [
        ("lost by OSDB-IR", (Figure(4, Kind.PUBLISHED, "%", PAPER),)),
        ("lost by SPEC WEB99", (Figure(2, Kind.PUBLISHED, "%", PAPER),)),
    ]
    return Table("The paper's neighbours: a disk writer, a fork bomb with a memory hog", ("published",), rows)


def claims(found: Found) -> list[Claim]:
    """What must be seen."""
    fourth = SECOND / (SPINNERS + 1)
    twice = 2 * SECOND / (SPINNERS + 2)
    memory, storm = found.memory, found.storm
    return [
        Claim(
            "CPU: with even weights each of four has a fourth", all(_near(one, fourth) for one in found.even)
        ),
        Claim("CPU: with twice the weight it has two of five parts", _near(found.double[0], twice)),
        Claim(
            "CPU: who mostly sleeps waits for a shortest slice of each neighbour at most",
            found.wait <= SPINNERS * LEAST_SLICE_NS,
        ),
        Claim(
            "memory: what a domain may have, and not one frame more", memory.had + memory.given == memory.most
        ),
        Claim("disk: half of a turn, then the other's", found.disk[0] * 2 == found.disk[1]),
        Claim("network: one packet of the flood, then the other's", found.packets[0][1] == 1),
        Claim("hypercalls: one portion, then the other's", storm.before == 1 < storm.portions),
        Claim("events: however many, one upcall", found.upcalls[0] == 1),
    ]


def _near(value: float, wanted: float) -> bool:
    return abs(value - wanted) <= NEAR * wanted


EXPERIMENT: Final = Experiment(
    "isolation",
    "A hostile neighbour gets its share, and no more; another one notices a bounded amount of it.",
    "Barham et al., SOSP 2003, 4.4",
    run,
)
