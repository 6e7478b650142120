"""What is done with a domain that comes: whether it can be taken, how it is made, and how it begins to run under its name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from domains.control.description import MAX_NAME, DomainConfig
from domains.dom0.toolstack import store_tree
from domains.dom0.toolstack.domains import Record
from domains.dom0.toolstack.errors import ToolstackError
from domains.dom0.toolstack.lifecycle import Lifecycle
from domains.dom0.toolstack.migrating.connection import Connection
from domains.dom0.toolstack.migrating.cpu import cpu_digest
from domains.dom0.toolstack.migrating.disks import DiskCopies, images_folder
from domains.dom0.toolstack.migrating.ends import ConnectionSource
from domains.dom0.toolstack.migrating.offer import Offer
from domains.dom0.toolstack.parts import Parts
from domains.dom0.toolstack.restoring.restore import Restoring
from domains.dom0.toolstack.stream.framing import Counted
from domains.kernel.tasks import NEXT_TURN, Task
from hypervisor.public.types import PAGES_PER_MIB

INCOMING: Final = "--incoming"
"""Behind the name of a domain that is here and may not run yet; xl's."""
SPARE_FRAMES: Final = 64
"""That a domain takes besides its memory."""


class ComingDomain:
    """One of them. `machine`: this machine's name."""

    def __init__(self, parts: Parts, lifecycle: Lifecycle, restoring: Restoring, machine: str) -> None:
        self._parts = parts
        self._lifecycle = lifecycle
        self._restoring = restoring
        self._images: Path = images_folder(machine)
        self._copies: DiskCopies | None = None
        self._reserved = ""

    # --- whether -----------------------------------------------------------------------------------

    def check(self, offer: Offer) -> Task[tuple[str, ...]]:
        """See Coming."""
        parts, config = self._parts, offer.config
        if parts.kernel.repeats:
            raise ToolstackError("it repeats itself (--seed), and takes nothing from other machines")
        if offer.cpu != cpu_digest(parts):
            raise ToolstackError("its CPU is another one than that which the guest runs on")
        parts.domains.check_name_free(config.name)
        for record in parts.domains.records.values():
            if record.uuid == config.uuid:
                raise ToolstackError(f"its domain '{record.config.name}' has the UUID {config.uuid}, too")
        free = parts.xen.physinfo().free_pages
        wanted = max(offer.pages, config.populated_mib * PAGES_PER_MIB)
        if wanted + SPARE_FRAMES > free:
            raise ToolstackError(
                f"it has {free // PAGES_PER_MIB} MiB free, and domain {config.name} needs {-(-wanted // PAGES_PER_MIB)}"
            )
        parts.backends.resolved(config)
        parts.scheduling.pool_of(config)
        yield NEXT_TURN
        self._check_disks(offer)
        self._reserve(config.name)
        return tuple(self._warnings(config))

    def _check_disks(self, offer: Offer) -> None:
        offered = {disk.devid: disk for disk in offer.disks}
        for disk in offer.config.disks:
            told = offered.get(disk.devid)
            if told is None or told.path != disk.target:
                raise ToolstackError(f"disk {disk.vdev} is not in the offer")
            if told.copied or disk.backend is not None:
                continue
            try:
                with open(disk.target, "rb") as image:
                    size = image.seek(0, os.SEEK_END)
            except OSError as error:
                raise ToolstackError(
                    f"disk {disk.vdev}: {disk.target}: {error.strerror} there; share it with that machine, or give"
                    " --copy-disks"
                ) from None
            if size != told.size:
                raise ToolstackError(
                    f"disk {disk.vdev}: {disk.target} has {size} bytes there, and {told.size} here: it is another image"
                )

    def _warnings(self, config: DomainConfig) -> list[str]:
        files = [path for path in (config.kernel, config.ramdisk) if path and path.startswith("/")]
        return [
            f"{path} is not there: domain {config.name} cannot restart on that machine"
            for path in files
            if not os.path.isfile(path)
        ]

    def _reserve(self, name: str) -> None:
        self._parts.domains.reserved.add(name)
        self._reserved = name

    def release(self, offer: Offer) -> None:
        """See Coming."""
        if self._reserved:
            self._parts.domains.reserved.discard(self._reserved)
            self._reserved = ""
        if self._copies is not None:
            self._copies.close()
            self._copies = None

    # --- how ---------------------------------------------------------------------------------------

    def restore(self, offer: Offer, connection: Connection) -> Task[Record]:
        """See Coming."""
        source = ConnectionSource(connection)
        config = offer.config.replaced(name=offer.config.name[: MAX_NAME - len(INCOMING)] + INCOMING)
        if any(disk.copied for disk in offer.disks):
            copies = self._copies = DiskCopies(self._parts.kernel, self._images / offer.id, offer.disks)
            yield from copies.make()
            yield from copies.receive(source)
            config = config.replaced(disks=self._copied(offer, copies))
        record: Record = yield from self._restoring.make(Counted(source), config, paused=True, arrives=True)
        if self._copies is not None:
            try:
                yield from self._copies.receive(source)
            except BaseException:
                yield from self._lifecycle.destroy(record.domid, "it did not come whole")
                raise
        return record

    def _copied(self, offer: Offer, copies: DiskCopies) -> tuple:  # type: ignore[type-arg]
        offered = {disk.devid: disk for disk in offer.disks}
        return tuple(
            disk.replaced(target=str(copies.path_of(offered[disk.devid])))
            if offered[disk.devid].copied
            else disk
            for disk in offer.config.disks
        )

    def start(self, record: Record, offer: Offer) -> None:
        """See Coming."""
        name = offer.config.name
        self._parts.domains.reserved.discard(name)
        self._parts.kernel.xenbus.in_transaction(lambda nodes: store_tree.rename(nodes, record.domid, name))
        record.config = record.config.replaced(name=name)
        if self._copies is not None:
            self._copies.keep()
        if not offer.paused:
            self._parts.xen.unpausedomain(record.domid)

    def take_apart(self, record: Record, offer: Offer) -> Task[None]:
        """See Coming."""
        if not record.destroying:
            yield from self._lifecycle.destroy(record.domid, "it does not come")
