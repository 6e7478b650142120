"""What `xenctl fleet up|down|ps|migrate|drain|undrain|graph` do."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from domains.control.protocol import ControlError, Exit
from domains.xenctl.fleet.begin import begin
from domains.xenctl.fleet.client import Client
from domains.xenctl.fleet.file import Loaded, load
from domains.xenctl.fleet.graph import mermaid
from domains.xenctl.fleet.journal import without_clock
from domains.xenctl.fleet.place import SOCKET, brought_up_from, file_of, folder_of_fleet, is_up, not_up
from domains.xenctl.launch import Born, last_words, within
from domains.xenctl.machine import wait_for
from domains.xenctl.output import print_json, print_lines, print_table
from domains.xenctl.place import LOCK
from domains.xenctl.topology.progress import shown

POLL: Final = 0.2
MOVE_TIMEOUT: Final = 600.0
DOWN_TIMEOUT: Final = 60.0
JOIN_TIMEOUT: Final = 60.0
START_TIMEOUT: Final = 30.0


def up(file: Path, *, json: bool) -> None:
    """Bring a fleet up, and wait until its domains are ready; one that is up is waited for. Raises ControlError."""
    loaded = load(file)
    loaded.rehearse()
    born = None
    if not is_up(loaded.name):
        born = begin(loaded)
    else:
        not_of_another_file(loaded.name, file)
    try:
        await_head(loaded, born)
        with Client(loaded.name) as client, shown(len(loaded.planned), f"{loaded.name} comes up") as tell:
            if born is None:
                begin_lost(client, client.ask("begin")["hosts"])
            status = follow(client, tell)
    finally:
        for fd in born or ():
            os.close(fd)
    failed = [one for one in status["domains"] if one["state"] in ("failed", "waiting")]
    failed.sort(key=lambda one: one["why"] == "")
    if json:
        print_json(status)
    if failed:
        more = f" (and {len(failed) - 1} more did not come up)" if len(failed) > 1 else ""
        raise ControlError(Exit.FAILURE, f"{failed[0]['name']}: {failed[0]['why'] or 'waits'}{more}")


def await_head(loaded: Loaded, born: Born | None) -> None:
    """Until the head can be asked. Raises ControlError with its last words if it ends."""
    socket = folder_of_fleet(loaded.name) / SOCKET
    deadline = time.monotonic() + START_TIMEOUT
    while not socket.exists():
        # One that has just begun may read large images first, for their hashes.
        if within(0, born.ended) if born is not None else time.monotonic() > deadline:
            why = without_clock(last_words(born.log)) if born is not None else "it does not answer"
            raise ControlError(Exit.FAILURE, f"the head of fleet '{loaded.name}' did not start: {why}")
        time.sleep(0.01)


def begin_lost(client: Client, hosts: list[str]) -> None:
    """Wait until these hosts, which were lost and are begun again, have joined. Raises ControlError if one has not."""
    deadline = time.monotonic() + JOIN_TIMEOUT
    while hosts:
        states = {one["name"]: one["state"] for one in client.ask("status")["hosts"]}
        for host in list(hosts):
            if states[host] == "up":
                hosts.remove(host)
            elif states[host].startswith("lost:") or time.monotonic() > deadline:
                raise ControlError(Exit.FAILURE, f"host {host} does not come back: {states[host]}")
        time.sleep(POLL)


def follow(client: Client, tell: Any) -> dict[str, Any]:
    """Tell of each domain what becomes of it, until all is settled; how the fleet stands then. Raises ControlError."""
    seen: dict[str, str] = {}
    while True:
        status: dict[str, Any] = client.ask("status")
        if status["trouble"]:
            client.ask("down")
            wait_for(partial(is_gone, status["fleet"]), DOWN_TIMEOUT)
            raise ControlError(Exit.FAILURE, status["trouble"])
        for one in status["domains"]:
            became = became_of(one)
            if became and seen.get(one["name"]) != became:
                seen[one["name"]] = became
                tell(one["name"], became)
        if status["settled"]:
            return status
        time.sleep(POLL)


def is_gone(name: str) -> bool:
    """Whether no head of this fleet lives here. One that ends takes its folder away; its lock may go first."""
    folder = folder_of_fleet(name)
    return not is_up(name) and ((folder / LOCK).exists() or not folder.exists())


def became_of(domain: Mapping[str, Any]) -> str:
    """In words of topology/progress.py; "" if nothing has."""
    if domain["state"] == "ready":
        return f"ready on {domain['host']}"
    if domain["state"] == "done":
        return "has done its work"
    if domain["state"] == "failed":
        why: str = domain["why"]
        return why if why.startswith("left out") else f"failed: {why}"
    return ""


def name_of(file: Path) -> str:
    """The fleet that was brought up from this file, whatever it says now; else the one that it describes. Raises
    ControlError.
    """
    name = brought_up_from(file) or load(file).name
    if is_up(name):
        not_of_another_file(name, file)
    return name


def not_of_another_file(name: str, file: Path) -> None:
    """A fleet of this name that is up is this file's own; one whose file is there no more is whoever's has its name. Raises
    ControlError.
    """
    own = file_of(name)
    if own != str(file.absolute()) and os.path.exists(own):
        what = f"there is a fleet '{name}' already, brought up from {own}"
        raise ControlError(Exit.FAILURE, f"{what}; name that file, or give this one another name")


def down(file: Path, *, json: bool) -> None:
    """End a fleet, with its machines. Raises ControlError."""
    name = name_of(file)
    if not is_up(name):
        raise not_up(name)
    with Client(name) as client:
        client.ask("down")
    if not wait_for(partial(is_gone, name), DOWN_TIMEOUT):
        raise ControlError(Exit.TIMED_OUT, f"fleet '{name}' did not end within {DOWN_TIMEOUT:g} s")
    if json:
        print_json({"fleet": name, "down": True})


def ps(file: Path, *, json: bool) -> None:
    """Show how each domain and host stands. Raises ControlError."""
    with Client(name_of(file)) as client:
        status = client.ask("status")
    if json:
        print_json(status)
        return
    domains = [
        (one["name"], one["state"], one["host"] or "-", one["memory_mib"], one["moves"], one["why"])
        for one in status["domains"]
    ]
    print_table(("Name", "State", "Host", "Mem", "Moves", "Why"), domains, frozenset({"Mem", "Moves"}))
    print()
    hosts = [
        (
            one["name"],
            one["state"].partition(":")[0],
            one["machine"],
            one["memory_mib"],
            dash(one["free_mib"]),
            one["cpus"],
            one["domains"],
        )
        for one in status["hosts"]
    ]
    header = ("Host", "State", "Machine", "Mem", "Free", "CPUs", "Domains")
    print_table(header, hosts, frozenset({"Mem", "Free", "CPUs", "Domains"}))
    for one in status["hosts"]:
        state, colon, why = one["state"].partition(": ")
        if colon:
            print_lines(f"\nhost {one['name']} is {state}: {why}")


def dash(value: int | None) -> str:
    """The number, or `-` where there is none."""
    return "-" if value is None else str(value)


def migrate(file: Path, domain: str, host: str | None, *, json: bool) -> None:
    """Move a domain to another host, or to the best one. Raises ControlError."""
    with Client(name_of(file)) as client:
        moved = client.ask("migrate", {"domain": domain, "host": host}, MOVE_TIMEOUT)
    if json:
        print_json(moved)
    else:
        print_lines(f"{domain} runs on {moved['host']}")


def drain(file: Path, host: str, *, json: bool) -> None:
    """Move everything off a host, which takes no more domains. Raises ControlError."""
    with Client(name_of(file)) as client:
        drained = client.ask("drain", {"host": host}, MOVE_TIMEOUT)
    if json:
        print_json(drained)
    else:
        print_lines(f"host {host} is empty; {len(drained['moved'])} domains were moved")


def undrain(file: Path, host: str, *, json: bool) -> None:
    """Let a drained host take domains again. Raises ControlError."""
    with Client(name_of(file)) as client:
        opened = client.ask("undrain", {"host": host})
    if json:
        print_json(opened)
    else:
        print_lines(f"host {host} takes domains again")


def graph(file: Path) -> None:
    """Draw which domain runs, or would run, on which host. Raises ControlError."""
    loaded = load(file)
    places: Mapping[str, str | None] = loaded.rehearse()
    name = brought_up_from(file)
    if name is not None:
        with Client(name) as client:
            places = {one["name"]: one["host"] for one in client.ask("status")["domains"]}
    print_lines(mermaid(loaded, places))
