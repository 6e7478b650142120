"""What came of a simulated fleet: as tables, as plain data, and as charts for the laboratory's pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from domains.fleet.simulation import Balance, Happened, Outcome
from domains.lab.report import Chart, Figure, Kind

HEADER: Final = (
    "EVENT",
    "AT s",
    "HOSTS",
    "DOMAINS",
    "MOVES",
    "FIRST s",
    "ALL s",
    "GAP s",
    "NOT BACK",
    "MEMORY %",
)
RIGHT: Final = frozenset(HEADER[1:])


def rows(outcome: Outcome) -> list[list[str]]:
    """One an event, and one for the beginning."""
    begun = ["begin", "0", f"{outcome.hosts}", f"{outcome.domains}", "-", "-", seconds(outcome.ready_after)]
    return [
        [*begun, "-", "-", spread(outcome.balance_begun)],
        *(row_of(happened) for happened in outcome.events),
    ]


def row_of(happened: Happened) -> list[str]:
    """The cells of an event."""
    return [
        happened.what if not happened.refused else f"{happened.what} (refused)",
        f"{happened.at:g}",
        str(happened.hosts),
        str(happened.domains),
        str(happened.moves),
        seconds(happened.first_again),
        seconds(happened.all_again),
        seconds(happened.gap),
        str(happened.waiting),
        spread(happened.balance),
    ]


def seconds(value: float | None) -> str:
    """A time, or `-`."""
    return "-" if value is None else f"{value:.2f}"


def spread(balance: Balance | None) -> str:
    """Mean and standard deviation."""
    return "-" if balance is None else f"{balance.mean:.1f} ±{balance.deviation:.1f}"


def totals(outcome: Outcome) -> str:
    """Lines about the whole."""
    balance = outcome.balance
    return (
        f"{outcome.decisions:,} places were found in {outcome.decided_s:.2f} s of CPU time, with all else that the head does: "
        f"{outcome.per_second:,.0f} a second\n"
        f"memory in use at the end: {balance.mean:.1f} % of a host on average, {balance.least:.1f} to {balance.most:.1f} %, "
        f"standard deviation {balance.deviation:.1f}\n"
        f"{outcome.unplaced:,} domains have no host at the end; {outcome.twice} ran on two hosts at once; "
        f"{outcome.renewals:,} renewals of leases\n"
        + "".join(
            f"{happened.what} at {happened.at:g} s was refused: {happened.refused}\n"
            for happened in refused(outcome)
        )
    )


def refused(outcome: Outcome) -> list[Happened]:
    """Drains for which there was no room."""
    return [happened for happened in outcome.events if happened.refused]


def as_data(outcome: Outcome) -> dict[str, Any]:
    """For JSON; times in seconds, shares in percent."""
    return asdict(outcome)


def charts(outcome: Outcome) -> Sequence[Chart]:
    """Balance at the beginning and after each event, and how long domains were away."""

    def figures(numbers: list[float | None]) -> tuple[Figure, ...]:
        return tuple(Figure(number, Kind.MODELLED) for number in numbers)

    stages = [("begin", outcome.balance_begun)] + [(named(one), one.balance) for one in outcome.events]
    balances = [balance for _, balance in stages]
    drawn = [
        Chart(
            "Memory in use",
            "percent of a host",
            [name for name, _ in stages],
            [
                ("least", figures([None if b is None else b.least for b in balances])),
                ("mean", figures([None if b is None else b.mean for b in balances])),
                ("most", figures([None if b is None else b.most for b in balances])),
            ],
        )
    ]
    if outcome.events:
        groups = [named(one) for one in outcome.events]
        away = [
            ("the first", figures([one.first_again for one in outcome.events])),
            ("all", figures([one.all_again for one in outcome.events])),
        ]
        drawn.append(Chart("Until domains run again", "s", groups, away))
        moved = [("moves", figures([float(one.moves) for one in outcome.events]))]
        drawn.append(Chart("Domains that changed their host", "domains", groups, moved))
    return drawn


def named(happened: Happened) -> str:
    """An event in a picture."""
    return f"{happened.what} {happened.hosts} at {happened.at:g} s"
