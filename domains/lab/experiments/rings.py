"""Who may touch what, tried from each ring: x86-32's ring 1 beside ring 0, and x86-64's two halves of a guest, both in ring 3."""

from __future__ import annotations

from typing import Final

from domains.cpu.x86.registers import EXC_NAMES, EXC_PF
from domains.lab.compare import Measured, measure
from domains.lab.costs import Costs
from domains.lab.image import Image, kernel_image
from domains.lab.probes import Outcome, Trials, probe_image, try_probes
from domains.lab.report import Cell, Chart, Claim, Experiment, Figure, Report, Table, Trace
from domains.lab.systems.ring0 import Ring0
from domains.lab.systems.xen import Xen

RINGS: Final = (0, 1, 3)
TOUCHED: Final = {
    "read_supervisor": "a supervisor page: read",
    "write_supervisor": "a supervisor page: write",
    "read_user": "a user page: read",
    "write_user": "a user page: write",
    "read_read_only": "a read-only page: read",
    "write_read_only": "a read-only page: write",
    "load_segment_0": "a segment of DPL 0",
    "load_segment_1": "a segment of DPL 1",
    "load_segment_3": "a segment of DPL 3",
    "read_cr3": "CR3",
    "cli": "CLI",
    "in": "an I/O port",
}
"""On x86-32, with IOPL 0 and CR0.WP."""
WAYS_IN: Final = {"into_ring_0": "INT into ring 0", "into_ring_1": "INT into ring 1"}
KERNEL, USER = 0, 3
"""The halves of a 64-bit guest, as xen64.c numbers them."""
TOUCHED_IN_64: Final = {
    "read_kernel": "a page of the kernel's: read",
    "write_kernel": "a page of the kernel's: write",
    "read_user": "a page of the user's: read",
    "write_user": "a page of the user's: write",
    "read_read_only": "a read-only page: read",
    "write_read_only": "a read-only page: write",
    "read_table": "a page table: read",
    "write_table": "a page table: write",
    "read_m2p": "Xen's M2P: read",
    "write_m2p": "Xen's M2P: write",
    "read_xen": "Xen's code: read",
    "load_segment_0": "a segment of DPL 0",
    "read_cr3": "CR3",
    "cli": "CLI",
    "lgdt": "LGDT",
    "in": "an I/O port",
}
KERNEL_S_ALONE: Final = {"read_kernel", "write_kernel", "read_table", "read_cr3"}
"""What the kernel's half may, and the user's not."""
KERNEL_STACK: Final = 4096
FRAME: Final = {"inner": 20, "same": 12}
"""Bytes that the CPU pushes: with SS and ESP, and without."""
NOTES: Final = (
    "A cell says what came of it: done, or the exception. In a page fault's code 1 is: present, 2: a write, 4: from user space.",
    "To the CPU's paging ring 1 is as good as ring 0. Segment limits kept Xen's memory from it; long mode has none.",
)


def run(_costs: Costs) -> Report:
    """See EXPERIMENT."""
    native, halves = try_all()
    call = measure("xen", "null_call")
    report = Report(notes=list(NOTES), claims=claims(native, halves, call))
    report.tables += [
        matrix("x86-32, the bare CPU", native, TOUCHED, {f"ring {ring}": ring for ring in RINGS}),
        stacks(native),
        matrix("x86-64 on Xen, both in ring 3", halves, TOUCHED_IN_64, {"kernel": KERNEL, "user": USER}),
        calls(halves, call),
    ]
    report.traces += [
        Trace("A system call on Xen, 32 bits", call.part.steps),
        Trace("A system call on Xen, 64 bits", halves["system_call", USER].steps),
    ]
    allowed = [Figure(sum(not native[name, ring].trapped for name in TOUCHED)) for ring in RINGS]
    report.charts.append(
        Chart(
            f"What is allowed, of {len(TOUCHED)}",
            "tries",
            [f"ring {ring}" for ring in RINGS],
            [("allowed", allowed)],
        )
    )
    return report


def try_all(image: Image | None = None) -> tuple[Trials, Trials]:
    """x86-32's rings, by the kernel of probe.c or another; and the halves of a 64-bit guest."""
    native = try_probes(Ring0("native", image or probe_image()), RINGS)
    return native, try_probes(Xen(kernel_image("xen64")), (KERNEL, USER))


def answer(outcome: Outcome) -> str:
    """In words."""
    if not outcome.trapped:
        return "done"
    code = f"({outcome.error:#x})" if outcome.error or outcome.vector == EXC_PF else ""
    return EXC_NAMES[outcome.vector] + code


def matrix(title: str, trials: Trials, touched: dict[str, str], columns: dict[str, int]) -> Table:
    """What each may touch."""
    rows: list[tuple[str, list[Cell]]] = [
        (what, [answer(trials[name, where]) for where in columns.values()]) for name, what in touched.items()
    ]
    return Table(title, list(columns), rows)


def stacks(native: Trials) -> Table:
    """On which stack a handler begins."""
    rows: list[tuple[str, list[Cell]]] = [
        (what, [stack_of(name, native[name, ring]) for ring in RINGS]) for name, what in WAYS_IN.items()
    ]
    return Table("The handler's stack", [f"from ring {ring}" for ring in RINGS], rows)


def stack_of(name: str, outcome: Outcome) -> str:
    """Whose stack the handler found itself on."""
    if outcome.trapped:
        return answer(outcome)
    symbols = probe_image().symbols
    esp = outcome.second if name == "into_ring_0" else outcome.value
    tops = {
        symbols["kernel_stack"] + KERNEL_STACK - FRAME["inner"]: "ESP0 of the TSS",
        symbols["ring1_stack"] + KERNEL_STACK - FRAME["inner"]: "ESP1 of the TSS",
        symbols["user_stack_top"] - FRAME["same"]: "the same as before",
    }
    return tops.get(esp, hex(esp))


def calls(halves: Trials, call: Measured) -> Table:
    """What a system call costs, by where the kernel is."""
    there = halves["system_call", USER]
    rows: list[tuple[str, list[Cell]]] = [
        ("entries into Xen", [Figure(call.part.nr_exits), Figure(there.entries.total())]),
        ("page tables put in force", [Figure(len(tables_of(call)) - 1), Figure(there.switches)]),
        ("by", ["–", ", ".join(there.entries)]),
    ]
    return Table("A system call on Xen", ("32 bits, kernel in ring 1", "64 bits, kernel in ring 3"), rows)


def tables_of(call: Measured) -> set[int]:
    """The page tables that were in force."""
    return {step.cr3 for step in call.part.steps}


def claims(native: Trials, halves: Trials, call: Measured) -> list[Claim]:
    """What must be seen."""

    def may(name: str, ring: int) -> bool:
        return not native[name, ring].trapped

    pages = [name for name in TOUCHED if "_segment" not in name and name.startswith(("read_", "write_"))]
    pages.remove("read_cr3")
    own = {name for name in TOUCHED_IN_64 if halves[name, KERNEL].trapped < halves[name, USER].trapped}
    of_call = halves["system_call", USER].entries.total(), halves["system_call", USER].switches
    seen = [[stack_of(name, native[name, ring]) for ring in RINGS] for name in WAYS_IN]
    return [
        Claim("paging lets ring 1 do what ring 0 may", all(may(name, 0) == may(name, 1) for name in pages)),
        Claim(
            "… and keeps ring 3 from supervisor pages",
            not may("read_supervisor", 3) and not may("write_supervisor", 3),
        ),
        Claim(
            "a read-only page is so for every ring", not any(may("write_read_only", ring) for ring in RINGS)
        ),
        Claim(
            "a segment may be loaded by its DPL's ring and those within",
            all(may(f"load_segment_{dpl}", ring) == (ring <= dpl) for dpl in RINGS for ring in RINGS),
        ),
        Claim(
            "CR3, CLI and ports are ring 0's",
            all(may(name, ring) == (ring == 0) for name in ("read_cr3", "cli", "in") for ring in RINGS),
        ),
        Claim("each ring that is entered has its own stack", seen == STACKS),
        Claim(
            "x86-64: both halves run in ring 3",
            all(halves["ring", half].value == 3 for half in (KERNEL, USER)),
        ),
        Claim(
            "x86-64: the page table, and CR3 that Xen reads for the kernel, tell the halves apart",
            own == KERNEL_S_ALONE,
        ),
        Claim("x86-64: a system call is two entries, and the page table changes twice", of_call == (2, 2)),
        Claim("x86-32: it is none of either", call.part.nr_exits == 0 and len(tables_of(call)) == 1),
    ]


STACKS: Final = [
    ["the same as before", "ESP0 of the TSS", "ESP0 of the TSS"],
    ["#GP(0x50)", "the same as before", "ESP1 of the TSS"],
]
"""On which a handler is to begin; no gate leads outwards."""
EXPERIMENT: Final = Experiment(
    "rings",
    "On x86-32 ring 1 is a kernel's place of its own; on x86-64 kernel and user share ring 3, told apart by their page tables.",
    "Barham et al., SOSP 2003, 3.3; Xen's 64-bit ABI",
    run,
)
