"""Schedulers compared: shares by weight, waits of somebody who sleeps, what a cheat gains, deadlines."""

from __future__ import annotations

from typing import Final, NamedTuple

from domains.lab.costs import Costs
from domains.lab.played_vcpus import MS, Sleeper, cheat, missed_deadlines, shares, sleeper_beside
from domains.lab.report import Cell, Chart, Claim, Experiment, Figure, Report, Table

FAIR: Final = ("credit2", "credit", "bvt")
"""Schedulers that share by weight."""
ALL: Final = (*FAIR, "round-robin")
WEIGHTS: Final = (128, 256, 512)
HOGS: Final = 3
NEAR: Final = 0.03
SOON_MS: Final = 5.0
FEASIBLE: Final = (2 * MS, 3 * MS, 4 * MS)
INFEASIBLE: Final = (6 * MS, 6 * MS)
NOTES: Final = (
    "All times are virtual: ten seconds of one CPU for each row. The schedulers are those of a machine; the domains are played.",
    "A vCPU that is told to stop does so 50 us later, as a guest of a machine does.",
)


class Found(NamedTuple):
    """By scheduler: shares in percent for WEIGHTS, the sleeper's waits, the cheat's share in percent. Deadlines that RTDS missed:
    of a set that fits, and of one that does not.
    """

    shares: dict[str, list[float]]
    sleeper: dict[str, Sleeper]
    cheat: dict[str, float]
    misses: tuple[int, int]


def look() -> Found:
    """Play all of them."""
    return Found(
        {name: shares(name, WEIGHTS) for name in ALL},
        {name: sleeper_beside(name, HOGS) for name in ALL},
        {name: cheat(name) for name in ALL},
        (missed_deadlines(FEASIBLE), missed_deadlines(INFEASIBLE)),
    )


def run(_costs: Costs) -> Report:
    """See EXPERIMENT."""
    found = look()
    report = Report(claims=claims(found), notes=list(NOTES))
    report.tables += [by_weight(found), waits(found), deadlines(found)]
    report.charts.append(
        Chart(
            f"One that works 0.5 ms every 10 ms, beside {HOGS} that always compute: how long it waits",
            "ms",
            list(ALL),
            [
                ("median", [Figure(found.sleeper[name].median) for name in ALL]),
                ("longest", [Figure(found.sleeper[name].longest) for name in ALL]),
            ],
        )
    )
    return report


def by_weight(found: Found) -> Table:
    """Shares of three that always compute, and of a cheat beside one."""
    rows: list[tuple[str, list[Cell]]] = [
        (name, [Figure(one, unit="%") for one in (*found.shares[name], found.cheat[name])]) for name in ALL
    ]
    columns = (*(f"weight {weight}" for weight in WEIGHTS), "a cheat beside one other")
    return Table("What each has of one CPU", columns, rows)


def waits(found: Found) -> Table:
    """Of the sleeper."""
    rows: list[tuple[str, list[Cell]]] = []
    for name in ALL:
        one = found.sleeper[name]
        rows.append(
            (name, [Figure(len(one.waits)), Figure(one.median, unit="ms"), Figure(one.longest, unit="ms")])
        )
    return Table(
        f"A sleeper beside {HOGS} that always compute", ("wake-ups", "median wait", "longest wait"), rows
    )


def deadlines(found: Found) -> Table:
    """Of RTDS."""
    fits, does_not = found.misses
    rows: list[tuple[str, list[Cell]]] = [
        ("2, 3 and 4 ms of every 10 ms", [Figure(fits)]),
        ("6 and 6 ms of every 10 ms", [Figure(does_not)]),
    ]
    return Table("RTDS on one CPU: budgets that domains ask for", ("missed deadlines in 10 s",), rows)


def claims(found: Found) -> list[Claim]:
    """What must be seen."""
    whole = sum(WEIGHTS)
    ideal = [100 * weight / whole for weight in WEIGHTS]
    return [
        *(
            Claim(
                f"{name}: weights 1 : 2 : 4 give shares within 3 % of that",
                all(
                    abs(one - wanted) < NEAR * wanted
                    for one, wanted in zip(found.shares[name], ideal, strict=True)
                ),
            )
            for name in FAIR
        ),
        Claim(
            "round robin knows no weights: each has a third",
            all(abs(one - 100 / 3) < 1 for one in found.shares["round-robin"]),
        ),
        Claim(
            "a sleeper waits less than 5 ms at most wake-ups where shares are kept, and longer in turn",
            all(found.sleeper[name].median < SOON_MS for name in FAIR)
            and found.sleeper["round-robin"].median > SOON_MS,
        ),
        Claim(
            "who sleeps whenever a tick comes gains nothing: time is charged exactly",
            all(found.cheat[name] < 50 * (1 + NEAR) for name in ALL),
        ),
        Claim("RTDS misses no deadline where the budgets fit", found.misses[0] == 0),
        Claim("RTDS says that it missed some where they do not", found.misses[1] > 0),
    ]


EXPERIMENT: Final = Experiment(
    "scheduling",
    "Schedulers that share by weight keep the shares and answer sleepers at once; taking turns does neither.",
    "Duda and Cheriton, SOSP 1999; Barham et al., SOSP 2003, 3.3.1",
    run,
)
