"""What is done with a domain that leaves: what is said of it, how its memory goes over, and how it goes on if it stays.

    all its pages ─► those that changed meanwhile ─► … ─► few are left, or enough rounds ─► suspended
    ─► the last ones, page tables, registers

Page tables are sent last, for they change under one's hands, and are few. Sources: Clark et al., NSDI 2005; Xen
tools/libs/guest/xg_sr_save.c (send_domain_memory_live).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Final

import numpy as np

from domains.control.description import DomainConfig
from domains.control.migration_operations import Migrate, Round
from domains.dom0.toolstack import store_tree
from domains.dom0.toolstack.domain_pages import Words
from domains.dom0.toolstack.domains import Record
from domains.dom0.toolstack.errors import ToolstackError
from domains.dom0.toolstack.lifecycle import Lifecycle
from domains.dom0.toolstack.migrating.connection import Connection
from domains.dom0.toolstack.migrating.cpu import cpu_digest
from domains.dom0.toolstack.migrating.disks import CopiedDisks
from domains.dom0.toolstack.migrating.ends import ConnectionSink
from domains.dom0.toolstack.migrating.held_pages import AT_ONCE, HeldPages
from domains.dom0.toolstack.migrating.offer import VERSION, DiskOffer, Offer
from domains.dom0.toolstack.migrating.rounds import SentPages, is_enough
from domains.dom0.toolstack.parts import Parts
from domains.dom0.toolstack.saving.pv_memory import PvMemory
from domains.dom0.toolstack.saving.save import Saver, saver_of
from domains.dom0.toolstack.stream import libxl
from domains.dom0.toolstack.stream.framing import RecordWriter
from domains.dom0.toolstack.stream.libxl import LibxlRecord
from domains.dom0.toolstack.traffic import Devices
from domains.dom0.toolstack.xenctrl import DomainInfo
from domains.kernel.tasks import NEXT_TURN, Task
from hypervisor.public.errno import XenError

SUSPEND_SECONDS: Final = 60.0
"""In which a guest must have suspended; libxl's."""
ARRIVAL_SECONDS: Final = 5.0
"""In which a guest that has arrived a moment ago must have told its new frames."""
DISK_SECONDS: Final = 30.0
DISK_LOOK: Final = 0.005
"""Seconds between two looks whether the disks are at rest."""
AWAY: Final = "--migratedaway"
"""Behind the name of a domain that was given up here and is not yet known to run there; xl's."""

Tell = Callable[[Round], None]


class LeavingDomain:
    """One of them."""

    def __init__(
        self,
        parts: Parts,
        lifecycle: Lifecycle,
        devices: Devices,
        record: Record,
        info: DomainInfo,
        wanted: Migrate,
    ) -> None:
        self._parts = parts
        self._devices = devices
        self._kernel = parts.kernel
        self._lifecycle = lifecycle
        self._record = record
        self._info = info
        self._wanted = wanted
        self._name = record.config.name
        self._held = HeldPages(parts.kernel, info.domid)
        self._sent = SentPages()
        self._stood_since: int | None = None
        self._saver: Saver
        self._sink: ConnectionSink
        self._disks: CopiedDisks | None = None

    # --- what is said of it ------------------------------------------------------------------------

    def offer(self, migration: str) -> Task[Offer]:
        """See Leaving."""
        config = self._record.config.replaced(uuid=self._record.uuid)
        disks = tuple(self._disk_offers(config))
        if self._wanted.copy_disks:
            self._disks = CopiedDisks(self._kernel, disks)
        yield NEXT_TURN
        return Offer(VERSION, migration, config, self._info.tot_pages, cpu_digest(self._parts), disks)

    def _disk_offers(self, config: DomainConfig) -> list[DiskOffer]:
        offers = []
        for disk in config.disks:
            if disk.format != "raw":
                raise ToolstackError(
                    f"disk {disk.vdev} is a {disk.format} image, which qemu-nbd keeps open; only raw images move with a domain"
                )
            try:
                status = os.stat(disk.target)
                with open(disk.target, "rb") as image:
                    size = image.seek(0, os.SEEK_END)
            except OSError as error:
                raise ToolstackError(f"disk {disk.vdev}: {disk.target}: {error.strerror}") from None
            copied = self._wanted.copy_disks
            if copied and not stat.S_ISREG(status.st_mode):
                raise ToolstackError(f"disk {disk.vdev}: {disk.target} is no file, and cannot be copied")
            if copied and disk.backend is not None:
                raise ToolstackError(
                    f"disk {disk.vdev} is served by the driver domain {disk.backend}, and cannot be copied"
                )
            offers.append(DiskOffer(disk.devid, disk.target, size, copied))
        return offers

    # --- how it goes over --------------------------------------------------------------------------

    def send(self, connection: Connection, heard: Callable[[], None], tell: Tell) -> Task[None]:
        """See Leaving."""
        self._sink = sink = ConnectionSink(self._kernel, connection, heard, self._wanted.bandwidth)
        writer = RecordWriter(sink)
        if self._disks is not None:
            yield from self._disks.send(sink)
        yield from writer.raw(libxl.header())
        yield from writer.write(LibxlRecord.LIBXC_CONTEXT)
        self._saver = saver_of(self._parts, self._info, writer)
        yield from self._saver.begin(ARRIVAL_SECONDS)
        if self._wanted.rounds:
            yield from self._precopy(tell)
        yield from self._parts.suspending.suspend(self._record, SUSPEND_SECONDS)
        self._stood_since = self._kernel.now()
        self._parts.xen.pausedomain(self._info.domid)
        yield from self._rest(tell)
        yield from self._saver.finish()
        yield from writer.write(LibxlRecord.END)
        if self._disks is not None:
            yield from self._written()
            yield from self._disks.send_rest(sink)

    def _written(self) -> Task[None]:
        """Wait until its disks' back ends have done what it asked for before it stood still. ToolstackError."""
        for _ in range(round(DISK_SECONDS / DISK_LOOK)):
            if self._devices.disks_idle(self._info.domid):
                return
            yield from self._kernel.rest(DISK_LOOK)
        raise ToolstackError(f"the disks of domain {self._name} do not come to rest")

    def _precopy(self, tell: Tell) -> Task[None]:
        number, dirty = 0, self._saver.memory.ordinary
        while True:
            number += 1
            yield from self._round(number, dirty, tell)
            if number >= self._wanted.rounds:
                return
            yield from self._look()
            dirty = yield from self._changed()
            if is_enough(number, self._wanted.rounds, len(dirty)):
                return

    def _rest(self, tell: Tell) -> Task[None]:
        """What is left of a domain that stands still."""
        yield from self._look()
        dirty = yield from self._changed()
        yield from self._round(None, np.concatenate((dirty, self._saver.memory.tables)), tell)

    def _look(self) -> Task[None]:
        """Find out anew what pages it has. ToolstackError: some that were sent it has no more."""
        yield from self._saver.look()
        memory = self._saver.memory
        gone = self._sent.keep_only(np.concatenate((memory.ordinary, memory.tables)))
        if gone and not self._info.translated:  # of a PVH domain the stream says which
            raise ToolstackError(f"domain {self._name} gave memory back while it migrated; try again")

    def _round(self, number: int | None, pfns: Words, tell: Tell) -> Task[None]:
        began, size = self._kernel.now(), self._sink.size
        memory = self._saver.memory
        if number == 1 and isinstance(memory, PvMemory):
            for run, part in runs(pfns):
                frames = memory.p2m[part]
                yield from self._saver.pages(
                    part, self._sent.note, partial(self._held.read, run, frames, frames)
                )
        else:
            for first in range(0, len(pfns), AT_ONCE):
                yield from self._saver.pages(pfns[first : first + AT_ONCE], self._sent.note)
        tell(Round(number, len(pfns), self._sink.size - size, (self._kernel.now() - began) / 1e9))

    def _changed(self) -> Task[Words]:
        """Those of its pages, but for page tables, that are not as they were sent."""
        memory, found = self._saver.memory, [np.empty(0, np.uint64)]
        if not self._wanted.rounds:
            return memory.ordinary
        for number, pfns in runs(memory.ordinary):
            found.append(self._changed_of(number, pfns))
            yield NEXT_TURN
        return np.concatenate(found)

    def _changed_of(self, number: int, pfns: Words) -> Words:
        """The same of one run of them. All, if a PVH domain has given some away since it was looked at, as the saver sees."""
        memory = self._saver.memory
        pv = isinstance(memory, PvMemory)
        where = memory.p2m[pfns] if isinstance(memory, PvMemory) else memory.places[pfns]
        try:
            return self._sent.changed(pfns, self._held.hashes(number, where if pv else pfns, where))
        except XenError:
            if pv:
                raise
            return pfns

    def stood_since(self) -> int | None:
        """See Leaving."""
        return self._stood_since

    # --- how it ends -------------------------------------------------------------------------------

    def resume(self) -> None:
        """See Leaving."""
        if self._stood_since is not None:
            self._stood_since = None
            with suppress(XenError):  # it is gone
                self._parts.xen.unpausedomain(self._info.domid)
        self._parts.suspending.resume_if_there(self._record)

    def rename(self, *, away: bool) -> None:
        """See Leaving."""
        name = self._name + AWAY if away else self._name
        if self._record.config.name != name and not self._record.destroying:
            self._kernel.xenbus.in_transaction(
                lambda nodes: store_tree.rename(nodes, self._record.domid, name)
            )
            self._record.config = self._record.config.replaced(name=name)

    def destroy(self) -> Task[None]:
        """See Leaving."""
        if not self._record.destroying:
            yield from self._lifecycle.destroy(self._record.domid, "migrated")

    def let_go(self) -> None:
        """It is being destroyed: let go of its memory."""
        self._held.end()

    def close(self) -> None:
        """Let go of everything."""
        self._held.end()
        if self._disks is not None:
            self._disks.close()


def runs(pfns: Words) -> Iterator[tuple[int, Words]]:
    """Pages, from the lowest number up, in runs: the number of each run, and which of its AT_ONCE pages there are."""
    ends = np.searchsorted(pfns, np.arange(AT_ONCE, int(pfns.max(initial=0)) + AT_ONCE + 1, AT_ONCE))
    first = 0
    for number, end in enumerate(ends.tolist()):
        if end > first:
            yield number, pfns[first:end]
        first = end
