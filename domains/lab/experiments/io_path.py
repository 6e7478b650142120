"""One block written, and packets sent: through whose hands they go, how often, and what is copied on the way."""

from __future__ import annotations

from typing import Final

from domains.lab.board import NIC_DATA
from domains.lab.compare import Measured, measure, measure_on
from domains.lab.costs import Costs
from domains.lab.report import Cell, Chart, Claim, Experiment, Figure, Kind, Report, Table, Trace
from domains.lab.systems.workstation import Workstation
from domains.lab.systems.world_switch import Policy
from domains.lab.systems.xen import Xen

BLOCK: Final = "write_block"
PACKETS: Final = "six_packets"
UNTIL_TICK: Final = "packets_and_wait"
SENT: Final = 6
COMPARED: Final = ("native", "esx", "workstation", "xen")
WOKEN: Final = ("Dom0", "is woken")
TO_HOST: Final = ("monitor", "world switch to the host")
TO_MONITOR: Final = ("host", "world switch to the monitor")
COPIES: Final = (("host", "pwrite"), ("host", "send"), ("Dom0", "copy out of the guest"))
"""Where the CPU copies the data. What else moves it is the device."""
NOTIFY: Final = "event_channel_op send"
SUGERMAN: Final = "read: Sugerman et al., USENIX 2001"
NOTES: Final = (
    "A world switch is counted in each direction, a domain switch likewise: Dom0 is woken, and blocks again.",
    "But for the last table Dom0 has a CPU of its own, and answers at once: no request waits for another one.",
    "In the Xen of 2003 the drivers, and the rings' other end, were Xen's own; Dom0 has had them since Xen 2.0.",
)


def run(costs: Costs) -> Report:
    """See EXPERIMENT."""
    blocks = {name: measure(name, BLOCK) for name in COMPARED}
    stages = {policy: stage(policy) for policy in Policy}
    packets = {name: measure(name, PACKETS) for name in ("native", "esx", "xen")}
    packets["workstation"] = stages[Policy.TRANSMIT][0]._replace(title=blocks["workstation"].title)
    batched = [beside(one_cpu=False), beside(one_cpu=True)]
    report = Report(notes=list(NOTES))
    report.tables += [
        path("One block written", [*blocks.values()]),
        path(f"{SENT} packets sent", [packets[name] for name in COMPARED]),
        of_stages(stages, costs),
        path(f"Xen: {SENT} packets, and the wait for a tick", batched),
    ]
    report.charts.append(
        Chart(
            "World switches for a packet",
            "switches",
            [policy.value for policy in Policy],
            [("switches", [Figure(switches(one) / SENT) for one, _ in stages.values()])],
        )
    )
    report.traces += [Trace(f"{one.title}: one block", one.part.steps) for one in blocks.values()]
    report.claims += claims(blocks, packets) + claims_of_stages(stages) + claims_of_waiting(*batched)
    return report


def stage(policy: Policy) -> tuple[Measured, tuple[int, int]]:
    """The packets under one of Workstation's policies; accesses of the card's data port, and those that needed the host."""
    system = Workstation(policy)
    measured = measure_on(system, policy.value, PACKETS)
    return measured, (system.ports.by_port[NIC_DATA], system.ports.to_host[NIC_DATA])


def beside(*, one_cpu: bool) -> Measured:
    """The packets on Xen, up to the next tick: Dom0 runs beside the guest, or, with one CPU for both, while the guest waits."""
    system = Xen()
    system.xen.one_cpu = one_cpu
    return measure_on(system, "one CPU for both" if one_cpu else "a CPU for Dom0", UNTIL_TICK)


def switches(one: Measured) -> int:
    """World switches, in both directions."""
    return one.part.beside[TO_HOST] + one.part.beside[TO_MONITOR]


def domain_switches(one: Measured) -> int:
    """To Dom0, and from it."""
    return 2 * one.part.beside[WOKEN]


def calls_of_dom0(one: Measured) -> int:
    """Dom0's entries into Xen."""
    return sum(count for (who, what), count in one.part.beside.items() if who == "Dom0" and "_op" in what)


def notifications(one: Measured) -> tuple[int, int]:
    """Events that the guest sends, and those that it is sent."""
    return one.part.names[f"hypercall {NOTIFY}"], one.part.beside["Dom0", NOTIFY]


def copies(one: Measured) -> tuple[int, int]:
    """How often data is copied by a CPU, and how many bytes in all."""
    part = one.part
    return sum(part.beside[where] for where in COPIES), sum(part.moved[where] for where in COPIES)


def path(title: str, runs: list[Measured]) -> Table:
    """Who is entered, who is switched to, who is told, and what is copied."""
    rows: list[tuple[str, list[Cell]]] = [
        ("entries into hypervisor or monitor, by the guest", [Figure(one.part.nr_exits) for one in runs]),
        ("entries into Xen, by Dom0", [Figure(calls_of_dom0(one)) for one in runs]),
        ("domain switches", [Figure(domain_switches(one)) for one in runs]),
        ("world switches", [Figure(switches(one)) for one in runs]),
        ("events sent by the guest", [Figure(notifications(one)[0]) for one in runs]),
        ("events sent to the guest", [Figure(notifications(one)[1]) for one in runs]),
        ("copies by a CPU", [Figure(copies(one)[0]) for one in runs]),
        ("bytes copied", [Figure(copies(one)[1], unit="bytes") for one in runs]),
    ]
    return Table(title, [one.title for one in runs], rows)


def of_stages(stages: dict[Policy, tuple[Measured, tuple[int, int]]], costs: Costs) -> Table:
    """Sugerman's three stages, for one packet."""
    each = costs.cycles("world_switch")
    rows: list[tuple[str, list[Cell]]] = [
        ("world switches, a packet", [Figure(switches(one) / SENT) for one, _ in stages.values()]),
        (
            "modelled: these switches alone",
            [
                Figure(costs.microseconds(switches(one) / 2 * each) / SENT, Kind.MODELLED, "µs")
                for one, _ in stages.values()
            ],
        ),
        ("accesses of the data port", [Figure(every) for _, (every, _) in stages.values()]),
        ("of these, to the host", [Figure(host) for _, (_, host) in stages.values()]),
        (
            "published: part that needs the host",
            ["", Figure(1 / 3, Kind.PUBLISHED, source=SUGERMAN), ""],
        ),
        ("published: packets for a switch, at most", ["", "", Figure(3, Kind.PUBLISHED, source=SUGERMAN)]),
    ]
    return Table("Workstation's three stages", [policy.value for policy in stages], rows)


def claims(blocks: dict[str, Measured], packets: dict[str, Measured]) -> list[Claim]:
    """What must be seen of the ways."""
    xen = blocks["xen"]
    return [
        Claim("Xen: one event goes to Dom0 with a block, and one comes back", notifications(xen) == (1, 1)),
        Claim("Xen: Dom0 is switched to once, and from", domain_switches(xen) == 2),
        Claim("Xen: the block is not copied on its way to the device", copies(xen)[0] == 0),
        Claim("ESX: nobody but the monitor takes part", not switches(blocks["esx"])),
        Claim(
            "Workstation: the block takes a world switch there, and one back",
            switches(blocks["workstation"]) == 2,
        ),
        Claim(
            "the kernel is left with the same memory everywhere",
            all(len({one.memory for one in runs.values()}) == 1 for runs in (blocks, packets)),
        ),
    ]


def claims_of_stages(stages: dict[Policy, tuple[Measured, tuple[int, int]]]) -> list[Claim]:
    """What must be seen of the three stages."""
    each, transmit, combined = (switches(one) for one, _ in stages.values())
    every, host = stages[Policy.TRANSMIT][1]
    return [
        Claim("each stage switches less than the one before", each > transmit > combined),
        Claim("only what transmits: two switches a packet", transmit == 2 * SENT),
        Claim("combined: three packets share them", 3 * combined == transmit),
        Claim("a third of the accesses of the data port needs the host, or fewer", 3 * host <= every),
        Claim(
            "with each access going to the host, all of them do", len(set(stages[Policy.EACH_ACCESS][1])) == 1
        ),
    ]


def claims_of_waiting(at_once: Measured, waiting: Measured) -> list[Claim]:
    """What must be seen of requests that wait in the ring."""
    return [
        Claim(
            "Xen, a CPU for Dom0: an event each way for each packet",
            notifications(at_once) == (SENT, SENT) and domain_switches(at_once) == 2 * SENT,
        ),
        Claim(
            "Xen, one CPU for both: one event each way, and one switch each way, for all",
            notifications(waiting) == (1, 1) and domain_switches(waiting) == 2,
        ),
        Claim(
            "the packets, and what the kernel is left with, are the same", at_once.memory == waiting.memory
        ),
    ]


EXPERIMENT: Final = Experiment(
    "io-path",
    "A request costs Xen's split driver two domain switches, a hosted monitor two world switches; those that wait share them.",
    "Barham et al., SOSP 2003, 3.2 and 3.3; Sugerman et al., USENIX 2001",
    run,
)
