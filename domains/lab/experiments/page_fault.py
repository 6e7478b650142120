"""The first touch of a page that a process has not yet: who acts, in which order, under each system."""

from __future__ import annotations

from typing import Final

from domains.lab.compare import Measured, measure_all
from domains.lab.costs import Costs
from domains.lab.report import Chart, Claim, Experiment, Figure, Report, Table, Trace

PROGRAM: Final = "page_fault"
TOUCHED: Final = 0x40010000
"""The address, whose tables the traces tell of."""
STEPS_OF_ESX: Final = (
    ("guest's own fault", "the fault traps to the monitor, which hands it to the kernel's handler"),
    ("trap mov from cr2", "the handler reads CR2: that traps"),
    ("traced store", "the handler writes the page-table entry: the page is traced, and the store traps"),
    ("call-out iretd", "the handler returns by IRET: called out"),
    ("hidden fault", "the program touches the page again: its shadow is empty, and is filled in by the PMAP"),
)
STEPS_OF_XEN: Final = (
    ("#PF", "the fault enters Xen, which hands it to the registered handler in ring 1, CR2 in memory"),
    ("hypercall", "the handler asks for one update of its page table: Xen verifies it, and makes it"),
)


def run(_costs: Costs) -> Report:
    """See EXPERIMENT."""
    runs = measure_all(PROGRAM, watch=[TOUCHED])
    by_name = {one.system: one for one in runs}
    report = Report()
    report.tables.append(counts(runs))
    for title, steps, name in (
        ("ESX, step by step", STEPS_OF_ESX, "esx"),
        ("Xen, step by step", STEPS_OF_XEN, "xen"),
    ):
        exits = by_name[name].part.exits
        rows = [(what, (cause, Figure(exits[cause]))) for cause, what in steps]
        report.tables.append(Table(title, ("its name here", "exits"), rows))
    report.charts.append(
        Chart(
            "Exits of one page fault",
            "exits",
            [one.title for one in runs],
            [("exits", [Figure(one.part.nr_exits) for one in runs])],
        )
    )
    report.traces += [Trace(one.title, one.part.steps, one.part.tables) for one in runs]
    report.claims += claims(by_name)
    return report


def counts(runs: list[Measured]) -> Table:
    """How often each system was entered, and what the guest itself executed."""
    columns = [one.title for one in runs]
    kernel = [Figure(sum(count for ring, count in one.part.instructions.items() if ring < 3)) for one in runs]
    return Table(
        "One page fault",
        columns,
        [
            ("entries into the hypervisor or monitor", [Figure(one.part.nr_exits) for one in runs]),
            ("instructions of the guest's kernel", kernel),
            ("instructions of the program", [Figure(one.part.instructions[3]) for one in runs]),
        ],
    )


def claims(runs: dict[str, Measured]) -> list[Claim]:
    """What must be seen."""
    order = [step.text for step in runs["esx"].part.steps if step.ring < 0]
    wanted = [cause for cause, _ in STEPS_OF_ESX]
    return [
        Claim("Xen is entered twice or fewer", runs["xen"].part.nr_exits <= 2),
        Claim("ESX is entered five times or more", runs["esx"].part.nr_exits >= 5),
        Claim("under nested tables there is no exit", runs["nested"].part.nr_exits == 0),
        Claim(
            "ESX's exits come in the order in which its steps are listed",
            list(dict.fromkeys(order)) == wanted,
        ),
        Claim(
            "the kernel is left with the same memory everywhere",
            len({one.memory for one in runs.values()}) == 1,
        ),
    ]


EXPERIMENT: Final = Experiment(
    "page-fault",
    "A page fault enters Xen twice, and an unported kernel's monitor five times or more.",
    "Barham et al., SOSP 2003, 3.2 and 3.3.3",
    run,
)
