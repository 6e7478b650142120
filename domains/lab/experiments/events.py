"""One interrupt, from the wait for it to the way back from its handler: a bit and an upcall on Xen, a controller elsewhere."""

from __future__ import annotations

from typing import Final

from domains.lab.board import PIC
from domains.lab.by_cause import entries_by_cause
from domains.lab.compare import Measured, measure_all
from domains.lab.costs import Costs
from domains.lab.experiments.popf import stores_to_mask
from domains.lab.model import cycles
from domains.lab.report import Cell, Chart, Claim, Experiment, Figure, Kind, Report, Table, Trace

PROGRAM: Final = "one_tick"
KINDS: Final = {
    "masking": ("call-out pushfd", "trap cli", "trap sti", "call-out popfd"),
    "interrupt controller": ("out", "trap out"),
    "waiting": ("hlt", "trap hlt", "hypercall sched_op block"),
    "delivery": ("interrupt",),
    "return from a handler": ("call-out iretd", "hypercall iret"),
    "system call": ("software interrupt",),
}
"""What an entry is for, by its cause."""
MASKING: Final = ("cli", "sti", "pushf", "popf")
HANDLER: Final = "interrupt"
"""Where an interrupt has reached the kernel's own code (kernel.c)."""
NOTES: Final = (
    "Two returns are counted where IRET is an entry: from the handler, and from the system call in which the program waits.",
    "The timer is the board's, and ticks while the CPU waits; what a device's own interrupt costs the hypervisor is not counted.",
)


def run(costs: Costs) -> Report:
    """See EXPERIMENT."""
    runs = measure_all(PROGRAM)
    report = Report(notes=list(NOTES), claims=claims({one.system: one for one in runs}))
    report.tables += [
        kernel(runs),
        kinds(runs, costs),
        entries_by_cause("Entries into the hypervisor or monitor, by cause", runs),
    ]
    series = [(kind, [Figure(entries(one, kind)) for one in runs]) for kind in KINDS]
    report.charts.append(Chart("Entries for one interrupt", "entries", [one.title for one in runs], series))
    report.traces += [Trace(one.title, one.part.steps) for one in runs]
    return report


def kernel(runs: list[Measured]) -> Table:
    """What the kernel does about it."""
    masks = [sum(executed(one, name) for name in MASKING) for one in runs]
    return Table(
        "What the kernel does",
        [one.title for one in runs],
        [
            ("interrupts that reach its handler", [Figure(arrivals(one)) for one in runs]),
            ("of these, as an upcall", [Figure(one.part.direct["upcall"]) for one in runs]),
            ("CLI, STI, PUSHF, POPF", [Figure(count) for count in masks]),
            ("stores to the shared mask", [Figure(stores_to_mask(one)) for one in runs]),
            (f"accesses to the controller's port, {PIC:#x}", [Figure(executed(one, "out")) for one in runs]),
        ],
    )


def kinds(runs: list[Measured], costs: Costs) -> Table:
    """What the entries are for."""
    rows: list[tuple[str, list[Cell]]] = [
        (kind, [Figure(entries(one, kind)) for one in runs]) for kind in KINDS
    ]
    rows.append(("all", [Figure(one.part.nr_exits) for one in runs]))
    modelled: list[Cell] = [Figure(round(cycles(one, costs)), Kind.MODELLED, "cycles") for one in runs]
    rows.append(("modelled", modelled))
    return Table(f"Entries, by what they are for; cycles on {costs.title}", [one.title for one in runs], rows)


def entries(one: Measured, kind: str) -> int:
    """How many entries were for this."""
    return sum(one.part.names[cause] for cause in KINDS[kind])


def arrivals(one: Measured) -> int:
    """How often the kernel's handler was reached."""
    return sum(step.at == HANDLER for step in one.part.steps)


def executed(one: Measured, name: str) -> int:
    """How often the guest came to an instruction whose name begins so."""
    return sum(step.ring >= 0 and step.text.startswith(name) for step in one.part.steps)


def claims(runs: dict[str, Measured]) -> list[Claim]:
    """What must be seen."""
    xen, esx = runs["xen"], runs["esx"]
    assisted = [runs[name] for name in ("nested", "vtx")]
    known = {cause for causes in KINDS.values() for cause in causes}
    return [
        Claim("one interrupt reaches the kernel everywhere", {arrivals(one) for one in runs.values()} == {1}),
        Claim(
            "every entry is for something named here",
            all(set(one.part.names) <= known for one in runs.values()),
        ),
        Claim(
            "bare hardware: one port access, and nobody is entered",
            executed(runs["native"], "out") == 1 and not runs["native"].part.nr_exits,
        ),
        Claim("hardware assistance: masking is free", not any(entries(one, "masking") for one in assisted)),
        Claim(
            "hardware assistance: the controller is an exit",
            all(entries(one, "interrupt controller") == 1 for one in assisted),
        ),
        Claim(
            "ESX: each instruction that masks is an entry, and so is the controller",
            entries(esx, "masking") == sum(executed(esx, name) for name in MASKING) > 0
            and entries(esx, "interrupt controller") == 1,
        ),
        Claim("Xen: masking is a store, and no entry", entries(xen, "masking") == 0 < stores_to_mask(xen)),
        Claim(
            "Xen: there is no controller to be told",
            executed(xen, "out") == entries(xen, "interrupt controller") == 0,
        ),
        Claim(
            "Xen: an upcall on the way out of the hypercall that waits, and no entry for it",
            xen.part.direct["upcall"] == 1
            and xen.part.nr_exits == entries(xen, "waiting") + entries(xen, "return from a handler"),
        ),
    ]


EXPERIMENT: Final = Experiment(
    "events",
    "An interrupt is a bit and an upcall on Xen, masked by a store; an emulated controller and a flag in ring 1 are entries.",
    "Barham et al., SOSP 2003, 3.2",
    run,
)
