"""What it takes to port the kernel under test to Xen: lines of source, and instructions."""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from domains.cpu.x86.decode import capstone_binding
from domains.lab.costs import Costs
from domains.lab.image import SOURCES, object_code
from domains.lab.report import Cell, Chart, Claim, Experiment, Figure, Kind, Report, Table

COMMON: Final = ("kernel.c", "fault.c")
BARE: Final = ("bare.c",)
XEN: Final = ("xen.c", "front.c")
COMMENTS: Final = re.compile(r"/\*.*?\*/", re.DOTALL)
PRIVILEGED: Final = ("lgdt", "lidt", "ltr", "invlpg", "cli", "sti", "hlt", "in", "out")
SENSITIVE: Final = ("pushf", "popf", "sgdt", "sidt", "sldt", "str", "smsw", "lar")
TABLE_2: Final = "recalled: Barham et al., SOSP 2003, table 2"


class Code(NamedTuple):
    """One file: its lines without comments and blank ones, and its instructions as text."""

    lines: int
    instructions: list[str]

    def of(self, names: tuple[str, ...]) -> int:
        """How many instructions have one of these names."""
        return sum(
            one.split()[0].rstrip("lbwd") in names or one.split()[0] in names for one in self.instructions
        )

    @property
    def privileged(self) -> int:
        """Instructions that only ring 0 may execute."""
        return self.of(PRIVILEGED) + sum("%cr" in one for one in self.instructions)


def run(_costs: Costs) -> Report:
    """See EXPERIMENT."""
    bare = {name: code("bare", name) for name in (*COMMON, *BARE)}
    xen = {name: code("xen", name) for name in (*COMMON, *XEN)}
    report = Report(tables=[files(bare, xen), published()])
    common = sum(bare[name].lines for name in COMMON)
    report.charts.append(
        Chart(
            "Lines of source",
            "lines",
            ["for all", "for bare hardware", "for Xen"],
            [("lines", [Figure(lines) for lines in (common, lines_of(bare, BARE), lines_of(xen, XEN))])],
        )
    )
    report.claims += claims(bare, xen)
    report.notes.append(
        "Changed instructions of the common files are those that load a segment: the selectors are Xen's."
    )
    return report


def code(port: str, name: str) -> Code:
    """One file, as it is compiled for this port."""
    text = COMMENTS.sub("", (SOURCES / name).read_text())
    disassembler: Any = capstone_binding.Cs(capstone_binding.CS_ARCH_X86, capstone_binding.CS_MODE_32)
    disassembler.syntax = capstone_binding.CS_OPT_SYNTAX_ATT
    found = [
        f"{one.mnemonic} {one.op_str}".strip() for one in disassembler.disasm(object_code(port, name), 0)
    ]
    return Code(sum(bool(line.strip()) for line in text.splitlines()), found)


def changed(bare: Code, xen: Code) -> int:
    """How many instructions of a common file are not the same in both."""
    return sum(one != other for one, other in zip(bare.instructions, xen.instructions, strict=True))


def lines_of(codes: dict[str, Code], names: tuple[str, ...]) -> int:
    """Of several files."""
    return sum(codes[name].lines for name in names)


def files(bare: dict[str, Code], xen: dict[str, Code]) -> Table:
    """A line a file."""
    columns = ("lines", "instructions", "of them changed", "privileged", "sensitive")
    rows: list[tuple[str, list[Cell]]] = []
    for name, one in (*bare.items(), *((name, xen[name]) for name in XEN)):
        what = "both" if name in COMMON else "bare hardware" if name in BARE else "Xen"
        difference = changed(one, xen[name]) if name in COMMON else None
        figures = (one.lines, len(one.instructions), difference, one.privileged, one.of(SENSITIVE))
        rows.append((f"{name}, for {what}", [Figure(value) for value in figures]))
    return Table("The kernel under test", columns, rows)


def published() -> Table:
    """The paper's."""
    rows = [
        (system, [Figure(value, Kind.PUBLISHED, unit, TABLE_2) for value, unit in ((lines, ""), (part, "%"))])
        for system, lines, part in (("Linux 2.4", 2995, 1.36), ("Windows XP, not finished", 4620, 0.04))
    ]
    return Table("Published: lines of a port to Xen", ("lines", "of all x86 code"), rows)


def claims(bare: dict[str, Code], xen: dict[str, Code]) -> list[Claim]:
    """What must be seen."""
    return [
        Claim(
            "in the files for both, nothing but loads of segments changes",
            all(changes_only_segments(bare[name], xen[name]) for name in COMMON),
        ),
        Claim(
            "the port has no privileged instruction",
            sum(xen[name].privileged for name in (*COMMON, *XEN)) == 0,
        ),
        Claim("nor a sensitive one", sum(xen[name].of(SENSITIVE) for name in (*COMMON, *XEN)) == 0),
        Claim(
            "the kernel for bare hardware has both",
            bare["bare.c"].privileged > 0 < bare["bare.c"].of(SENSITIVE),
        ),
    ]


def changes_only_segments(bare: Code, xen: Code) -> bool:
    """Whether the two differ in immediate values alone, which are selectors."""
    return all(
        one == other or re.sub(r"\$\w+", "$", one) == re.sub(r"\$\w+", "$", other)
        for one, other in zip(bare.instructions, xen.instructions, strict=True)
    )


EXPERIMENT: Final = Experiment(
    "port",
    "A port to Xen replaces what the kernel does to its machine, and leaves the rest of it alone.",
    "Barham et al., SOSP 2003, table 2",
    run,
)
