"""One program on each system: what it cost there, and whether the kernel ended with the same memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

from domains.lab.image import Image
from domains.lab.systems.esx import Ring1
from domains.lab.systems.ring0 import Ring0
from domains.lab.systems.system import POOL, POOL_PAGES, System
from domains.lab.systems.workstation import Workstation
from domains.lab.systems.xen import Xen
from domains.lab.trace import Entry, Observer, Part
from hypervisor.public.types import PAGE_SIZE

SYSTEMS: Final[dict[str, tuple[str, Callable[..., System]]]] = {
    "native": ("bare hardware", partial(Ring0, "native")),
    "nested": ("hardware, nested tables", partial(Ring0, "nested")),
    "vtx": ("hardware, shadow tables", partial(Ring0, "vtx")),
    "esx": ("ESX", Ring1),
    "workstation": ("Workstation", Workstation),
    "xen": ("Xen", Xen),
}
"""By name: a title for tables, and how one is made, of another image than the usual if one is given."""
COUNTERS: Final = ("ticks", "disk_done", "packets_sent")


class Measured(NamedTuple):
    """One system's run: the part between the program's two marks, the memory that was left, and what the kernel ended with."""

    system: str
    title: str
    part: Part
    image: Image
    memory: str
    result: int


def measure(
    name: str, program: str, *others: str, watch: Sequence[int] = (), most_steps: int | None = None
) -> Measured:
    """Run `program` on this system, a process of its own beside each of `others`, and look at what lies between PROGRAM_from and
    PROGRAM_to. `watch`: linear addresses whose tables the trace tells of. `most_steps`: so many instructions are in the trace.
    """
    title, make = SYSTEMS[name]
    return measure_on(make(), title, program, *others, watch=watch, most_steps=most_steps)


def measure_on(
    system: System,
    title: str,
    program: str,
    *others: str,
    watch: Sequence[int] = (),
    most_steps: int | None = None,
) -> Measured:
    """The same on a system that was made for this run; it is closed."""
    observer = Observer(system.monitor, system.image.at(f"{program}_from"), system.image.at(f"{program}_to"))
    system.observe(observer)
    observer.most_steps = most_steps
    if watch:
        observer.watch = partial(tables_of, system, watch)
    result = system.run([program, *others])
    measured = Measured(system.name, title, observer.part, system.image, digest(system), result)
    system.close()
    return measured


def measure_all(
    program: str, systems: Sequence[str] = tuple(SYSTEMS), *, watch: Sequence[int] = ()
) -> list[Measured]:
    """The same on several."""
    return [measure(name, program, watch=watch) for name in systems]


def tables_of(system: System, addresses: Sequence[int]) -> list[Entry]:
    """The tables in force for these addresses; with several, each entry says whose it is."""
    return [
        Entry(f"{va:#x} {one.where}" if len(addresses) > 1 else one.where, one.value)
        for va in addresses
        for one in system.tables(va)
    ]


def digest(system: System) -> str:
    """SHA-256 of what the kernel was left with: its counters, and each page of its pool that was never a page table.

    Tables are left out, for on Xen they have the machine's frame numbers.
    """
    total = hashlib.sha256()
    for counter in COUNTERS:
        total.update(system.read(system.image.at(counter), 4))
    was_table = [system.read(system.image.at("was_table") + number, 1)[0] for number in range(POOL_PAGES)]
    for number, table in enumerate(was_table):
        if not table:
            total.update(system.read(POOL + number * PAGE_SIZE, PAGE_SIZE))
    return total.hexdigest()
