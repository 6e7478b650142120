"""How an address becomes one of the machine's: the entries that the CPU reads for it, and who has to keep which tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from domains.cpu.x86.hvm.shadow_paging import ShadowPaging
from domains.lab.compare import SYSTEMS
from domains.lab.costs import Costs
from domains.lab.cpu_log import cpu_log, log_part, walks
from domains.lab.image import BASE, kernel_image
from domains.lab.report import Cell, Chart, Claim, Experiment, Figure, Kind, Report, Table, Trace
from domains.lab.systems.ring0 import Ring0
from domains.lab.systems.scatter import GUEST_PAGES
from domains.lab.systems.unported import P2M_TOP
from domains.lab.systems.xen import Xen
from domains.lab.table_walk import Reference, TableWalk
from domains.lab.trace import Observer, Step
from hypervisor.machine.paging import pte_mfn
from hypervisor.public.types import PAGE_SHIFT, Mfn

TOUCHED: Final = 0x40010000
"""By the program page_fault of the kernel under test."""
STORED: Final = 1
LONG_STORED: Final = 0x600D
"""What the program, and long.S, stores there."""
LEVELS: Final = {"native": 3, "nested": 3, "xen": 4}
"""Of the tables that the CPU walks, where they are the guest's: below an L4 of Xen's on Xen."""
BELOW: Final = {"nested": P2M_TOP << PAGE_SHIFT}
"""The P2M that the CPU walks."""
M2P: Final = 0xF5800000
M2P_ENTRY: Final = 4
PUBLISHED: Final = "quoted: four levels over four, as in Bhargava et al., ASPLOS 2008"
PARTS_OF_WALK: Final = ("L4 table", "L3 table", "L2 table", "L1 table", "page")


class Walked(NamedTuple):
    """The last TLB miss at an address on one system: what the emulated CPU read, and what a walker of ours reads for the same.

    `by_walker`: None where the tables are not in the machine's memory. `stored`: what lies where the walk ends.
    """

    title: str
    by_cpu: list[int]
    by_walker: list[Reference] | None = None
    stored: int = 0


class Names(NamedTuple):
    """A page's names on Xen: in the guest's entry, by the M2P as the guest reads it, by its own list, by the core's M2P."""

    in_entry: int
    by_m2p: int
    by_list: int
    in_core: int


def run(_costs: Costs) -> Report:
    """See EXPERIMENT."""
    long = {name: long_walk(name) for name in ("native", "nested")}
    walked: dict[str, Walked] = {}
    m2p = Names(0, 0, 0, 0)
    for name in SYSTEMS:
        walked[name], page = pae_walk(name)
        m2p = page or m2p
    shadows = {name: {count: kept(name, count) for count in (1, 3)} for name in ("vtx", "esx")}
    nested = long["nested"].by_walker or []
    report = Report(claims=claims(long, walked, shadows, m2p), notes=list(NOTES))
    report.tables += [references(long, walked), picture(nested), memory(shadows), names(m2p)]
    report.charts.append(
        Chart(
            "Entries read for one TLB miss",
            "references",
            [one.title for one in (*long.values(), *walked.values())],
            [("references", [Figure(len(one.by_cpu)) for one in (*long.values(), *walked.values())])],
        )
    )
    report.traces += [Trace(one.title, steps(one.by_walker or [])) for one in long.values()]
    return report


NOTES: Final = (
    "References are the emulated CPU's own, noted as it makes them; a walker of ours reads the same entries in the same order.",
    "It has no caches for walks. Others keep upper entries; Intel's read PAE's top entries when CR3 is loaded.",
    "Xen and the monitor in ring 1 run the kernel below an L4 of their own, for the CPU is in long mode: one more than in 2003.",
)


Looked = tuple[list[Reference] | None, int]
"""What a walker of ours read, and the word at the end."""


# --- what is run --------------------------------------------------------------------------------------


def long_walk(name: str) -> Walked:
    """The kernel in long mode, on "native" or "nested"."""
    cpu_log()
    system = Ring0(name, kernel_image("long"))
    at = system.image.at("touched") - BASE
    va = int.from_bytes(system.image.data[at : at + 8], "little")
    by_cpu, found = observed(
        system, "page_touched", [], lambda: walker_of(system, system.v.paging.control(3), 4, va), va
    )
    system.close()
    return Walked(f"{SYSTEMS[name][0]}, 64 bits", by_cpu, *found)


def pae_walk(name: str) -> tuple[Walked, Names | None]:
    """The kernel under test; and on Xen, the names of the page that was touched."""
    title, make = SYSTEMS[name]
    cpu_log()
    system: Any = make()

    def look() -> Looked:
        if name not in LEVELS:
            return None, 0
        paging = system.v.paging
        root = paging.root << PAGE_SHIFT if name == "xen" else paging.control(3)
        return walker_of(system, root, LEVELS[name], TOUCHED)

    by_cpu, found = observed(system, "page_fault", ["page_fault"], look, TOUCHED)
    walked = Walked(title, by_cpu, *found)
    page = through_m2p(system, walked) if isinstance(system, Xen) else None
    system.close()
    return walked, page


def observed(
    system: Any, mark: str, programs: Sequence[str], look: Callable[[], Looked], va: int
) -> tuple[list[int], Looked]:
    """Run; what the CPU read for its last miss at `va`, and what `look` sees at the end of the marked part."""
    observer = Observer(system.monitor, system.image.at(f"{mark}_from"), system.image.at(f"{mark}_to"))
    system.observe(observer)
    records, seen = log_part(observer), list[Looked]()
    stop = observer.ends

    def end() -> None:
        stop()
        seen.append(look())

    observer.ends = end
    system.run(programs)
    return [reads for address, reads in walks(records) if address == va][-1], seen[0]


def walker_of(system: Any, root: int, levels: int, va: int) -> Looked:
    """The walk of `va` by ours, and the word at its end."""
    memory = system.v.gate.memory
    walk = TableWalk(memory, BELOW.get(system.name))
    at = walk.machine_address(root, levels, va)
    return walk.references, int.from_bytes(memory.read(at, 4), "little") if at is not None else 0


def kept(name: str, processes: int) -> tuple[int, int, int]:
    """With so many processes alive: address spaces that have shadows, frames of shadow tables, pages that the PMAP knows."""
    system: Any = SYSTEMS[name][1]()
    observer = Observer("", system.image.at("context_switch_from"), system.image.at("context_switch_to"))
    system.observe(observer)
    seen: list[tuple[int, int, int]] = []

    def look() -> None:
        paging: ShadowPaging = system.v.paging
        seen.append((*paging.kept, sum(int(bool(paging.pmap.entry(gfn))) for gfn in range(GUEST_PAGES))))

    observer.ends = look
    system.run(["context_switch", *["partner"] * (processes - 1)])
    system.close()
    return seen[0]


def through_m2p(system: Xen, walked: Walked) -> Names:
    """Of the page that was touched."""
    assert walked.by_walker is not None
    mfn = pte_mfn(walked.by_walker[-1].entry)
    pfn = int.from_bytes(system.v.paging.read(M2P + M2P_ENTRY * mfn, M2P_ENTRY), "little")
    return Names(mfn, pfn, int(system.p2m[pfn]), system.xen.hv.mmu.m2p.get(Mfn(mfn)))


# --- what is shown ------------------------------------------------------------------------------------


def references(long: dict[str, Walked], walked: dict[str, Walked]) -> Table:
    """How many entries one TLB miss reads."""
    published = {"native": 4, "nested": 24}
    rows: list[tuple[str, list[Cell]]] = []
    for name, one in [*long.items(), *walked.items()]:
        ours = len(one.by_walker) if one.by_walker is not None else None
        theirs = published.get(name) if one is long.get(name) else None
        rows.append(
            (
                one.title,
                [Figure(len(one.by_cpu)), Figure(ours), Figure(theirs, Kind.PUBLISHED, source=PUBLISHED)],
            )
        )
    return Table("Entries read for one TLB miss", ("by the CPU", "by our walker", "published"), rows)


def picture(nested: list[Reference]) -> Table:
    """The two dimensions of a walk: which step reads which entry."""
    columns = ("P2M L4", "P2M L3", "P2M L2", "P2M L1", "guest's own")
    at = {(one.of, one.table, one.level): number for number, one in enumerate(nested, 1)}
    rows: list[tuple[str, list[Cell]]] = []
    for of in PARTS_OF_WALK:
        below: list[Cell] = [Figure(at.get((of, "P2M", level))) for level in range(4, 0, -1)]
        own = next(
            (number for (what, table, _), number in at.items() if (what, table) == (of, "guest")), None
        )
        rows.append((f"the guest's {of}", [*below, Figure(own)]))
    return Table("The walk with nested tables, 64 bits: the steps in their order", columns, rows)


def memory(shadows: dict[str, dict[int, tuple[int, int, int]]]) -> Table:
    """What shadow tables take beside the guest's own."""
    rows: list[tuple[str, list[Cell]]] = []
    for name, by_count in shadows.items():
        for count, seen in by_count.items():
            title = f"{SYSTEMS[name][0]}, {count} process{'es' if count > 1 else ''}"
            rows.append((title, [Figure(number) for number in seen]))
    columns = ("address spaces with shadows", "frames of shadow tables", "pages in the PMAP")
    return Table("Shadows are per application, the PMAP per guest", columns, rows)


def names(page: Names) -> Table:
    """What direct paging needs instead."""
    return Table(
        "Xen: the guest's entry holds the machine's frame, and the M2P turns it back",
        ("frame or page",),
        [
            ("the frame in the guest's entry", (Figure(page.in_entry),)),
            ("the guest's page, as the guest reads the M2P", (Figure(page.by_m2p),)),
            ("that page's frame, by the guest's own list", (Figure(page.by_list),)),
        ],
    )


def steps(walk: list[Reference]) -> list[Step]:
    """A walk for a trace."""
    return [
        Step(
            "CPU",
            -1,
            f"{one.table} L{one.level}",
            f"for the guest's {one.of}: {one.at:#x} holds {one.entry:#x}",
            0,
        )
        for one in walk
    ]


# --- what must be seen --------------------------------------------------------------------------------


def claims(
    long: dict[str, Walked],
    walked: dict[str, Walked],
    shadows: dict[str, dict[int, tuple[int, int, int]]],
    page: Names,
) -> list[Claim]:
    """See EXPERIMENT."""
    both = [one for one in (*long.values(), *walked.values()) if one.by_walker is not None]
    same = all([step.at for step in one.by_walker or []] == one.by_cpu for one in both)
    found = all(one.stored == LONG_STORED for one in long.values()) and all(
        walked[name].stored == STORED for name in LEVELS
    )
    by_space = [by[3][0] - by[1][0] for by in shadows.values()]
    counts = {name: len(one.by_cpu) for name, one in walked.items()}
    return [
        Claim("a miss reads 4 entries on bare hardware, 64 bits", len(long["native"].by_cpu) == 4),
        Claim("and 24 under nested tables", len(long["nested"].by_cpu) == 24),
        Claim("with PAE 3, and 19", (counts["native"], counts["nested"]) == (3, 19)),
        Claim("under shadow tables as many as on bare hardware", counts["vtx"] == counts["native"]),
        Claim(
            "Xen's guest needs no more than the monitor's: nothing is below its tables",
            counts["xen"] == counts["esx"],
        ),
        Claim("our walker reads what the CPU reads, in the same order", same),
        Claim("its walks end where the program's store is", found),
        Claim("each process more has shadows of its own", by_space == [2, 2]),
        Claim("the PMAP stays as it is", all(by[1][2] == by[3][2] for by in shadows.values())),
        Claim(
            "on Xen the M2P gives back the page whose frame the entry holds",
            page.by_list == page.in_entry and page.by_m2p == page.in_core,
        ),
    ]


EXPERIMENT: Final = Experiment(
    "translation",
    "A TLB miss costs 4 references on bare hardware, 24 under nested tables, and no more than 4 under shadow or direct paging.",
    "the literature on nested paging; Barham et al., SOSP 2003, 3.2.2",
    run,
)
