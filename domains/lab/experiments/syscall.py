"""A system call that does nothing: who stands between the program and its kernel, on the way there and back."""

from __future__ import annotations

from typing import Final

from domains.lab.by_cause import entries_by_cause
from domains.lab.compare import Measured, measure_all
from domains.lab.costs import Costs
from domains.lab.model import cycles, modelled_us
from domains.lab.report import Cell, Chart, Claim, Experiment, Figure, Kind, Report, Table, Trace

PROGRAM: Final = "null_call"
ENTRY: Final = "trap128"
"""Where the kernel is entered by INT 0x80."""
ALONE: Final = ("native", "nested", "vtx", "xen")
"""Where nobody stands between."""
WAY: Final = {"software interrupt": 1, "call-out iretd": 1}
"""The monitor's entries: INT 0x80, which it hands to the kernel, and the kernel's IRET."""
NEAR: Final = 1.25
"""Two costs whose ratio is no larger are the same."""
PAPER: Final = "recalled: Barham et al., SOSP 2003, table 3; the third is VMware Workstation 3.2"
PAPER_OF_2006: Final = "quoted: Adams, Agesen, ASPLOS 2006, Pentium 4 672; SYSCALL in a 64-bit guest"
PUBLISHED_US: Final = {"native": 0.45, "xen": 0.46, "workstation": 0.73}
OVER_NATIVE: Final = {"native": 0, "esx": 2000, "vtx": 0}
NOTES: Final = (
    "The paper's Xen has the guest's own gate for INT 0x80 in the CPU's IDT: its fast handler. The emulated CPU is in long mode, "
    "where no gate leads to 32-bit code, so the engine does what the gate did; that has a row of its own, and is no entry.",
    "A 64-bit guest has no such gate: both its halves are in ring 3, and each system call goes through Xen.",
)


def run(costs: Costs) -> Report:
    """See EXPERIMENT."""
    runs = measure_all(PROGRAM)
    report = Report(notes=list(NOTES), claims=claims({one.system: one for one in runs}, costs))
    report.tables += [
        way(runs),
        entries_by_cause("Entries into the hypervisor or monitor, by cause", runs),
        times(runs, costs),
    ]
    modelled = [Figure(round(cycles(one, costs)), Kind.MODELLED, "cycles") for one in runs]
    report.charts.append(
        Chart("A null system call", "cycles", [one.title for one in runs], [("cycles", modelled)])
    )
    report.traces += [Trace(one.title, one.part.steps) for one in runs]
    return report


def way(runs: list[Measured]) -> Table:
    """What was executed, and how the kernel was reached."""
    kernel = [sum(count for ring, count in one.part.instructions.items() if ring < 3) for one in runs]
    return Table(
        "One null system call",
        [one.title for one in runs],
        [
            ("instructions of the program", [Figure(one.part.instructions[3]) for one in runs]),
            ("instructions of the guest's kernel", [Figure(count) for count in kernel]),
            ("arrivals in the kernel", [Figure(arrivals(one)) for one in runs]),
            ("of these, through the monitor", [Figure(one.part.exits["software interrupt"]) for one in runs]),
            ("done by the engine as the fast handler", [Figure(one.part.direct["INT n"]) for one in runs]),
            ("entries into the hypervisor or monitor", [Figure(one.part.nr_exits) for one in runs]),
        ],
    )


def arrivals(one: Measured) -> int:
    """How often the kernel's entry for system calls was reached."""
    return sum(step.at == ENTRY for step in one.part.steps)


def times(runs: list[Measured], costs: Costs) -> Table:
    """Modelled, beside what was published."""
    native = cycles(next(one for one in runs if one.system == "native"), costs)
    over = [Figure(round(cycles(one, costs) - native), Kind.MODELLED, "cycles") for one in runs]
    rows: list[tuple[str, list[Cell]]] = [
        ("modelled", [modelled_us(one, costs) for one in runs]),
        ("published 2003", [published(PUBLISHED_US, one, "µs", PAPER) for one in runs]),
        ("modelled, more than bare hardware", [*over]),
        ("published 2006", [published(OVER_NATIVE, one, "cycles", PAPER_OF_2006) for one in runs]),
    ]
    return Table(f"Time on {costs.title}", [one.title for one in runs], rows)


def published(figures: dict[str, float] | dict[str, int], one: Measured, unit: str, source: str) -> Figure:
    """A paper's figure for this system, or none."""
    return Figure(figures.get(one.system), Kind.PUBLISHED, unit, source)


def claims(runs: dict[str, Measured], costs: Costs) -> list[Claim]:
    """What must be seen."""
    cost = {name: cycles(one, costs) for name, one in runs.items()}
    found = [
        Claim(f"{runs[name].title}: no entry into a hypervisor", runs[name].part.nr_exits == 0)
        for name in ALONE
    ]
    executed = {sum(one.part.instructions.values()) for one in runs.values()}
    return [
        *found,
        Claim("ESX: one entry for INT, one for IRET, and no other", runs["esx"].part.exits == WAY),
        Claim("the guest executes the same number of instructions everywhere", len(executed) == 1),
        Claim("modelled: Xen is as fast as bare hardware", cost["xen"] <= NEAR * cost["native"]),
        Claim("modelled: ESX is slower than both", cost["esx"] > NEAR * cost["xen"]),
    ]


EXPERIMENT: Final = Experiment(
    "syscall",
    "A system call does not enter Xen; an unported kernel's monitor is entered twice.",
    "Barham et al., SOSP 2003, 3.3.1; Adams, Agesen, ASPLOS 2006",
    run,
)
