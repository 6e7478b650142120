"""Snapshots and forks of them.

    snapshot   asked ─► suspended ─► memory and disks kept ─► the domain goes on
                  │ whatever fails: nothing is kept, and the domain goes on
    fork       a new name, new addresses, an overlay for each disk ─► restored from what is kept, as from a file

What a fork costs is what it has: it is made by the same code as a domain that is restored (restoring/restore.py), so a snapshot
can make no domain that a file could not.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from domains.control.description import MAX_NAME, DomainConfig, Vif
from domains.control.domain_operations import Created
from domains.control.snapshot_operations import (
    Fork,
    SnapshotDelete,
    SnapshotInfo,
    SnapshotList,
    TakeSnapshot,
)
from domains.dom0.toolstack.domains import Record
from domains.dom0.toolstack.errors import ToolstackError
from domains.dom0.toolstack.host_thread import host_thread
from domains.dom0.toolstack.parts import Parts
from domains.dom0.toolstack.restoring.restore import Restoring
from domains.dom0.toolstack.saving.save import Saving, being_saved, write_contents
from domains.dom0.toolstack.snapshots import disks
from domains.dom0.toolstack.snapshots.disks import KeptDisk
from domains.dom0.toolstack.snapshots.kept import Kept
from domains.dom0.toolstack.snapshots.owners import Owners
from domains.dom0.toolstack.stream.framing import Counted, RecordWriter
from domains.dom0.toolstack.xenctrl import DomainInfo
from domains.kernel.tasks import Task
from drivers.block.overlay import Overlays
from hypervisor.public.errno import XenError
from hypervisor.public.sched import SHUTDOWN_suspend
from hypervisor.public.types import PAGE_SIZE

MOST: Final = 256
"""Snapshots of one machine: each holds some of Dom0's descriptors."""


@dataclass(eq=False)
class Snapshot:
    """`config`: how the domain was made. `complete`: forks may be made. `forks`: how many were; `under_way`: how many are being
    made just now; `number`: the last that was part of a name.
    """

    name: str
    config: DomainConfig
    kept: Kept
    disks: list[KeptDisk] = field(default_factory=list)
    complete: bool = False
    forks: int = 0
    under_way: int = 0
    number: int = 0
    deleted: bool = False

    def close_if_unused(self) -> None:
        """Nothing of it is left, once it is deleted and no fork needs it."""
        if self.deleted and not self.under_way:
            self.kept.close()
            for disk in self.disks:
                disk.close()
            self.disks.clear()

    def describe(self) -> SnapshotInfo:
        """What a list tells of it."""
        return SnapshotInfo(
            name=self.name,
            domain=self.config.name,
            memory_kib=self.config.memory * 1024,
            memory_bytes=self.kept.memory_bytes,
            file_bytes=self.kept.file_bytes,
            disk_bytes=sum(disk.size for disk in self.disks),
            forks=self.forks,
        )


class Snapshots:
    """One per toolstack."""

    def __init__(self, parts: Parts, saving: Saving, restoring: Restoring, overlays: Overlays) -> None:
        self._parts = parts
        self._saving = saving
        self._restoring = restoring
        self._overlays = overlays
        self._owners = Owners(parts.domains, parts.operations, overlays)
        self._snapshots: dict[str, Snapshot] = {}

    @property
    def memory_bytes(self) -> int:
        """What all of them take of the host's memory."""
        return sum(one.kept.memory_bytes for one in self._snapshots.values())

    def listed(self, _wanted: SnapshotList | None = None) -> tuple[SnapshotInfo, ...]:
        """Those that are complete."""
        return tuple(one.describe() for one in self._snapshots.values() if one.complete)

    def delete(self, wanted: SnapshotDelete) -> None:
        """ToolstackError: there is none of that name."""
        snapshot = self._find(wanted.snapshot)
        del self._snapshots[snapshot.name]
        snapshot.deleted = True
        snapshot.close_if_unused()

    def _find(self, name: str) -> Snapshot:
        snapshot = self._snapshots.get(name)
        if snapshot is None or not snapshot.complete:
            there = ", ".join(one.name for one in self._snapshots.values() if one.complete)
            raise ToolstackError(
                f"there is no snapshot '{name}'; "
                + (f"there is {there}" if there else "'xenctl snapshot DOMAIN NAME' makes one")
            )
        return snapshot

    # --- taking one --------------------------------------------------------------------------------

    def take(self, wanted: TakeSnapshot) -> Task[SnapshotInfo]:
        """ToolstackError, and then nothing is kept, and the domain goes on."""
        if wanted.name in self._snapshots:
            raise ToolstackError(f"there is a snapshot '{wanted.name}' already; choose another name")
        if len(self._snapshots) >= MOST:
            raise ToolstackError(f"there are {MOST} snapshots; delete one ('xenctl snapshot-delete')")
        record, info = self._saving.savable(wanted.domain, stays_here=True)
        disks.check(record.config)
        kept = Kept(self._parts.kernel, wanted.folder, self._room)
        snapshot = self._snapshots[wanted.name] = Snapshot(wanted.name, record.config, kept)
        try:
            with being_saved(record):
                if record.shutdown != SHUTDOWN_suspend:
                    yield from self._parts.suspending.suspend(record, wanted.timeout)
                try:
                    yield from self._keep(record, info, snapshot, wanted.folder)
                finally:
                    self._parts.suspending.resume_if_there(record)
            snapshot.complete = True
        finally:
            if not snapshot.complete:
                del self._snapshots[wanted.name]
                snapshot.deleted = True
                snapshot.close_if_unused()
        return snapshot.describe()

    def _room(self) -> int:
        """How many more bytes of the host's memory snapshots may take: all of them as much as the machine has."""
        return self._parts.xen.physinfo().total_pages * PAGE_SIZE - self.memory_bytes

    def _keep(self, record: Record, info: DomainInfo, snapshot: Snapshot, folder: str | None) -> Task[None]:
        """All of a domain that is suspended."""
        xen, kept = self._parts.xen, snapshot.kept
        try:
            xen.pausedomain(info.domid)
            try:
                yield from kept.open()
                yield from write_contents(self._parts, info, RecordWriter(kept, sparse=True))
                kept.finish()
                with host_thread(self._parts.kernel) as thread:
                    for disk in record.config.disks:
                        snapshot.disks.append((yield from disks.keep(thread, self._overlays, disk, folder)))
            finally:
                with suppress(XenError):  # it is gone
                    xen.unpausedomain(info.domid)
        except XenError as error:
            raise ToolstackError(
                f"domain {info.domid} could not be kept, for it ended meanwhile: {error}"
            ) from None

    # --- forks -------------------------------------------------------------------------------------

    def fork(self, wanted: Fork) -> Task[Created]:
        """ToolstackError, and then nothing is there that was not there before."""
        snapshot = self._find(wanted.snapshot)
        numbers: list[int] = []
        snapshot.under_way += 1
        try:
            config = self._described(snapshot, wanted, numbers)
            with snapshot.kept.source() as source:
                record = yield from self._restoring.make(Counted(source), config, paused=wanted.paused)
        except BaseException:
            for number in numbers:
                self._overlays.close(number)
            raise
        finally:
            snapshot.under_way -= 1
            snapshot.close_if_unused()
        snapshot.forks += 1
        self._owners.give(record, numbers)
        return Created(record.domid, record.config.name, record.warnings)

    def _described(self, snapshot: Snapshot, wanted: Fork, numbers: list[int]) -> DomainConfig:
        """What tells a fork from the original: its name, its id, its addresses, its disks."""
        config = snapshot.config
        vifs = self._interfaces(snapshot, wanted)
        name = wanted.name or self._free_name(snapshot)
        of_fork = tuple(disks.for_fork(disk, self._overlays, numbers) for disk in snapshot.disks)
        return config.replaced(name=name, uuid=None, vifs=vifs, disks=of_fork, mark=wanted.mark)

    def _interfaces(self, snapshot: Snapshot, wanted: Fork) -> tuple[Vif, ...]:
        old = snapshot.config.vifs
        if wanted.vifs is not None:
            if len(wanted.vifs) != len(old):
                raise ToolstackError(
                    f"the domain of snapshot '{snapshot.name}' has {len(old)} interfaces, and its fork is described with"
                    f" {len(wanted.vifs)}: there must be as many"
                )
            new = map(self._parts.backends.resolved_vif, wanted.vifs)
            return tuple(vif.replaced(devid=before.devid) for vif, before in zip(new, old, strict=True))
        return old if wanted.keep_macs else tuple(vif.replaced(mac=None) for vif in old)

    def _free_name(self, snapshot: Snapshot) -> str:
        there = {record.config.name for record in self._parts.domains.records.values()}
        while True:
            snapshot.number += 1
            name = f"{snapshot.name[: MAX_NAME - 12]}-{snapshot.number}"
            if name not in there:
                return name

    def perform(self, wanted: Any) -> Any:
        """What the operation answers. Raises ToolstackError."""
        return self.HANDLERS[type(wanted)](self, wanted)

    HANDLERS: Final[dict[type[Any], Callable[[Any, Any], Any]]] = {
        TakeSnapshot: take,
        Fork: fork,
        SnapshotList: listed,
        SnapshotDelete: delete,
    }
    """What performs each operation."""
