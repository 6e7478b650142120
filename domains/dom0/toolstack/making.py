"""Making a domain and taking it away.

    create: files read ─► memory there? ─► created ─► furnished ─► devices ready ─► unpaused
                                              │ any failure, or destroyed meanwhile
    destroy: paused ─► devices gone ─► destroyed ─► out of the store and the records ─► its id is free

Creation is everything or nothing: what is refused half-way is taken back as `destroy` would, and the reason
reported. Both are tasks: it is everybody else's turn every few milliseconds, so a domain may be destroyed while it is
being made.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from random import Random
from typing import Final, TypeVar
from uuid import UUID

from domains.control.description import DomainConfig, GuestType, numbered
from domains.control.protocol import Exit
from domains.dom0.toolstack import devices, store_tree
from domains.dom0.toolstack.builder.build import Builder, prepare
from domains.dom0.toolstack.builder.rings import Built
from domains.dom0.toolstack.domains import Record
from domains.dom0.toolstack.errors import ToolstackError
from domains.dom0.toolstack.operations import Operation
from domains.dom0.toolstack.parts import Parts
from domains.kernel.tasks import NEXT_TURN, Task
from hypervisor.public.errno import XenError
from hypervisor.public.types import PAGES_PER_MIB, DomId

T = TypeVar("T")

Fill = Callable[[DomId, DomainConfig], Task[Built]]
"""Gives a new domain, which has nothing yet, its memory and its vCPUs' registers. ToolstackError, XenError."""

DEVICE_TIMEOUT: Final = 10.0
"""Seconds a back end may take to get ready; libxl's hotplug time-out."""
DESTROY_TIMEOUT: Final = 10.0
"""Seconds until the last frame of a destroyed domain is back."""
DEFAULT_EVENT_PORTS: Final = 1023
"""Highest port of a domain, as libxl sets it."""
SECTOR_SIZE: Final = 512
BUILD_OVERHEAD: Final = 64
"""Frames that a domain takes besides its memory: shared info, grant table, descriptor tables."""


class Maker:
    """Makes domains and destroys them."""

    def __init__(self, parts: Parts, log: Callable[[str], None]) -> None:
        self._parts = parts
        self._kernel = parts.kernel
        self._xen = parts.xen
        self._domains = parts.domains
        self._log = log
        self._builder = Builder(parts.kernel, parts.xen)

    # --- creation --------------------------------------------------------------------------------

    def create(self, config: DomainConfig, built: Callable[[DomId], None], paused: bool) -> Operation:
        """Make a domain; its result is the Record. `built(domid)` is called before its first instruction.

        Raises ToolstackError, and then nothing of it is left.
        """
        return self.make(self._parts.backends.resolved(config), built, paused)

    def make(self, config: DomainConfig, built: Callable[[DomId], None], paused: bool) -> Operation:
        """The same, of a description whose driver domains are resolved: one that is made again."""
        self._domains.check_name_free(config.name)
        config = with_macs(config, self._parts.chance)
        prepared = yield from prepare(self._kernel, self._parts.unpacker, config)

        def fill(domid: DomId, config: DomainConfig) -> Task[Built]:
            return self._builder.build(domid, config, prepared)

        return (yield from self.make_of(config, fill, built, paused))

    def make_of(
        self, config: DomainConfig, fill: Fill, built: Callable[[DomId], None], paused: bool
    ) -> Operation:
        """The same of a domain whose memory and registers come by `fill`, and not from a kernel."""
        self._domains.check_name_free(config.name)
        self._check_memory(config)
        record = self._begin(config)
        domid, config = record.domid, record.config
        try:
            yield from while_wanted(record, self._complete(record, fill))
            built(domid)
            self._parts.backends.started(record)
            if not paused:
                self._xen.unpausedomain(domid)
        except (ToolstackError, XenError) as error:
            yield from self._gone(domid) if record.destroying else self.destroy(domid, "creation failed")
            raise explained(config, error) from None
        self._log(f"domain {domid} ({config.name}) created")
        for warning in record.warnings:
            self._log(warning)
        return record

    def _begin(self, config: DomainConfig) -> Record:
        """A domain without anything in it."""
        chance = self._parts.chance
        uuid = config.uuid or UUID(int=chance.getrandbits(128), version=4)
        config = config.replaced(uuid=uuid)
        try:
            domid = self._createdomain(config, uuid)
        except XenError as error:
            raise explained(config, error) from None
        record = self._domains.records[domid] = Record(domid, config, uuid, self._kernel.now())
        return record

    def _createdomain(self, config: DomainConfig, uuid: UUID) -> DomId:
        def limit(value: int | None) -> int:
            return -1 if value is None else value

        return self._xen.createdomain(
            uuid.bytes,
            config.maxvcpus,
            limit(config.max_grant_frames),
            limit(config.max_maptrack_frames),
            config.max_grant_version,
            config.max_event_channels or DEFAULT_EVENT_PORTS,
            python=config.python_guest is not None,
            hvm=config.type is GuestType.PVH,
            hap=config.hap,
            cpupool=self._parts.scheduling.pool_of(config),
        )

    def _complete(self, record: Record, fill: Fill) -> Task[None]:
        """Everything between an empty domain and one whose devices are ready."""
        domid, config, xenbus = record.domid, record.config, self._kernel.xenbus
        yield from store_tree.make_tree(xenbus, domid, record.uuid, config.name, self._kernel.wall_clock())
        built = yield from fill(domid, config)
        record.warnings = (*self._parts.scheduling.apply(domid, config), *cut_short(config))
        record.console = self._parts.consoled.connect(domid, built.console_mfn, built.console_port)
        yield NEXT_TURN
        yield from store_tree.publish(xenbus, domid, record.uuid, config, built)
        self._parts.xenstored.introduce(domid, built.store_mfn, built.store_port)
        for path in (yield from self._parts.backends.plug(record)):
            yield from self._device_ready(record, path)

    def _device_ready(self, record: Record, path: str) -> Task[None]:
        """Wait until the back end in directory `path` waits for its front end. ToolstackError: it refuses."""
        xenbus, domid = self._kernel.xenbus, record.domid
        yield from self._parts.operations.until(
            lambda: record.destroying or devices.ready(xenbus, path),
            self._domains.changed(domid),
            f"the devices of {record.config.name} did not get ready",
            DEVICE_TIMEOUT,
        )
        if why := devices.refusal(xenbus, path):
            raise ToolstackError(why)
        yield NEXT_TURN

    def _check_memory(self, config: DomainConfig) -> None:
        free = self._xen.physinfo().free_pages
        wanted = config.populated_mib + config.shadow_mib
        if wanted * PAGES_PER_MIB + BUILD_OVERHEAD > free:
            raise ToolstackError(
                f"domain {config.name} wants {wanted} MiB, but only {free // PAGES_PER_MIB} MiB are free;"
                " lower memory= (of a PVH domain, maxmem=) or start the machine with a larger --memory"
            )

    # --- destruction -----------------------------------------------------------------------------

    def destroy(self, domid: DomId, reason: str = "destroyed") -> Operation:
        """End a domain at once, whatever it is doing; nothing of it is left. Ends when its id is free."""
        record = self._domains.records.get(domid)
        if record is not None:
            record.destroying = True
            self._domains.tell(domid)
        self._domains.ends(domid)
        if not self._domains.gone(domid):
            self._xen.pausedomain(domid)
        self._parts.consoled.disconnect(domid, reason)
        yield from self._parts.backends.unplug(domid)
        if not self._domains.gone(domid):
            self._xen.destroydomain(domid)
        yield NEXT_TURN
        self._parts.xenstored.release(domid)
        self._kernel.xenbus.in_transaction(lambda nodes: store_tree.remove_tree(nodes, domid))
        self._domains.records.pop(domid, None)
        yield from self._parts.backends.ended(domid)
        yield from self._gone(domid)

    def _gone(self, domid: DomId) -> Task[None]:
        yield from self._parts.operations.until(
            lambda: self._domains.gone(domid),
            self._domains.changed(domid),
            f"domain {domid} did not end: somebody still uses its memory",
            DESTROY_TIMEOUT,
        )
        self._domains.forget(domid)


def cut_short(config: DomainConfig) -> Iterator[str]:
    """What to say of raw images that are no whole number of sectors: the guest sees the whole ones, as under Xen."""
    for disk in config.disks:
        with suppress(OSError):
            size = os.stat(disk.target).st_size
            if disk.format == "raw" and disk.backend is None and size % SECTOR_SIZE:
                yield f"disk {disk.vdev}: the last {size % SECTOR_SIZE} bytes of {disk.target} are no whole sector, and left out"


def while_wanted(record: Record, task: Task[T]) -> Task[T]:
    """Drive `task`, unless the domain is destroyed meanwhile: then a ToolstackError says so."""
    while True:
        try:
            pause = next(task)
        except StopIteration as end:
            result: T = end.value
            return result
        yield pause
        if record.destroying:
            task.close()
            raise ToolstackError(f"domain {record.config.name} was destroyed while it was made")


def explained(config: DomainConfig, error: ToolstackError | XenError) -> ToolstackError:
    """The error to report of a creation that failed."""
    if isinstance(error, ToolstackError):
        return error
    return ToolstackError(f"domain {config.name} could not be created: {error}", Exit.FAILURE)


def with_macs(config: DomainConfig, chance: Random) -> DomainConfig:
    """Every interface with a MAC address and a number: what is chosen here the domain keeps when it is made again, and when
    another of its interfaces is taken away.
    """
    return config.replaced(
        vifs=tuple(
            vif.replaced(mac=vif.mac or devices.random_mac(chance), devid=devid)
            for devid, vif in numbered(config.vifs)
        )
    )
