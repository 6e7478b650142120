"""512 changes of page-table entries, by each way that a kernel has: in batches, one by one, by plain stores."""

from __future__ import annotations

from typing import Final, NamedTuple

from domains.lab.compare import SYSTEMS, Measured, measure
from domains.lab.costs import Costs
from domains.lab.model import cycles
from domains.lab.report import Cell, Chart, Claim, Experiment, Figure, Kind, Report, Table, Trace

CHANGES: Final = 512
"""MARKED * ROUNDS in kernel.h."""
BATCHES: Final = (1, 2, 8, 32, 128, 512)
STORED_ON: Final = ("native", "nested", "vtx", "esx")
SHOWN_STEPS: Final = 240
"""Of a trace: some changes, of which the rest are like the first."""


class Way(NamedTuple):
    """How the changes are made, where, by which program; how many one entry into the hypervisor makes: 0, it is not entered."""

    title: str
    system: str
    program: str
    at_once: int


WAYS: Final = (
    *(Way(f"Xen, mmu_update, {size} at a time", "xen", f"batch_{size}", size) for size in BATCHES),
    Way("Xen, update_va_mapping", "xen", "one_by_one", 1),
    Way("Xen, plain stores (writable page tables)", "xen", "by_store", 1),
    *(
        Way(f"{SYSTEMS[system][0]}, plain stores", system, "by_store", 1 if system in ("vtx", "esx") else 0)
        for system in STORED_ON
    ),
)
CAUSES: Final = ("hypercall", "page-table write", "traced store")
"""The entries that are made for a change; the system call around them all has others under a monitor."""


class Made(NamedTuple):
    """What one way took: entries for the changes, the guest's instructions, modelled cycles."""

    way: Way
    entries: int
    instructions: int
    cycles: float
    measured: Measured


def run(costs: Costs) -> Report:
    """See EXPERIMENT."""
    made = [make(way, costs) for way in WAYS]
    report = Report(claims=claims(made), notes=list(NOTES))
    report.tables.append(table(made, costs))
    batches = made[: len(BATCHES)]
    report.charts.append(
        Chart(
            "mmu_update: cycles a change, by how many are made at once",
            "cycles",
            [str(size) for size in BATCHES],
            [("modelled", [per_change(one) for one in batches])],
        )
    )
    report.traces += [
        Trace(f"{one.way.title}: the beginning", one.measured.part.steps[:SHOWN_STEPS])
        for one in made
        if one.way.program in ("batch_2", "by_store")
    ]
    return report


NOTES: Final = (
    "Each change turns a bit that only software reads, in an entry that is there: nothing need be flushed.",
    "A kernel with PAE stores to the lower half of the entry; a whole entry is two stores, and two entries of a monitor.",
    "Modelled: the first entry of a hypercall is in its cost; each further one costs checked_entry.",
)


def make(way: Way, costs: Costs) -> Made:
    """Run it."""
    measured = measure(way.system, way.program, most_steps=SHOWN_STEPS)
    part = measured.part
    entries = sum(part.exits[cause] for cause in CAUSES)
    whole = cycles(measured, costs)
    if way.program.startswith("batch"):
        whole += (CHANGES - entries) * costs.cycles("checked_entry")
    return Made(way, entries, sum(part.instructions.values()), whole, measured)


def per_change(one: Made) -> Figure:
    """Modelled."""
    return Figure(round(one.cycles / CHANGES), Kind.MODELLED, "cycles")


def table(made: list[Made], costs: Costs) -> Table:
    """A row for each way."""
    rows: list[tuple[str, list[Cell]]] = [
        (
            one.way.title,
            [
                Figure(one.entries),
                Figure(one.entries / CHANGES),
                Figure(round(one.instructions / CHANGES)),
                per_change(one),
            ],
        )
        for one in made
    ]
    columns = ("entries", "entries a change", "instructions a change", f"a change on {costs.title}")
    return Table(f"{CHANGES} changes of page-table entries", columns, rows)


def claims(made: list[Made]) -> list[Claim]:
    """What must be seen."""
    by = {(one.way.system, one.way.program): one for one in made}
    batches = [by["xen", f"batch_{size}"] for size in BATCHES]
    modelled = [one.cycles for one in batches]
    stores = [one for one in made if one.way.program == "by_store" and one.way.at_once]
    alone = [one for one in made if not one.way.at_once]
    single, together = by["xen", "one_by_one"], by["xen", "batch_32"]
    return [
        Claim(
            "mmu_update enters Xen once a batch",
            all(one.entries == CHANGES // one.way.at_once for one in batches),
        ),
        Claim("update_va_mapping enters it once a change", single.entries == CHANGES),
        Claim(
            "a plain store is one entry: on Xen, ESX and under shadow tables",
            all(one.entries == CHANGES for one in stores),
        ),
        Claim(
            "on bare hardware and under nested tables there is none", not any(one.entries for one in alone)
        ),
        Claim(
            "modelled: the larger the batch, the cheaper the change",
            modelled == sorted(modelled, reverse=True),
        ),
        Claim(
            "for one change update_va_mapping is the shorter way",
            single.instructions < batches[0].instructions,
        ),
        Claim(
            "modelled: a batch of 32 costs less than a third of 32 single ones",
            3 * together.cycles < single.cycles,
        ),
    ]


EXPERIMENT: Final = Experiment(
    "batching",
    "A hypercall that changes many page-table entries costs Xen one entry; each plain store costs a monitor one.",
    "Barham et al., SOSP 2003, 3.3.3",
    run,
)
