"""lmbench's operations of processes and memory, on one kernel: what each costs on bare hardware, on Xen and under a monitor."""

from __future__ import annotations

from typing import Final, NamedTuple

from domains.lab.compare import Measured, measure
from domains.lab.costs import Costs
from domains.lab.model import cycles, modelled_us
from domains.lab.report import Cell, Chart, Claim, Experiment, Figure, Kind, Report, Table

SYSTEMS: Final = ("native", "xen", "workstation")
TABLES: Final = "recalled: Barham et al., SOSP 2003, tables 3 to 5"


class Operation(NamedTuple):
    """One of lmbench's: our program for it, and the paper's microseconds on Linux, XenoLinux and VMware Workstation 3.2."""

    name: str
    program: str
    published: tuple[float, float, float]
    others: tuple[str, ...] = ()
    times: int = 1
    """How often our program does it."""


OPERATIONS: Final = (
    Operation("null call", "null_call", (0.45, 0.46, 0.73)),
    Operation("fork and exit", "fork_exit", (110, 198, 874)),
    Operation("context switch", "context_switch", (0.77, 1.97, 18.1), ("partner",), 2),
    Operation("mmap", "map_unmap", (68, 139, 620)),
    Operation("protection fault", "protection_fault", (1.06, 1.40, 7.53)),
    Operation("page fault", "page_fault", (1.42, 2.73, 12.4)),
)
ORDERED: Final = ("fork and exit", "mmap", "page fault")
NEAR: Final = 1.25
"""Xen within so much of bare hardware counts as no slower."""

Runs = dict[str, dict[str, Measured]]
"""By operation, by system."""


def run(costs: Costs) -> Report:
    """See EXPERIMENT."""
    runs = {
        one.name: {system: measure(system, one.program, *one.others) for system in SYSTEMS}
        for one in OPERATIONS
    }
    report = Report()
    report.tables += [entries(runs), times(runs, costs)]
    report.charts.append(chart(runs, costs))
    report.claims += claims(runs, costs)
    report.notes.append(
        "The published figures are of a 2.4 GHz Xeon and of VMware Workstation 3.2; the paper has none of ESX. "
        "Our kernel does less at a fork than Linux does: compare ratios, not microseconds."
    )
    return report


def entries(runs: Runs) -> Table:
    """How often the hypervisor or monitor was entered."""
    rows = [
        (one.name, [Figure(runs[one.name][system].part.nr_exits // one.times) for system in SYSTEMS])
        for one in OPERATIONS
    ]
    titles = [next(iter(runs.values()))[system].title for system in SYSTEMS]
    return Table("Entries into the hypervisor or monitor", titles, rows)


def times(runs: Runs, costs: Costs) -> Table:
    """Modelled, beside what the paper measured."""
    columns = [
        heading
        for system in ("bare", "Xen", "Workstation")
        for heading in (f"{system}, modelled", f"{system}, published")
    ]
    rows: list[tuple[str, list[Cell]]] = []
    for one in OPERATIONS:
        cells: list[Cell] = []
        for system, published in zip(SYSTEMS, one.published, strict=True):
            cells += [
                modelled_us(runs[one.name][system], costs, one.times),
                Figure(published, Kind.PUBLISHED, "µs", TABLES),
            ]
        rows.append((one.name, cells))
    return Table(f"Time on {costs.title}", columns, rows)


def chart(runs: Runs, costs: Costs) -> Chart:
    """How many times as long as on bare hardware, modelled and published."""
    series = []
    for at, title in ((1, "Xen"), (2, "Workstation")):
        modelled = [
            Figure(cycles(by[SYSTEMS[at]], costs) / cycles(by["native"], costs), Kind.MODELLED, "×")
            for by in runs.values()
        ]
        published = [
            Figure(one.published[at] / one.published[0], Kind.PUBLISHED, "×", TABLES) for one in OPERATIONS
        ]
        series += [(f"{title}, modelled", modelled), (f"{title}, published", published)]
    return Chart(
        "Time, as a multiple of bare hardware's", "×", [one.name for one in OPERATIONS], series, True
    )


def claims(runs: Runs, costs: Costs) -> list[Claim]:
    """What must be seen."""
    by_cost = {name: {system: cycles(by[system], costs) for system in SYSTEMS} for name, by in runs.items()}
    found = [Claim("a null system call does not enter Xen", _no_entry(runs["null call"]))]
    for name in ORDERED:
        one = by_cost[name]
        found.append(
            Claim(
                f"{name}: bare hardware ≤ Xen < Workstation", one["native"] <= one["xen"] < one["workstation"]
            )
        )
    null = by_cost["null call"]
    found.append(Claim("null call: Xen is as fast as bare hardware", null["xen"] <= NEAR * null["native"]))
    return found


def _no_entry(by_system: dict[str, Measured]) -> bool:
    return by_system["xen"].part.nr_exits == 0


EXPERIMENT: Final = Experiment(
    "lmbench",
    "Processes and memory cost little more on Xen than on bare hardware, and much more under a monitor.",
    "Barham et al., SOSP 2003, tables 3 to 5",
    run,
)
