"""The nanobenchmarks by which a monitor in software was compared with hardware assistance of the first generation."""

from __future__ import annotations

from typing import Final, NamedTuple

from domains.lab.compare import SYSTEMS, Measured, measure
from domains.lab.costs import Costs
from domains.lab.model import cycles
from domains.lab.report import Cell, Chart, Claim, Experiment, Figure, Kind, Report, Table

COMPARED: Final = ("native", "esx", "vtx", "nested")
PAPER: Final = "quoted: Adams, Agesen, ASPLOS 2006, Pentium 4 672"
WITHIN: Final = 1.25
"""Two costs whose ratio is no larger are the same."""


class Benchmark(NamedTuple):
    """Our program, and what was published in cycles: native, software monitor, VT-x. None: only said in words.

    `in_call`: the kernel does it in a system call of ours, and a null call's cycles are taken off.
    """

    name: str
    program: str
    published: tuple[int | None, int | None, int | None]
    in_call: bool = False


BENCHMARKS: Final = (
    Benchmark("system call", "null_call", (None, None, None)),
    Benchmark("in", "read_port", (3209, 214, 15826), in_call=True),
    Benchmark("call and return", "call_return", (11, 51, 11)),
    Benchmark("page fault", "page_fault", (1093, 3927, 11242)),
    Benchmark("divide error", "divide_error", (889, 3223, 1014)),
    Benchmark("PTE modify", "modify_entry", (1, 391, 12733), in_call=True),
)
NOTES: Final = (
    "System call: published as native plus about 2000 cycles under the software monitor, and native's under VT-x.",
    "IN and PTE modify are done by the kernel in a system call of ours; the cycles of a null call are taken off.",
    "PTE modify is two stores here, for an entry of eight bytes is changed by a 32-bit kernel.",
    "Call and return: our monitor runs user code as it is, so a translator's 51 cycles for a return in kernel code are not seen.",
)
Runs = dict[str, dict[str, Measured]]
"""By benchmark, by system."""


def run(costs: Costs) -> Report:
    """See EXPERIMENT."""
    runs = {one.name: {system: measure(system, one.program) for system in COMPARED} for one in BENCHMARKS}
    cost = {one.name: modelled(one, runs, costs) for one in BENCHMARKS}
    titles = [SYSTEMS[system][0] for system in COMPARED]
    report = Report(notes=list(NOTES), claims=claims(cost, runs))
    exits = [(name, [Figure(by[system].part.nr_exits) for system in COMPARED]) for name, by in runs.items()]
    figures = {name: [as_figure(by[system]) for system in COMPARED] for name, by in cost.items()}
    report.tables += [
        Table("Exits", titles, exits),
        Table(f"Cycles on {costs.title}", titles, list(figures.items())),
        published(),
    ]
    series = [(title, [figures[name][at] for name in figures]) for at, title in enumerate(titles)]
    report.charts.append(Chart("Cycles", "cycles", list(figures), series, logarithmic=True))
    return report


def modelled(one: Benchmark, runs: Runs, costs: Costs) -> dict[str, float]:
    """Its cycles, by system."""
    whole = {system: cycles(measured, costs) for system, measured in runs[one.name].items()}
    if not one.in_call:
        return whole
    return {system: value - cycles(runs["system call"][system], costs) for system, value in whole.items()}


def as_figure(value: float) -> Figure:
    """Cycles for a table."""
    return Figure(round(value), Kind.MODELLED, "cycles")


def published() -> Table:
    """What the paper measured."""
    rows: list[tuple[str, list[Cell]]] = [
        (one.name, [Figure(value, Kind.PUBLISHED, "cycles", PAPER) for value in one.published])
        for one in BENCHMARKS
    ]
    return Table("Published", ("native", "software monitor", "VT-x"), rows)


def claims(cost: dict[str, dict[str, float]], runs: Runs) -> list[Claim]:
    """The orderings of the paper; `cost`: modelled cycles."""

    def same(name: str, one: str, other: str) -> bool:
        return max(cost[name][one], cost[name][other]) <= WITHIN * min(cost[name][one], cost[name][other])

    def ahead(name: str, one: str, other: str) -> bool:
        return cost[name][one] < cost[name][other]

    stores = runs["PTE modify"]["vtx"].part.exits["traced store"]
    return [
        Claim("IN: the software monitor is ahead of bare hardware", ahead("in", "esx", "native")),
        Claim("IN: hardware assistance is behind both", ahead("in", "native", "vtx")),
        Claim("system call: hardware assistance as bare hardware", same("system call", "vtx", "native")),
        Claim("system call: the software monitor is behind", ahead("system call", "vtx", "esx")),
        Claim("call and return: the same everywhere", same("call and return", "vtx", "native")),
        Claim("divide error: hardware assistance as bare hardware", same("divide error", "vtx", "native")),
        Claim("divide error: the software monitor is behind", ahead("divide error", "vtx", "esx")),
        Claim(
            "page fault: the software monitor is ahead of hardware assistance",
            ahead("page fault", "esx", "vtx"),
        ),
        Claim(
            "PTE modify: the software monitor is ahead of hardware assistance",
            ahead("PTE modify", "esx", "vtx"),
        ),
        Claim("PTE modify: each store to a table is one exit of hardware assistance", stores == 2),
        Claim("page fault: nested tables take the exits away", same("page fault", "nested", "native")),
        Claim("PTE modify: nested tables take the exits away", same("PTE modify", "nested", "native")),
    ]


EXPERIMENT: Final = Experiment(
    "adams-agesen",
    "A monitor in software beat the first hardware assistance on page tables and ports, and lost on system calls.",
    "Adams, Agesen, ASPLOS 2006",
    run,
    cpu="p4-2005",
)
