"""What a TLB without tags costs: at each switch between processes, and if a hypercall were a switch, too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from domains.lab.compare import SYSTEMS, Measured
from domains.lab.costs import Costs
from domains.lab.cpu_log import What, cpu_log, log_part
from domains.lab.model import cycles
from domains.lab.page_sequence import ENTRIES, Event, Happening, Tlb, page_sequence
from domains.lab.report import Cell, Chart, Claim, Experiment, Figure, Kind, Report, Table, Trace
from domains.lab.systems.ring0 import Ring0
from domains.lab.trace import Observer

SETS: Final = {"small": 4, "large": 48}
"""Pages that each process writes between two switches (programs.S)."""
SWITCHES: Final = 32
HYPERCALLS: Final = 16
PAPER: Final = "recalled: Barham et al., SOSP 2003, table 4"
PUBLISHED: Final = {"small": (0.77, 1.97), "large": (37.6, 39.4)}
"""Native and Xen, µs: two processes of 0 KiB, sixteen of 64 KiB."""
SHOWN: Final = 200
"""Steps of a trace."""


class Counted(NamedTuple):
    """One system's run: what the emulated CPU's TLB missed, how often it was emptied, and the rest."""

    misses: int
    flushes: int
    measured: Measured


class Replayed(NamedTuple):
    """One sequence of pages through two TLBs."""

    touched: int
    untagged: Counter[str]
    tagged: Counter[str]


class EmptyAtHypercalls(Observer):
    """Has the TLB emptied at each hypercall, as where the hypervisor has an address space of its own."""

    empty: Callable[[], None]

    def exit(self, cause: str) -> None:
        """See Observer."""
        super().exit(cause)
        if cause == "hypercall":
            self.empty()


def run(costs: Costs) -> Report:
    """See EXPERIMENT."""
    switched = {(name, size): switches(name, size) for name in ("native", "xen") for size in SETS}
    replayed = {size: replay(size) for size in SETS}
    hole = {switches_space: hypercalls(switches_space=switches_space) for switches_space in (False, True)}
    cost = {key: modelled(one, costs) for key, one in switched.items()}
    report = Report(claims=claims(switched, replayed, hole, cost), notes=list(NOTES))
    report.tables += [by_switch(switched), by_kind(replayed), by_hypercall(hole), times(cost, costs)]
    report.charts.append(
        Chart(
            f"Misses in {SWITCHES} switches, replayed",
            "misses",
            [f"{pages} pages each" for pages in SETS.values()],
            [
                ("untagged", [Figure(one.untagged["misses"]) for one in replayed.values()]),
                ("tagged", [Figure(one.tagged["misses"]) for one in replayed.values()]),
            ],
        )
    )
    part = switched["native", "small"].measured.part
    report.traces.append(Trace("Bare hardware, 4 pages each: the beginning", part.steps[:SHOWN]))
    return report


NOTES: Final = (
    "Misses of a switch and of a hypercall are the emulated CPU's own, whose TLB has no tags, and room for all of it.",
    f"Tagged and untagged beside each other: the measured sequence of pages, replayed through TLBs of {ENTRIES} entries.",
    "A hypercall that switches: the emulated CPU's TLB is really emptied at each. Xen's own pages are not counted.",
    "Modelled: each miss costs tlb_miss, beside what cr3_load or the hypercall costs.",
)


# --- what is run --------------------------------------------------------------------------------------


def observed(name: str, observer_class: type[Observer], program: str, *others: str) -> Counted:
    """One program's part, with the emulated CPU's own account of its TLB."""
    cpu_log()
    system: Any = SYSTEMS[name][1]()
    observer = observer_class(
        system.monitor, system.image.at(f"{program}_from"), system.image.at(f"{program}_to")
    )
    if isinstance(observer, EmptyAtHypercalls):
        observer.empty = system.cpu.library.tlb_flush
    system.observe(observer)
    records = log_part(observer)
    result = system.run([program, *others])
    system.close()
    what = Counter(record.what for record in records)
    measured = Measured(name, SYSTEMS[name][0], observer.part, system.image, "", result)
    return Counted(what[What.FILL], what[What.LOAD_CR3], measured)


def switches(name: str, size: str) -> Counted:
    """SWITCHES between two processes."""
    return observed(name, Observer, f"switch_{size}", f"switch_{size}_partner")


def hypercalls(*, switches_space: bool) -> Counted:
    """HYPERCALLS on Xen, with 16 pages of the program's touched between two."""
    return observed("xen", EmptyAtHypercalls if switches_space else Observer, "hole")


def replay(size: str) -> Replayed:
    """The pages that bare hardware touches in SWITCHES."""
    cpu_log()
    system = Ring0("native")
    events: list[Event] = page_sequence(system, [f"switch_{size}", f"switch_{size}_partner"])
    system.close()
    pages = {(event.page, event.space) for event in events if event.kind is Happening.TOUCH}
    return Replayed(len(pages), Tlb(tagged=False).replay(events), Tlb(tagged=True).replay(events))


def modelled(one: Counted, costs: Costs) -> float:
    """Microseconds of one switch."""
    whole = cycles(one.measured, costs) + one.misses * costs.cycles("tlb_miss")
    return costs.microseconds(whole / SWITCHES)


# --- what is shown ------------------------------------------------------------------------------------

Switched = dict[tuple[str, str], Counted]
Cost = dict[tuple[str, str], float]


def loads(one: Counted) -> int:
    """How often CR3 was loaded: by an instruction, or by a hypercall, of which a switch has no other."""
    return one.flushes or one.measured.part.exits["hypercall"]


def by_switch(switched: Switched) -> Table:
    """The emulated CPU's own misses."""
    rows: list[tuple[str, list[Cell]]] = [
        (
            f"{SYSTEMS[name][0]}, {SETS[size]} pages each",
            [Figure(loads(one)), Figure(one.misses), Figure(one.misses / SWITCHES)],
        )
        for (name, size), one in switched.items()
    ]
    return Table("Two processes that yield", ("loads of CR3", "TLB misses", "misses a switch"), rows)


def by_kind(replayed: dict[str, Replayed]) -> Table:
    """With tags and without."""
    rows: list[tuple[str, list[Cell]]] = [
        (
            f"{SETS[size]} pages each",
            [
                Figure(one.touched),
                Figure(one.untagged["flushes"]),
                Figure(one.untagged["misses"]),
                Figure(one.tagged["misses"]),
            ],
        )
        for size, one in replayed.items()
    ]
    columns = ("pages touched in all", "untagged: flushes", "untagged: misses", "tagged: misses")
    return Table(f"{SWITCHES} switches, replayed through a TLB of {ENTRIES} entries", columns, rows)


def by_hypercall(hole: dict[bool, Counted]) -> Table:
    """What Xen's place in every address space saves."""
    titles = {
        False: "Xen in the top of every address space",
        True: "Xen in an address space of its own",
    }
    rows: list[tuple[str, list[Cell]]] = [
        (
            titles[own],
            [
                Figure(one.measured.part.exits["hypercall"] if own else one.flushes),
                Figure(one.misses),
                Figure(one.misses / HYPERCALLS),
            ],
        )
        for own, one in hole.items()
    ]
    return Table(f"{HYPERCALLS} hypercalls", ("TLB emptied", "TLB misses", "misses a hypercall"), rows)


def times(cost: Cost, costs: Costs) -> Table:
    """Modelled, beside what was published."""
    rows: list[tuple[str, list[Cell]]] = []
    for size, (native, xen) in PUBLISHED.items():
        ours = [Figure(cost[name, size], Kind.MODELLED, "µs") for name in ("native", "xen")]
        ratio = Figure(cost["xen", size] / cost["native", size], Kind.MODELLED)
        rows.append((f"{SETS[size]} pages each", [*ours, ratio]))
        theirs = [Figure(value, Kind.PUBLISHED, "µs", PAPER) for value in (native, xen)]
        what = "2 processes of 0 KiB" if size == "small" else "16 processes of 64 KiB"
        rows.append((f"published: {what}", [*theirs, Figure(xen / native, Kind.PUBLISHED, "", PAPER)]))
    return Table(f"A switch on {costs.title}", ("bare hardware", "Xen", "ratio"), rows)


def claims(
    switched: Switched, replayed: dict[str, Replayed], hole: dict[bool, Counted], cost: Cost
) -> list[Claim]:
    """What must be seen."""
    small, large = switched["native", "small"], switched["native", "large"]
    more = (SETS["large"] - SETS["small"]) * SWITCHES
    ratio = {size: cost["xen", size] / cost["native", size] for size in SETS}
    return [
        Claim("without tags the TLB is emptied once a switch", small.flushes == large.flushes == SWITCHES),
        Claim(
            "each page more in the working set is one miss more a switch", large.misses - small.misses == more
        ),
        Claim(
            "with tags what fits into the TLB is missed once",
            replayed["small"].tagged["misses"] == replayed["small"].touched < ENTRIES,
        ),
        Claim(
            "with tags two working sets that do not fit miss nearly as often as without",
            replayed["large"].tagged["misses"] > 0.9 * replayed["large"].untagged["misses"],
        ),
        Claim("a hypercall costs no miss, for Xen is in every address space", hole[False].misses == 0),
        Claim(
            "if it switched address spaces, each would cost the guest's working set anew",
            hole[True].misses >= 16 * HYPERCALLS,
        ),
        Claim(
            "modelled: the larger the working set, the nearer Xen's switch is to bare hardware's",
            ratio["large"] < ratio["small"],
        ),
    ]


EXPERIMENT: Final = Experiment(
    "tlb",
    "A TLB without tags is emptied at each switch of address spaces, so Xen lives in every one of them.",
    "Barham et al., SOSP 2003, 2 and 3.1",
    run,
)
