"""Two pagers, one below the other, that do not know of each other; and the balloon, which lets one of them do it all."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Final, NamedTuple

from domains.lab.costs import Costs
from domains.lab.report import Cell, Chart, Claim, Experiment, Figure, Kind, Report, Table, Trace
from domains.lab.systems.paged import Choice, PagedGuest
from domains.lab.systems.xen import Xen
from domains.lab.trace import Observer, Step

FRAMES: Final = 40
"""What the machine has for the guest's pool, in every case."""
BELIEVED: Final = 72
"""Pages of the pool where the guest does not know that; the program touches 96, and 400 times one of them."""
BALLOON: Final = 32
SEED: Final = 1
PAPER: Final = "quoted: Waldspurger, OSDI 2002"
PUBLISHED: Final = (1.4, 4.4)
"""By how many per cent a ballooned guest was slower than one as small from the beginning."""
SHOWN: Final = 160
KINDS: Final = ("guest out", "guest in", "hypervisor out", "hypervisor in")


class Case(NamedTuple):
    """One way to live with FRAMES frames."""

    title: str
    program: str
    believes: int
    choice: Callable[[], Choice]


def first_in() -> Choice:
    """The page that came first goes."""
    return lambda pages: pages[0]


def at_random() -> Choice:
    """Any page goes, the same ones in each run."""
    return random.Random(SEED).choice


CASES: Final = {
    "random": Case("hypervisor pages, at random", "paging", BELIEVED, at_random),
    "first": Case("hypervisor pages, first in first out", "paging", BELIEVED, first_in),
    "balloon": Case(f"balloon of {BALLOON} pages", "paging_ballooned", BELIEVED, at_random),
    "small": Case("a machine as small from the beginning", "paging", BELIEVED - BALLOON, at_random),
}


class Paged(NamedTuple):
    """`transfers`: of PagedGuest, in the part that was looked at; `given_back`: by the balloon, before it."""

    transfers: Counter[str]
    faults: int
    given_back: int
    steps: list[Step]

    @property
    def total(self) -> int:
        """Pages to and from disks."""
        return sum(self.transfers[kind] for kind in KINDS)


def run(_costs: Costs) -> Report:
    """See EXPERIMENT."""
    found = {name: page(case) for name, case in CASES.items()}
    xen = balloon_on_xen()
    report = Report(claims=claims(found, xen), notes=list(NOTES))
    report.tables += [transfers(found), overhead(found), on_xen(xen)]
    report.charts.append(
        Chart(
            "Pages to and from disks",
            "pages",
            [case.title for case in CASES.values()],
            [(kind, [Figure(one.transfers[kind]) for one in found.values()]) for kind in KINDS],
        )
    )
    report.traces.append(Trace("Two pagers: the beginning", found["random"].steps))
    return report


NOTES: Final = (
    f"The machine has {FRAMES} frames for the guest's pool in every case; the program touches 96 pages, 400 times at random.",
    "The guest's pager is the kernel's own, with its disk; the hypervisor's takes P2M entries away and has a swap of its own.",
    "Double: the hypervisor reads a page from its swap only for the guest to write it to its disk.",
)


def page(case: Case) -> Paged:
    """Run it."""
    system = PagedGuest(case.believes, FRAMES, case.choice())
    image = system.image
    observer = Observer(system.monitor, image.at(f"{case.program}_from"), image.at(f"{case.program}_to"))
    observer.most_steps = SHOWN
    system.observe(observer)
    before: list[Counter[str]] = []
    after: list[Counter[str]] = []
    observer.begins = lambda: before.append(system.transfers.copy())
    observer.ends = lambda: after.append(system.transfers.copy())
    system.run([case.program])
    system.close()
    part = observer.part
    return Paged(
        after[0] - before[0], part.exits["nested fault"], before[0]["given back"], part.steps[:SHOWN]
    )


def balloon_on_xen() -> tuple[int, int, int]:
    """The domain's pages before and after the balloon took BALLOON of them, and the hypercalls for that."""
    system = Xen()
    image = system.image
    observer = Observer(system.monitor, image.at("balloon_from"), image.at("balloon_to"))
    system.observe(observer)
    seen: list[int] = []
    observer.begins = observer.ends = lambda: seen.append(system.domain.mem.tot_pages)
    system.run(["balloon"])
    system.close()
    return seen[0], seen[1], observer.part.exits["hypercall"]


def on_xen(seen: tuple[int, int, int]) -> Table:
    """Where the balloon is a hypercall."""
    columns = ("pages before", "pages after", "hypercalls")
    return Table(
        f"On Xen: {BALLOON} pages given back", columns, [("the domain", [Figure(one) for one in seen])]
    )


def transfers(found: dict[str, Paged]) -> Table:
    """Who moved how many pages."""
    rows: list[tuple[str, list[Cell]]] = [
        (
            CASES[name].title,
            [
                *(Figure(one.transfers[kind]) for kind in KINDS),
                Figure(one.total),
                Figure(one.transfers["double"]),
                Figure(one.faults),
            ],
        )
        for name, one in found.items()
    ]
    return Table("Pages to and from disks", (*KINDS, "all", "of them double", "nested faults"), rows)


def overhead(found: dict[str, Paged]) -> Table:
    """Against a machine that is as small."""
    small = found["small"].total
    rows: list[tuple[str, list[Cell]]] = [
        (CASES[name].title, [Figure(100 * (one.total - small) / small, unit="%"), *published(name)])
        for name, one in found.items()
        if name != "small"
    ]
    columns = ("more transfers", "published: more time, at least", "at most")
    return Table("More than on a machine as small from the beginning", columns, rows)


def published(name: str) -> list[Cell]:
    """What was published of balloons; nothing of the others."""
    return [Figure(value if name == "balloon" else None, Kind.PUBLISHED, "%", PAPER) for value in PUBLISHED]


def claims(found: dict[str, Paged], xen: tuple[int, int, int]) -> list[Claim]:
    """What must be seen."""
    balloon, small, two = found["balloon"], found["small"], (found["random"], found["first"])
    return [
        Claim("two pagers page doubly", all(one.transfers["double"] > 0 for one in two)),
        Claim("with a balloon none does", balloon.transfers["double"] == 0),
        Claim(
            "with a balloon the hypervisor moves no page",
            not balloon.transfers["hypervisor in"] + balloon.transfers["hypervisor out"],
        ),
        Claim("the balloon gave back its pages", balloon.given_back == BALLOON),
        Claim(
            "a guest with a balloon moves as many pages as one that is as small", balloon.total == small.total
        ),
        Claim("on Xen the balloon's pages are Xen's again", xen[0] - xen[1] == BALLOON),
        Claim("two pagers move more", all(one.total > small.total for one in two)),
    ]


EXPERIMENT: Final = Experiment(
    "double-paging",
    "Two pagers fight over the same pages; a balloon lets the guest's do it alone, as on a smaller machine.",
    "Waldspurger, OSDI 2002",
    run,
)
