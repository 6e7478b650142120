"""Commands on snapshots: snapshot, fork, snapshot-list, snapshot-delete."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

from domains.control.records import encode
from domains.control.snapshot_operations import (
    Fork,
    SnapshotDelete,
    SnapshotInfo,
    SnapshotList,
    TakeSnapshot,
)
from domains.xenctl import machine
from domains.xenctl.domain_commands import tell_of
from domains.xenctl.options import DEFAULT, Argument, Domain, Json, Machine, Option
from domains.xenctl.output import print_error, print_json, print_table
from domains.xenctl.usage import checked

Snapshot = Annotated[str, Argument(help="A snapshot's name.", metavar="SNAPSHOT")]
COLUMNS = ("Name", "Domain", "Mem", "Kept", "In file", "Disks", "Forks")
MIB = 1 << 20


def snapshot(
    domain: Domain,
    snapshot: Annotated[str, Argument(help="What the snapshot is called.", metavar="SNAPSHOT")],
    folder: Annotated[
        Path | None,
        Option(metavar="FOLDER", help="Keep its memory and its disks in files there, which have no names."),
    ] = None,
    timeout: Annotated[
        float,
        Option("--timeout", "-t", help="Seconds for the guest to suspend.", metavar="SECONDS", min=0.001),
    ] = 60.0,
    name: Machine = DEFAULT,
    json: Json = False,
) -> None:
    """Keep a domain as it is now, to make others of it; it goes on."""
    where = None if folder is None else str(folder.absolute())
    wanted = checked(lambda: TakeSnapshot(domain, snapshot, where, timeout))
    with machine.connect(name) as client:
        taken = client.call(wanted, timeout=math.inf)
    if json:
        print_json(encode(taken))
    else:
        print_error(f"snapshot {snapshot_text(taken)}")


def fork(
    snapshot: Snapshot,
    domain: Annotated[
        str | None, Option("--name", metavar="NAME", help="What the new domain is called; SNAPSHOT-1, -2 …")
    ] = None,
    paused: Annotated[bool, Option("--paused", "-p", help="Leave the domain paused.")] = False,
    keep_macs: Annotated[
        bool, Option("--keep-macs", help="Its interfaces have the original's addresses.")
    ] = False,
    name: Machine = DEFAULT,
    json: Json = False,
) -> None:
    """Make another domain of a snapshot, which goes on from there."""
    wanted = checked(lambda: Fork(snapshot, domain, paused, keep_macs))
    with machine.connect(name) as client:
        made = client.call(wanted, timeout=math.inf)
    tell_of(made, quiet=False, json=json)


def snapshot_list(name: Machine = DEFAULT, json: Json = False) -> None:
    """List the snapshots, in MiB."""
    with machine.connect(name) as client:
        there = client.call(SnapshotList())
    if json:
        print_json(encode(there))
        return
    rows = [
        (
            *(one.name, one.domain, one.memory_kib // 1024),
            *(round(size / MIB) for size in (one.memory_bytes, one.file_bytes, one.disk_bytes)),
            one.forks,
        )
        for one in there
    ]
    print_table(COLUMNS, rows, frozenset(COLUMNS[2:]))


def snapshot_delete(snapshot: Snapshot, name: Machine = DEFAULT, json: Json = False) -> None:
    """Forget a snapshot; domains that were made of it go on."""
    wanted = checked(lambda: SnapshotDelete(snapshot))
    with machine.connect(name) as client:
        client.call(wanted)
    if json:
        print_json({"snapshot": snapshot, "done": "snapshot-delete"})


def snapshot_text(one: SnapshotInfo) -> str:
    """A snapshot in a line."""
    kept = (
        f"{one.memory_bytes / MIB:.0f} MiB in memory"
        if one.memory_bytes
        else f"{one.file_bytes / MIB:.0f} MiB in a file"
    )
    disks = f", {one.disk_bytes / MIB:.0f} MiB of disks" if one.disk_bytes else ""
    return f"{one.name}: domain {one.domain} of {one.memory_kib // 1024} MiB, {kept}{disks}"
