"""The instructions that Robin and Irvine found: each tried in rings 0, 1 and 3, and what each system does about it."""

from __future__ import annotations

from typing import Final

from domains.cpu.x86.registers import EXC_NAMES
from domains.cpu.x86.ring1.sensitive import SENSITIVE
from domains.lab.costs import Costs
from domains.lab.probes import Outcome, Trials, probe_image, try_probes
from domains.lab.report import Cell, Chart, Claim, Experiment, Figure, Report, Table, Trace
from domains.lab.systems.esx import Ring1
from domains.lab.systems.ring0 import Ring0
from domains.lab.trace import Step

RINGS: Final = (0, 1, 3)
HARDWARE: Final = ("nested", "vtx")
PROBES: Final = {
    "sgdt": "SGDT",
    "sidt": "SIDT",
    "sldt": "SLDT",
    "smsw": "SMSW",
    "pushf": "PUSHF",
    "popf": "POPF: IF changes",
    "lar": "LAR of its own code",
    "lar_0": "LAR of ring 0's",
    "lsl": "LSL of its own code",
    "lsl_0": "LSL of ring 0's",
    "verr": "VERR of its own data",
    "verr_0": "VERR of ring 0's",
    "verw": "VERW of its own data",
    "verw_0": "VERW of ring 0's",
    "pop": "POP to ES, its own",
    "pop_0": "POP to ES, ring 0's",
    "push": "PUSH CS",
    "call": "CALL far: CS pushed",
    "call_0": "CALL far, ring 0's",
    "jmp": "JMP far",
    "jmp_0": "JMP far, ring 0's",
    "int": "INT n: CS pushed",
    "int_0": "INT n, ring 0's gate",
    "ret": "RET far to selector 8",
    "ret_0": "RET far, ring 0's",
    "str": "STR",
    "mov": "MOV from CS",
    "mov_to_es": "MOV to ES, its own",
    "mov_to_ss": "MOV to SS, selector 0x10",
    "iret": "IRET: IF changes (not on their list)",
}
"""What the rows are called. *Its own*: the kernel's segments, which a monitor gives the DPL of the kernel's new ring."""
ON_XEN: Final = {
    "tables": "registered its tables",
    "flag": "a word in memory",
    "rings": "knows its ring",
    "own": "selectors of ring 1",
    "gate": "registered its gates",
    "nothing": "does not ask",
}
KIND: Final = {
    **dict.fromkeys(("sgdt", "sidt", "sldt", "str"), "tables"),
    **dict.fromkeys(("pushf", "popf", "iret"), "flag"),
    **dict.fromkeys(("push", "call", "mov"), "rings"),
    **dict.fromkeys(("int", "int_0"), "gate"),
    **dict.fromkeys(
        ("pop", "pop_0", "jmp", "jmp_0", "call_0", "ret", "ret_0", "mov_to_es", "mov_to_ss"), "own"
    ),
}
TRAP_IN_RING_1: Final = {"pop_0", "call_0", "jmp_0", "int_0", "ret", "ret_0", "mov_to_ss"}
"""Those that name a segment or a gate of ring 0, or would load SS or CS with a selector of ring 0."""
LEAKY: Final = ("sgdt", "sidt", "smsw", "str", "pushf")
POPF: Final = ["0x200", "0x0", "0x0"]
"""Whether IF changes, in each ring."""
LEFT: Final = [*(SENSITIVE.keys() - {"iret", "iretd", "rdtsc", "cpuid"}), "push", "mov"]
"""What the translator leaves alone in the run without: all but IRET, by which the kernel under test gets to ring 3."""
TRAPS, LIES, LEAKS, SAME = "traps", "lies", "leaks", "as ring 0"
NOTES: Final = (
    "traps: the CPU refuses it. lies: no exception, and another answer than in ring 0. leaks: no exception, and the answer is",
    "that of the true machine: on the bare CPU the same as in ring 0, under a monitor the monitor's.",
    "SLDT leaks nothing here, for our monitor loads LDTR with the kernel's own selector.",
    "LAR and LSL look into the monitor's copy of the GDT, which has a descriptor once it was loaded.",
)
PAGING: Final = {"hidden fault"}
"""What shadow tables cost, whatever the instruction is."""
Runs = dict[str, Trials]
"""By system; "left": under a monitor that leaves all of them to the CPU."""


def run(_costs: Costs) -> Report:
    """See EXPERIMENT."""
    runs = try_all()
    report = Report(notes=list(NOTES), claims=claims(runs))
    report.tables += [by_ring(runs), by_system(runs), counts(runs)]
    kinds = (TRAPS, LIES, LEAKS, SAME)
    series = [(f"ring {ring}", [Figure(count(runs, kind, ring)) for kind in kinds]) for ring in RINGS[1:]]
    report.traces += [
        Trace("In ring 1 of the bare CPU", steps_of(runs["native"], 1)),
        Trace("On ESX, in what the kernel takes for ring 0", steps_of(runs["esx"], 0)),
    ]
    report.charts.append(Chart("What becomes of them", "instructions", kinds, series))
    return report


def try_all() -> Runs:
    """Every system. A kernel that believes itself in ring 0 is in ring 1 under the monitor."""
    image = probe_image()
    return {
        "native": try_probes(Ring0("native", image), RINGS),
        "nested": try_probes(Ring0("nested", image), (0,)),
        "vtx": try_probes(Ring0("vtx", image), (0,)),
        "esx": try_probes(Ring1(image), (0,)),
        "left": try_probes(Ring1(image, untranslated=LEFT), (0,)),
    }


def steps_of(trials: Trials, ring: int) -> list[Step]:
    """All that was done in this ring, one instruction of the list after the other."""
    return [step for name in PROBES for step in trials[name, ring].steps]


def verdict(runs: Runs, name: str, ring: int) -> str:
    """What an instruction does outside ring 0."""
    alone, there = runs["native"][name, 0], runs["native"][name, ring]
    if there.trapped:
        return TRAPS
    if there.value != alone.value:
        return LIES
    left = runs["left"][name, 0]
    return LEAKS if name != "iret" and not left.trapped and left.value != alone.value else SAME


def count(runs: Runs, kind: str, ring: int) -> int:
    """How many do that."""
    return sum(verdict(runs, name, ring) == kind for name in PROBES)


def answer(outcome: Outcome) -> str:
    """In words."""
    if outcome.trapped:
        return EXC_NAMES[outcome.vector] + (f"({outcome.error:#x})" if outcome.error else "")
    return hex(outcome.value)


def by_ring(runs: Runs) -> Table:
    """Each of them, in each ring."""
    rows: list[tuple[str, list[Cell]]] = []
    for name, title in PROBES.items():
        tried: list[Cell] = [answer(runs["native"][name, ring]) for ring in RINGS]
        rows.append((title, [*tried, *(verdict(runs, name, ring) for ring in RINGS[1:])]))
    columns = [f"ring {ring}" for ring in RINGS] + [f"in ring {ring} it" for ring in RINGS[1:]]
    return Table("Tried on the bare CPU", columns, rows)


def by_system(runs: Runs) -> Table:
    """What each system does about them, for a kernel that believes itself in ring 0."""
    rows: list[tuple[str, list[Cell]]] = []
    for name, title in PROBES.items():
        left = "–" if name == "iret" else answer(runs["left"][name, 0])
        hardware = runs["nested"][name, 0].entries.total()
        entries = ", ".join(f"{cause}" for cause in runs["esx"][name, 0].entries)
        cells: list[Cell] = [
            answer(runs["native"][name, 0]),
            left,
            answer(runs["esx"][name, 0]),
            entries or "–",
        ]
        rows.append((title, [*cells, Figure(hardware), ON_XEN[KIND.get(name, "nothing")]]))
    columns = ("alone", "ring 1, left to the CPU", "ESX", "by", "exits, nested", "Xen's kernel")
    return Table("What the kernel sees", columns, rows)


def counts(runs: Runs) -> Table:
    """How many do what."""
    rows = [
        (kind, [Figure(count(runs, kind, ring)) for ring in RINGS[1:]]) for kind in (TRAPS, LIES, LEAKS, SAME)
    ]
    return Table("How many", [f"ring {ring}" for ring in RINGS[1:]], rows)


def claims(runs: Runs) -> list[Claim]:
    """What must be seen."""
    native = runs["native"]
    popf = [native["popf", ring] for ring in RINGS]
    trapped = {name for name in PROBES if native[name, 1].trapped}
    told = all(native[name, ring].value & 3 == ring for name in ("push", "mov") for ring in RINGS)
    entered = {cause for system in HARDWARE for name in PROBES for cause in runs[system][name, 0].entries}
    return [
        Claim("POPF outside ring 0: no exception, and IF stays", [answer(one) for one in popf] == POPF),
        Claim("PUSH CS and MOV from CS tell the ring", told),
        Claim("in ring 1 only loads and gates trap that name ring 0", trapped == TRAP_IN_RING_1),
        Claim(
            "SGDT, SIDT, SMSW, STR and PUSHF tell the monitor's registers",
            all(verdict(runs, name, 1) == LEAKS for name in LEAKY),
        ),
        Claim("ESX: a kernel in ring 1 sees what it sees alone", as_alone(runs, "esx")),
        Claim(
            "hardware: likewise, without an exit",
            all(as_alone(runs, system) for system in HARDWARE) and entered <= PAGING,
        ),
        Claim("left to the CPU, the same kernel sees another machine", not as_alone(runs, "left")),
    ]


def as_alone(runs: Runs, system: str) -> bool:
    """Whether each of them, in what the kernel takes for ring 0, ends as on the bare CPU."""
    return all(answer(runs[system][name, 0]) == answer(runs["native"][name, 0]) for name in PROBES)


EXPERIMENT: Final = Experiment(
    "sensitive-instructions",
    "Of x86's sensitive instructions most do not trap outside ring 0: they leak the monitor's state, or lie.",
    "Robin, Irvine, USENIX Security 2000",
    run,
)
