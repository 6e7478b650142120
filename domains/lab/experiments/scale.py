"""How many domains, with slices of which length: what a change of domains would have to cost for the published loss."""

from __future__ import annotations

from typing import Final

from domains.lab.costs import Costs
from domains.lab.played_vcpus import MS, switches
from domains.lab.report import Cell, Chart, Claim, Experiment, Figure, Kind, Report, Table

DOMAINS: Final = (1, 2, 8, 32, 128)
SLICES_MS: Final = (5, 50)
PUBLISHED_LOSS: Final = 7.5
"""Percent, with 128 domains and slices of 5 ms."""
PAPER: Final = "recalled: Barham et al., SOSP 2003, 4.5"
CHANGE: Final = ("hypercall", "cr3_load")
"""What the hypervisor's part of a change of domains costs at least: an entry, and another page table with its misses."""
NOTES: Final = (
    "Counted in virtual time on one CPU; domains that always compute, in turn. With the first domain alone nothing changes.",
    "Modelled: changes a second times what an entry into Xen and a load of CR3 cost. The loss that was measured includes caches "
    "that the others have filled, which no count sees.",
)


def run(costs: Costs) -> Report:
    """See EXPERIMENT."""
    counted = {ms: [switches(domains, ms * MS) for domains in DOMAINS] for ms in SLICES_MS}
    report = Report(claims=claims(counted, costs), notes=list(NOTES))
    report.tables += [table(counted, costs), implied()]
    report.charts.append(
        Chart(
            "Changes of domains a second, by how many domains compute",
            "a second",
            [str(domains) for domains in DOMAINS],
            [(f"slices of {ms} ms", [Figure(one) for one in counted[ms]]) for ms in SLICES_MS],
        )
    )
    return report


def loss(changes: float, costs: Costs) -> float:
    """Percent of the CPU that so many changes a second take, modelled."""
    each = costs.microseconds(sum(costs.cycles(part) for part in CHANGE))
    return 100 * changes * each / 1_000_000


def table(counted: dict[int, list[float]], costs: Costs) -> Table:
    """By number of domains."""
    rows: list[tuple[str, list[Cell]]] = []
    for place, domains in enumerate(DOMAINS):
        cells: list[Cell] = []
        for ms in SLICES_MS:
            changes = counted[ms][place]
            cells += [Figure(changes), Figure(loss(changes, costs), Kind.MODELLED, "%")]
        cells.append(Figure(PUBLISHED_LOSS, Kind.PUBLISHED, "%", PAPER) if domains == DOMAINS[-1] else "–")
        rows.append((f"{domains} domains" if domains > 1 else "1 domain", cells))
    columns = [part for ms in SLICES_MS for part in (f"changes a second, {ms} ms", "lost")]
    return Table(f"Domains that always compute, on {costs.title}", (*columns, "lost, published, 5 ms"), rows)


def implied() -> Table:
    """What the published loss says of one change."""
    each = PUBLISHED_LOSS / 100 * SLICES_MS[0] * 1000
    rows: list[tuple[str, list[Cell]]] = [
        ("a change of domains, if 200 a second lose 7.5 %", [Figure(each, Kind.PUBLISHED, "us", PAPER)])
    ]
    return Table("What the published loss comes to", ("each",), rows)


def claims(counted: dict[int, list[float]], costs: Costs) -> list[Claim]:
    """What must be seen."""
    short, long = (counted[ms] for ms in SLICES_MS)
    return [
        Claim("one domain alone never changes", short[0] < 1 and long[0] < 1),
        Claim(
            "from two on, how often domains change depends on the slice alone, not on their number",
            all(abs(one - 1000 / SLICES_MS[0]) < 1 for one in short[1:]),
        ),
        Claim(
            "slices ten times as long change a tenth as often",
            all(
                abs(10 * of_long - of_short) < 10
                for of_short, of_long in zip(short[1:], long[1:], strict=True)
            ),
        ),
        Claim(
            "modelled: the change itself is less than a tenth of the published loss; caches are the rest",
            loss(short[-1], costs) < PUBLISHED_LOSS / 10,
        ),
    ]


EXPERIMENT: Final = Experiment(
    "scale",
    "With 128 domains that compute, the loss follows the slice's length, not the number of domains.",
    "Barham et al., SOSP 2003, 4.5",
    run,
)
