"""Where a device's driver runs, and what ends when it breaks: within the kernel, the monitor, the host, Dom0, a driver domain."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from domains.lab.board import Devices
from domains.lab.costs import Costs
from domains.lab.in_process import XenInProcess
from domains.lab.report import Cell, Claim, Experiment, Figure, Report, Table
from domains.lab.systems.driver_domain import XenWithDriverDomain
from domains.lab.systems.esx import Ring1
from domains.lab.systems.python_domain import new_domain
from domains.lab.systems.ring0 import Ring0
from domains.lab.systems.system import Crashed, Fault, System
from domains.lab.systems.workstation import Workstation
from domains.lab.systems.xen import Xen
from domains.lab.trace import Observer
from hypervisor.public.types import PAGE_SIZE

DRIVER, DEVICE = "broken_driver", "broken_device"
"""Programs: the sector that they write is one at which the kernel's own driver, or whoever has the device, runs into a fault."""
SECTOR: Final = 13
WAITS: Final = 20_000
"""Instructions after which a guest that has not ended is left waiting."""
INDICES: Final = struct.Struct("<4I")
ENDS, CRASHED, WAITING = "ends as it should", "ends with it", "waits"
ALIVE, GONE, NOBODY = "live", "end with it", "there are none"
WHERE: Final = (
    ("bare hardware", ("the kernel", "the kernel")),
    ("ESX", ("the monitor's kernel", "the monitor's kernel")),
    ("Workstation", ("the host's kernel, for the host's process", "the host's")),
    ("Xen of 2003", ("Xen", "Xen")),
    ("Xen since 2.0", ("Dom0, or a driver domain", "Xen")),
)
"""The real device's driver, and who says when a guest runs."""
NOTES: Final = (
    "Each fault is a real one: a store where nothing is in the kernel; one by a null pointer in the host's process, which the "
    "host ends by SIGSEGV; an exception that nobody catches in the monitor, in Dom0 and in the driver domain.",
    "What is told of the others was tried: a second guest of the host's runs to its end; a new domain boots on the core. "
    "Only ESX's others are inferred: what leaves the monitor's loop is caught by nobody.",
)


class Outcome(NamedTuple):
    """What a fault left: the guest, whether its block is on the disk, everybody else, and `told`: by whom and how it was ended.
    `unanswered`: requests in the guest's ring. `result`: the guest's, if it has one.
    """

    guest: str
    written: bool
    others: str
    told: str
    unanswered: int = 0
    result: int | None = None


class FaultyPlatter:
    """A disk of the monitor's, whose code has a fault."""

    def read(self, sector: int) -> bytes:
        """See board.Disk."""
        return bytes(PAGE_SIZE)

    def write(self, sector: int, data: bytes) -> None:
        """See board.Disk."""
        raise Fault("the monitor's code of the disk has run into a fault")


def end_of(system: System, program: str) -> tuple[str, str, int | None]:
    """How the guest ends, what is told of it, and its result."""
    observer = Observer(system.monitor, 0, 0)
    system.observe(observer)
    observer.limit = WAITS
    try:
        return ENDS, "", system.run([program])
    except Crashed as crash:
        waits = "does not come to an end" in str(crash)
        return WAITING if waits else CRASHED, str(crash), None


def own_driver() -> Outcome:
    """Bare hardware: the kernel's driver."""
    system = Ring0("native")
    guest, told, result = end_of(system, DRIVER)
    outcome = Outcome(guest, SECTOR in system.devices.sectors, NOBODY, told, result=result)
    system.close()
    return outcome


def monitor() -> Outcome:
    """ESX: the monitor's driver. What leaves the monitor's loop ends it."""
    system = Ring1()
    system.devices = Devices(system.read, system.write, FaultyPlatter())
    guest, told, result = end_of(system, DEVICE)
    others = GONE if guest == CRASHED else ALIVE
    outcome = Outcome(guest, SECTOR in system.devices.sectors, others, told, result=result)
    system.close()
    return outcome


def host_process() -> Outcome:
    """Workstation: the host's half of the monitor."""
    broken, other = Workstation(broken=SECTOR), Workstation()
    guest, told, result = end_of(broken, DEVICE)
    others = ALIVE if end_of(other, DEVICE)[0] == ENDS else GONE
    outcome = Outcome(guest, SECTOR in broken.devices.sectors, others, told, result=result)
    broken.close()
    other.close()
    return outcome


def dom0() -> Outcome:
    """Xen: a driver in Dom0."""
    return on_xen(Xen(broken=SECTOR))


def driver_domain(*, replaces: bool, broken: int = SECTOR) -> Outcome:
    """Xen: a driver in a domain of its own, which is replaced, or not."""
    return on_xen(XenWithDriverDomain(broken=broken, replaces=replaces))


def on_xen(system: Xen) -> Outcome:
    """What is left on Xen."""
    guest, told, result = end_of(system, DEVICE)
    requested, _, answered, _ = INDICES.unpack(system.read(system.image.at("block_ring"), INDICES.size))
    written = SECTOR in system.devices.sectors
    others = GONE if system.xen.processes.machine_ended or not core_lives(system.xen) else ALIVE
    system.close()
    return Outcome(guest, written, others, told, requested - answered, result)


def core_lives(xen: XenInProcess) -> bool:
    """Whether a new domain can be made, boots, and is answered."""
    return new_domain(xen).kernel.hypercalls.hypercall_xen_version(0) > 0


def look() -> dict[str, Outcome]:
    """All of it."""
    return {
        "bare hardware: the kernel's driver": own_driver(),
        "ESX: the monitor's": monitor(),
        "Workstation: the host's process": host_process(),
        "Xen: in Dom0": dom0(),
        "Xen: a driver domain, left as it is": driver_domain(replaces=False),
        "Xen: a driver domain, replaced": driver_domain(replaces=True),
    }


def run(_costs: Costs) -> Report:
    """See EXPERIMENT."""
    found = look()
    report = Report(notes=list(NOTES), claims=claims(found))
    report.tables.append(
        Table("Two ways to build a monitor, and Xen's", ("the driver runs in", "who schedules"), WHERE)
    )
    rows: list[tuple[str, tuple[Cell, ...]]] = [
        (name, (one.guest, "yes" if one.written else "no", one.others, Figure(one.unanswered)))
        for name, one in found.items()
    ]
    columns = ("the guest", "its block is written", "the others", "requests without an answer")
    report.tables.append(Table("A driver breaks", columns, rows))
    report.tables.append(
        Table("What is told of it", ("",), [(name, (one.told or "nothing",)) for name, one in found.items()])
    )
    return report


def claims(found: dict[str, Outcome]) -> list[Claim]:
    """What must be seen."""
    bare, esx, hosted, in_dom0, left, replaced = found.values()
    return [
        Claim("bare hardware: the system ends with its driver", bare.guest == CRASHED),
        Claim("ESX: all end with the monitor's driver", (esx.guest, esx.others) == (CRASHED, GONE)),
        Claim(
            "Workstation: the one machine ends, and no other",
            (hosted.guest, hosted.others) == (CRASHED, ALIVE),
        ),
        Claim("Dom0's driver: the whole machine ends", (in_dom0.guest, in_dom0.others) == (CRASHED, GONE)),
        Claim(
            "a driver domain's: the guest waits for one answer, and nobody ends",
            (left.guest, left.unanswered, left.others) == (WAITING, 1, ALIVE),
        ),
        Claim(
            "replaced: the guest notices nothing but a new connection",
            (replaced.guest, replaced.written, replaced.unanswered) == (ENDS, True, 0),
        ),
    ]


EXPERIMENT: Final = Experiment(
    "hosted",
    "What a driver takes with it when it breaks depends on where it runs: at most its own domain, if it has one.",
    "Sugerman et al., USENIX 2001; Barham et al., SOSP 2003, 2 and 3.2; Fraser et al., 2004",
    run,
)
