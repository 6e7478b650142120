"""What Dom0's toolstack can be asked about snapshots: domains as they were, of which any number of forks are made. A part of
`operations.py`, which has the table of all.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from domains.control.arguments import Arguments, Count
from domains.control.description import MAX_DEVICES, MAX_NAME, DomainText, PathText, Vif, bad_name
from domains.control.domain_operations import LONGEST_SUSPEND, Created
from domains.control.records import Length, Range, Record

SnapshotName = Annotated[str, Length(4 * MAX_NAME)]


class SnapshotInfo(Record):
    """A snapshot: of which domain it is, that domain's memory in KiB, how many bytes are kept of it, in the host's memory or in a
    file, and how many of its disks; how many forks were made of it.
    """

    name: str
    domain: str
    memory_kib: Count
    memory_bytes: Count
    file_bytes: Count
    disk_bytes: Count
    forks: Count


class TakeSnapshot(Arguments[SnapshotInfo]):
    """Keep a domain as it is now, under a name: it suspends, and goes on once all is kept. `folder`: where on the host its memory
    and copies of its disks go, as files without names; without it memory goes into memory, and a copy beside its disk.
    `timeout`: as of Save.
    """

    domain: DomainText
    name: SnapshotName
    folder: PathText | None = None
    timeout: Annotated[float, Range(0.001, LONGEST_SUSPEND)] = 60.0

    def __post_init__(self) -> None:
        if (why := bad_name(self.name)) is not None:
            raise ValueError(f"a snapshot's name {why}")
        if self.folder is not None and not self.folder.startswith("/"):
            raise ValueError(f"the folder '{self.folder}' is to be named by its absolute path")


class Fork(Arguments[Created]):
    """Make a domain of a snapshot, which goes on from there. `name`: what it is called; without one, the snapshot's name and a
    number. With `paused` it does not run yet; with `keep_macs` its interfaces have the addresses of the original's.
    `vifs`: its interfaces, as many as the original has, in their place. `mark`: what its maker knows it by.
    """

    snapshot: SnapshotName
    name: Annotated[str, Length(4 * MAX_NAME)] | None = None
    paused: bool = False
    keep_macs: bool = False
    vifs: Annotated[tuple[Vif, ...], Length(MAX_DEVICES)] | None = None
    mark: Annotated[str, Length(256)] | None = None

    def __post_init__(self) -> None:
        if self.name is not None and (why := bad_name(self.name)) is not None:
            raise ValueError(f"a domain's name {why}")


class SnapshotList(Arguments[tuple[SnapshotInfo, ...]]):
    """All snapshots, in the order in which they were made."""


class SnapshotDelete(Arguments[None]):
    """Forget one. Its forks go on."""

    snapshot: SnapshotName


SNAPSHOT_OPERATIONS: Final[dict[str, type[Arguments[Any]]]] = {
    "snapshot": TakeSnapshot,
    "fork": Fork,
    "snapshot-list": SnapshotList,
    "snapshot-delete": SnapshotDelete,
}
"""These operations by their names."""
