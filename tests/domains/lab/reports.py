"""A report of every kind of figure, of hostile texts and of two short traces; it is shown, and nothing need be run for it."""

from __future__ import annotations

from domains.lab.costs import Costs, load_costs
from domains.lab.report import Chart, Claim, Experiment, Figure, Kind, Report, Table, Trace
from domains.lab.trace import CPU, Change, Entry, Step

HOSTILE = (
    "</script><script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">&amp;"
)
SOURCE = "quoted: Somebody et al., 2006"
KINDS = [
    Figure(3),
    Figure(1234.5, Kind.MODELLED, "cycles"),
    Figure(1.42, Kind.PUBLISHED, "µs", SOURCE),
    Figure(None),
]


def a_trace(title: str, monitor: str) -> Trace:
    """Six steps: three of the guest's, two exits, and one of the CPU's own."""
    filled = Change("guest L1[16]", "0", "0x204000 P RW")
    steps = [
        Step("program", 3, "start", "movl $1, 0x40010000", 0x1000),
        Step(monitor, -1, "", "guest's own fault", 0x1000, is_exit=True),
        Step("kernel", 0, "trap14", HOSTILE, 0x1000),
        Step(
            monitor,
            -1,
            "",
            "traced store",
            0x2000,
            (filled, Change("P2M[0x204]", "", "0x814000")),
            is_exit=True,
        ),
        Step(CPU, -1, "", "INT n", 0x2000),
        Step("program", 3, "start+0x7", "nop", 0x2000, (Change("P2M[0x204]", "0x814000", ""),)),
    ]
    return Trace(title, steps, [Entry("guest L3[1]", "0x201000 P"), Entry("guest L1[16]", "0")])


def a_report(*, holds: bool = True) -> Report:
    """One of each."""
    charts = [
        Chart("Exits", "exits", ["one", "another"], [("exits", [Figure(0), Figure(4)])]),
        Chart(
            HOSTILE,
            "µs",
            ["call", "fork"],
            [
                ("Xen, modelled", [Figure(0.4, Kind.MODELLED, "µs"), Figure(200.0, Kind.MODELLED, "µs")]),
                ("Xen, published", [Figure(None, Kind.PUBLISHED), Figure(198, Kind.PUBLISHED, "µs", SOURCE)]),
            ],
            logarithmic=True,
        ),
    ]
    return Report(
        tables=[
            Table(
                "All kinds", ["a", "b", "c", HOSTILE], [(HOSTILE, KINDS), ("words", ["x", "", "", HOSTILE])]
            )
        ],
        charts=charts,
        traces=[a_trace("ESX", "monitor"), a_trace(HOSTILE, "Xen")],
        claims=[Claim("it is so", True), Claim(HOSTILE, holds)],
        notes=[HOSTILE],
    )


def run(_costs: Costs) -> Report:
    """For EXPERIMENT."""
    return a_report()


EXPERIMENT = Experiment("page-fault", HOSTILE, HOSTILE, run)
COSTS = load_costs()
