"""Which domain's back ends serve a domain's devices: Dom0's, or those of a driver domain (`backend=` in a disk or vif).

A driver domain is known by its name, for its id changes when it is made again. A device is plugged in while its driver domain
is there:

    the domain is made         both ends' directories, in the driver domain's part of the store
    the driver domain ends     the front end's directory goes, with the back end's
    it is there again          both are made anew, towards its new id: the front end starts from Initialising

Whoever makes and destroys domains says so here (making.py); nothing is polled. A domain may have thousands of devices: it
is the others' turn after each one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final, NamedTuple, Protocol

from domains.control.description import Disk, DomainConfig, Vif, numbered
from domains.dom0.toolstack import devices
from domains.dom0.toolstack.domains import Domains, Record
from domains.dom0.toolstack.errors import ToolstackError
from domains.dom0.toolstack.operations import Operation, Operations
from domains.dom0.toolstack.store_tree import home
from domains.kernel.store_calls import StoreCalls
from domains.kernel.tasks import NEXT_TURN, Task
from domains.kernel.xenbus import Xenbus
from hypervisor.public.io.xenbus import XenbusStateConnected
from hypervisor.public.types import DomId

NOTICE: Final = 10.0
"""Seconds a front end gets to notice that its device was plugged in, or was unplugged."""


class Add(Protocol):
    """Announce one device, in a transaction, to back ends in domain `backend`."""

    def __call__(self, nodes: StoreCalls, *, backend: DomId) -> None: ...


class Wanted(NamedTuple):
    """A device that a description names. `driver`: the name of its driver domain; None: Dom0 serves it."""

    driver: str | None
    kind: str
    devid: int
    add: Add


class Backends:
    """One per Dom0."""

    def __init__(
        self, xenbus: Xenbus, domains: Domains, operations: Operations, notice: float = NOTICE
    ) -> None:
        self._xenbus = xenbus
        self._domains = domains
        self._operations = operations
        self._notice = notice
        self._watches: dict[DomId, str] = {}

    def resolved(self, config: DomainConfig) -> DomainConfig:
        """The description with every driver domain by its name. ToolstackError: one is none, or is not there."""
        disks, vifs = map(self.resolved_disk, config.disks), map(self.resolved_vif, config.vifs)
        return config.replaced(disks=tuple(disks), vifs=tuple(vifs))

    def resolved_disk(self, disk: Disk) -> Disk:
        """The disk with its driver domain by name. Raises ToolstackError."""
        return disk if disk.backend is None else disk.replaced(backend=self._name("disk", disk.backend))

    def resolved_vif(self, vif: Vif) -> Vif:
        """The interface with its driver domain by name. Raises ToolstackError."""
        return vif if vif.backend is None else vif.replaced(backend=self._name("vif", vif.backend))

    def plug(self, record: Record) -> Task[list[str]]:
        """Announce a new domain's devices; the back ends' directories. Devices whose driver domain is away come when it
        does.
        """
        paths: list[str] = []
        for device in wanted(record):
            if (path := self.announce(record, device)) is not None:
                paths.append(path)
                yield NEXT_TURN
        return paths

    def announce(self, record: Record, device: Wanted) -> str | None:
        """Announce one device; its back end's directory. None: its driver domain is away, and it comes when that does."""
        backend = DomId(0) if device.driver is None else self._domid(device.driver)
        return self._add(record, device, backend) if backend is not None else None

    def unplug(self, domid: DomId) -> Task[None]:
        """All devices of a domain that is gone."""
        return self._remove(domid)

    def started(self, driver: Record) -> None:
        """A domain was made: if it is a driver domain, the devices that it is to serve are plugged in."""
        if not driver.config.driver_domain:
            return
        watch = self._xenbus.watch(f"{home(driver.domid)}/backend", self._domains.device_changed)
        self._watches[driver.domid] = watch
        for record in list(self._domains.records.values()):
            served = [device for device in wanted(record) if device.driver == driver.config.name]
            if served and not record.destroying:
                self._operations.start(self._replug(record, driver, served), lambda _: None, self._failed)

    def ended(self, driver: DomId) -> Task[None]:
        """A domain is gone from the store: what it served is gone, too."""
        token = self._watches.pop(driver, None)
        if token is None:
            return
        self._xenbus.unwatch(token)
        for domid in list(self._domains.records):
            yield from self._remove(domid, driver)

    def _failed(self, error: Exception) -> None:
        print(f"toolstack: plugging in again: {error}")

    def _replug(self, guest: Record, driver: Record, served: Sequence[Wanted]) -> Operation:
        """Plug devices in again, until their front ends have noticed.

        A front end may be so slow that it sees the new nodes before it has missed the old ones, or is leaving the old
        back end still and closes the new one; Debian's Linux then never connects. Such nodes go once more, for as
        long as it may take to notice that.
        """

        def over() -> bool:
            records = self._domains.records
            alive = driver.shutdown is None and not driver.destroying and not guest.destroying
            return not alive or guest.domid not in records or driver.domid not in records

        for last in (False, False, True):
            unconnected: list[str] = []
            for device in served:
                if over():
                    return
                unconnected.append(self._add(guest, device, driver.domid))
                yield NEXT_TURN

            def settled(unconnected: list[str] = unconnected) -> bool:
                return over() or self._connected(unconnected)

            if last or (yield from self._within(guest, driver, settled)) or over():
                return
            yield from self._remove(guest.domid, driver.domid)
            if (yield from self._within(guest, driver, over)):
                return

    def _connected(self, back_ends: list[str]) -> bool:
        """Strike those off that are connected; whether none is left."""
        while back_ends and devices.state(self._xenbus, back_ends[-1]) == XenbusStateConnected:
            back_ends.pop()
        return not back_ends

    def _within(self, guest: Record, driver: Record, condition: Callable[[], bool]) -> Task[bool]:
        """Whether `condition`, which depends on these two, comes true in the time that a front end gets."""
        changed = [self._domains.changed(record.domid) for record in (guest, driver)]
        return self._operations.kernel.until(condition, *changed, timeout=self._notice)

    def _add(self, record: Record, device: Wanted, backend: DomId) -> str:
        """Announce one device; the back end's directory."""
        self._xenbus.in_transaction(lambda nodes: device.add(nodes, backend=backend))
        return devices.back_path(backend, record.domid, device.kind, device.devid)

    def _remove(self, domid: DomId, backend: DomId | None = None) -> Task[None]:
        for note in devices.notes(self._xenbus, domid):
            self._xenbus.in_transaction(partial(devices.remove_device, note=note, backend=backend))
            yield NEXT_TURN

    def _domid(self, name: str) -> DomId | None:
        """The driver domain of that name, if it is there."""
        for record in self._domains.records.values():
            config = record.config
            there = record.shutdown is None and not record.destroying
            if there and config.driver_domain and config.name == name:
                return record.domid
        return None

    def _name(self, device: str, backend: str) -> str:
        """The name of the driver domain `backend`. ToolstackError: it is none, or is not there."""
        try:
            info = self._domains.find(backend)
        except ToolstackError as error:
            raise ToolstackError(f"{device} with backend={backend}: {error}", error.code) from None
        record = self._domains.records.get(info.domid)
        if record is None or not record.config.driver_domain:
            raise ToolstackError(
                f"{device} with backend={backend}: that is no driver domain; its description needs driver_domain=1"
            )
        return record.config.name


def wanted(record: Record) -> Iterator[Wanted]:
    """The devices of a domain."""
    config, domid = record.config, record.domid
    for disk in config.disks:
        yield wanted_disk(domid, disk, lock_late=record.arrives)
    for devid, vif in numbered(config.vifs):
        yield wanted_vif(domid, devid, vif)


def wanted_disk(domid: DomId, disk: Disk, *, lock_late: bool = False) -> Wanted:
    """A disk of that domain; `lock_late`: see devices.add_disk."""
    add = partial(devices.add_disk, domid=domid, disk=disk, lock_late=lock_late)
    return Wanted(disk.backend, "vbd", disk.devid, add)


def wanted_vif(domid: DomId, devid: int, vif: Vif) -> Wanted:
    """An interface of that domain, whose MAC address is chosen."""
    return Wanted(vif.backend, "vif", devid, partial(devices.add_vif, domid=domid, devid=devid, vif=vif))
