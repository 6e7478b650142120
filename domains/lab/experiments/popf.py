"""POPF outside ring 0 loses the interrupt flag without a word: what the kernel then sees, and how each system gives it back."""

from __future__ import annotations

import re
from typing import Final

from domains.lab.by_cause import entries_by_cause
from domains.lab.compare import Measured, measure_all, measure_on
from domains.lab.costs import Costs
from domains.lab.report import Cell, Chart, Claim, Experiment, Figure, Report, Table, Trace
from domains.lab.systems.esx import Ring1

PROGRAM: Final = "interrupt_flag"
UNTRANSLATED: Final = ("popf", "popfd")
"""By the disassembler's names: POPF of 16 bits, and of 32."""
BARE: Final = "esx without"
LOOKED_AT: Final = {
    "CLI turns it off": 0,
    "STI turns it on": 1,
    "POPF turns it off": 2,
    "POPF turns it on": 10,
}
"""What the kernel looks at in its flag, and the bit that says that it is so (`look` in bare.c and xen.c)."""
BY_POPF: Final = ("POPF turns it off", "POPF turns it on")
OF_FLAG: Final = ("call-out pushfd", "call-out popfd", "trap cli", "trap sti")
"""The monitor's entries for the flag."""
MASK: Final = 1
"""Where vcpu_info has evtchn_upcall_mask."""
NOTES: Final = (
    "Xen's kernel has no POPF: its flag is a byte of the page that it shares with Xen, and a plain store turns it.",
    "ESX, POPF left: the same monitor, told to leave POPF to the CPU. In ring 1 the CPU keeps IF as it is; no exception tells.",
)


def run(_costs: Costs) -> Report:
    """See EXPERIMENT."""
    runs = measure_all(PROGRAM)
    runs.insert(4, without())
    report = Report(notes=list(NOTES), claims=claims({one.system: one for one in runs}))
    report.tables += [
        flag(runs),
        counts(runs),
        entries_by_cause("Entries into the hypervisor or monitor, by cause", runs),
    ]
    report.charts.append(
        Chart(
            "Entries for the interrupt flag",
            "entries",
            [one.title for one in runs],
            [("entries", [Figure(sum(one.part.exits[cause] for cause in OF_FLAG)) for one in runs])],
        )
    )
    report.traces += [Trace(one.title, one.part.steps) for one in runs]
    return report


def without() -> Measured:
    """The kernel in ring 1 under a monitor that leaves POPF to the CPU."""
    run = measure_on(Ring1(untranslated=UNTRANSLATED), "ESX, POPF left", PROGRAM)
    return run._replace(system=BARE)


def sees(one: Measured, what: str) -> bool:
    """Whether the kernel saw its flag do this (LOOKED_AT)."""
    return one.result >> LOOKED_AT[what] & 1 == 1


def flag(runs: list[Measured]) -> Table:
    """What the kernel saw."""
    rows: list[tuple[str, list[Cell]]] = [
        (what, ["yes" if sees(one, what) else "LOST" for one in runs]) for what in LOOKED_AT
    ]
    return Table("What the kernel sees of its interrupt flag", [one.title for one in runs], rows)


def counts(runs: list[Measured]) -> Table:
    """How it is done."""
    return Table(
        "How the flag is turned",
        [one.title for one in runs],
        [
            ("POPF in the kernel", [Figure(popfs(one)) for one in runs]),
            ("of these, done by the monitor", [Figure(one.part.exits["call-out popfd"]) for one in runs]),
            ("exceptions of POPF", [Figure(one.part.exits["guest's own #GP"]) for one in runs]),
            ("stores to the shared mask", [Figure(stores_to_mask(one)) for one in runs]),
            ("hypercalls", [Figure(one.part.exits["hypercall"]) for one in runs]),
        ],
    )


def popfs(one: Measured) -> int:
    """How often the kernel came to a POPF."""
    return sum(step.ring >= 0 and step.text.startswith("popf") for step in one.part.steps)


def stores_to_mask(one: Measured) -> int:
    """How often Xen's kernel stored to its upcall mask."""
    if one.system != "xen":
        return 0
    store = re.compile(rf"mov\w* .*, {one.image.at('shared_page') + MASK:#x}$")
    return sum(step.ring >= 0 and store.match(step.text) is not None for step in one.part.steps)


def claims(runs: dict[str, Measured]) -> list[Claim]:
    """What must be seen."""
    bare = runs[BARE]
    cured = [one for name, one in runs.items() if name != BARE]
    hardware = [runs[name] for name in ("native", "nested", "vtx")]
    return [
        Claim(
            "every system shows the kernel its flag",
            all(sees(one, what) for one in cured for what in LOOKED_AT),
        ),
        Claim("without the call-out POPF loses the flag", not any(sees(bare, what) for what in BY_POPF)),
        Claim("… and nothing tells of it: no entry of POPF's", popfs(bare) > 0 and not _told(bare)),
        Claim(
            "CLI and STI trap, and are not lost",
            all(sees(bare, what) for what in LOOKED_AT if what not in BY_POPF),
        ),
        Claim(
            "ESX: a call-out for each POPF",
            popfs(runs["esx"]) == runs["esx"].part.exits["call-out popfd"] > 0,
        ),
        Claim("hardware: POPF by the CPU alone", all(popfs(one) > 0 and not _told(one) for one in hardware)),
        Claim(
            "Xen: no POPF, a store to shared memory, no entry",
            popfs(runs["xen"]) == 0 < stores_to_mask(runs["xen"]) and runs["xen"].part.nr_exits == 0,
        ),
    ]


def _told(one: Measured) -> bool:
    return any("popf" in cause or "#GP" in cause for cause in one.part.exits)


EXPERIMENT: Final = Experiment(
    "popf",
    "POPF in ring 1 loses the interrupt flag silently: a translator, a word in shared memory, or hardware gives it back.",
    "Robin, Irvine, USENIX Security 2000; Barham et al., SOSP 2003",
    run,
)
