"""Commands that list domains: list, vm-list, uptime."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated

from domains.control.client import ControlClient
from domains.control.operations import List, Listed
from domains.control.records import encode
from domains.xenctl import machine
from domains.xenctl.options import DEFAULT, Argument, Json, Machine, Option
from domains.xenctl.output import print_json, print_table, printable
from domains.xenctl.tables import LISTED, LISTED_LEFT, listed

REASONS = ("poweroff", "reboot", "suspend", "crash", "watchdog", "soft_reset")
"""What a domain's end is called, by the number that xl shows (Xen public/sched.h, SHUTDOWN_…)."""


def list_(
    domain: Annotated[str, Argument(help="Only this domain.", metavar="[DOMAIN]")] = "",
    long: Annotated[bool, Option("--long", "-l", help="Show how each domain was made.")] = False,
    verbose: Annotated[
        bool, Option("--verbose", "-v", help="Show UUIDs, and why domains have ended.")
    ] = False,
    context: Annotated[
        bool, Option("--context", "-Z", help="Show security labels, which no domain has.")
    ] = False,
    pools: Annotated[bool, Option("--cpupool", "-c", help="Show each domain's CPU pool.")] = False,
    numa: Annotated[bool, Option("--numa", "-n", help="Show NUMA nodes: a machine is one.")] = False,
    name: Machine = DEFAULT,
    json: Json = False,
) -> None:
    """List the domains."""
    with machine.connect(name) as client:
        domains = client.call(List(domain or None, brief=not (json or long)))
    if json or long:
        print_json(encode(domains))
        return
    header, rows = [*LISTED], [list(row_of(one)) for one in domains]
    columns: dict[str, tuple[bool, Callable[[Listed], object]]] = {
        "UUID": (verbose, lambda one: one.uuid),
        "Reason-Code": (verbose, lambda one: code_of(one.shutdown)),
        "Security Label": (verbose or context, lambda one: "-"),
        "Cpupool": (pools, lambda one: one.cpupool),
        "NODE Affinity": (numa, lambda one: "all"),
    }
    for title, (wanted, value) in columns.items():
        if wanted:
            header.append(title)
            for row, one in zip(rows, domains, strict=True):
                row.append(value(one))
    print_table(header, rows, frozenset(header) - LISTED_LEFT)


def row_of(one: Listed) -> tuple[object, ...]:
    """A domain's cells in a list."""
    return listed(one.name, one.domid, one.memory_kib, one.vcpus, one.state, one.cpu_time, one.pid)


def code_of(reason: str | None) -> str:
    """The number of a domain's end, in hexadecimal as xl has it; `-` if it runs."""
    if reason is None:
        return "-"
    return f"{REASONS.index(reason) if reason in REASONS else int(reason.rpartition(' ')[2]):x}"


def vm_list(name: Machine = DEFAULT, json: Json = False) -> None:
    """List the domains but Dom0, by their UUIDs."""
    with machine.connect(name) as client:
        domains = [one for one in client.call(List(brief=True)) if one.domid]
    if json:
        print_json([{"uuid": str(one.uuid), "domid": one.domid, "name": one.name} for one in domains])
        return
    header = ("UUID", "ID", "name")
    print_table(header, [(one.uuid, one.domid, one.name or "(null)") for one in domains], frozenset({"ID"}))


def uptime(
    domains: Annotated[list[str] | None, Argument(help="Only these.", metavar="[DOMAIN]...")] = None,
    short: Annotated[bool, Option("-s", help="A line as uptime(1) has it.")] = False,
    name: Machine = DEFAULT,
    json: Json = False,
) -> None:
    """Print for how long domains have been there."""
    with machine.connect(name) as client:
        found = some(client, domains or [])
    known = [(one.name or "(null)", one.domid, one.uptime) for one in found if one.uptime is not None]
    if json:
        print_json([dict(zip(("name", "domid", "uptime"), one, strict=True)) for one in known])
    elif short:
        now = time.strftime("%H:%M:%S")
        for called, domid, seconds in known:
            print(f" {now} up {duration(seconds, short=True)}, {printable(called)} ({domid})")
    else:
        rows = [(called, domid, duration(seconds)) for called, domid, seconds in known]
        print_table(("Name", "ID", "Uptime"), rows, frozenset({"ID", "Uptime"}))


def some(client: ControlClient, domains: list[str]) -> list[Listed]:
    """The domains of these names or ids, or all. Raises ControlError."""
    questions = [List(domain, brief=True) for domain in domains] or [List(brief=True)]
    return [one for question in questions for one in client.call(question)]


def duration(seconds: float, *, short: bool = False) -> str:
    """A time as xl's `uptime` writes it: `1 day,  2:03:04`, or without seconds."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    before = f"{days} day{'s' * (days > 1)}, " if days else ""
    return f"{before}{hours:2}:{minutes:02}" + ("" if short else f":{rest:02}")
