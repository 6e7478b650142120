"""Which domain's back ends serve a domain's devices: Dom0's, or those of a driver domain (`backend=` in a disk or vif).

A driver domain is known by its name, for its id changes when it is made again. A device is plugged in while its driver domain
is there:

    the domain is made         both ends' directories, in the driver domain's part of the store
    the driver domain ends     the front end's directory goes, with the back end's
    it is there again          both are made anew, towards its new id: the front end starts from Initialising

Whoever makes and destroys domains says so here (lifecycle.py); nothing is polled.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from functools import partial
from typing import Final, Protocol

from domains.control.description import DomainConfig
from domains.dom0.toolstack import devices
from domains.dom0.toolstack.domains import Domains, Record
from domains.dom0.toolstack.errors import ToolstackError
from domains.dom0.toolstack.operations import Operation, Operations, Until
from domains.dom0.toolstack.store_tree import home
from domains.kernel.store_calls import StoreCalls
from domains.kernel.xenbus import Xenbus
from hypervisor.public.io.xenbus import XenbusStateConnected
from hypervisor.public.types import DomId

NOTICE: Final = 10.0
"""Seconds a front end gets to notice that its device was plugged in, or was unplugged."""


class Add(Protocol):
    """Announce one device, in a transaction, to back ends in domain `backend`."""

    def __call__(self, nodes: StoreCalls, *, backend: DomId) -> None: ...


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
        disks = [replace(disk, backend=self._name("disk", disk.backend)) for disk in config.disks]
        vifs = [replace(vif, backend=self._name("vif", vif.backend)) for vif in config.vifs]
        return replace(config, disks=tuple(disks), vifs=tuple(vifs))

    def plug(self, record: Record) -> None:
        """Announce a new domain's devices; those whose driver domain is away come when it does."""
        for name, add in wanted(record):
            self._plug(name, add)

    def unplug(self, domid: DomId) -> None:
        """All devices of a domain that is gone."""
        self._remove(domid)

    def started(self, driver: Record) -> None:
        """A domain was made: if it is a driver domain, the devices that it is to serve are plugged in."""
        if not driver.config.driver_domain:
            return
        watch = self._xenbus.watch(f"{home(driver.domid)}/backend", lambda _path: self._operations.poke())
        self._watches[driver.domid] = watch
        for record in list(self._domains.records.values()):
            adds = [add for name, add in wanted(record) if name == driver.config.name]
            if adds and not record.destroying:
                self._operations.start(self._replug(record, driver, adds), lambda _: None, self._failed)

    def ended(self, driver: DomId) -> None:
        """A domain is gone from the store: what it served is gone, too."""
        token = self._watches.pop(driver, None)
        if token is None:
            return
        self._xenbus.unwatch(token)
        for domid in list(self._domains.records):
            self._remove(domid, driver)

    def _failed(self, error: Exception) -> None:
        print(f"toolstack: plugging in again: {error}")

    def _replug(self, guest: Record, driver: Record, adds: list[Add]) -> Operation:
        """Plug devices in again, until their front ends have noticed.

        A front end may be so slow that it sees the new nodes before it has missed the old ones, or is leaving the old
        back end still and closes the new one; Debian's Linux then never connects. Such nodes go once more, for as
        long as it may take to notice that.
        """

        def over() -> bool:
            records = self._domains.records
            alive = driver.shutdown is None and not driver.destroying and not guest.destroying
            return not alive or guest.domid not in records or driver.domid not in records

        def connected() -> bool:
            serves = [
                path for path in self._back_ends(guest.domid) if path.startswith(f"{home(driver.domid)}/")
            ]
            return all(devices.state(self._xenbus, path) == XenbusStateConnected for path in serves)

        for last in (False, False, True):
            for add in adds:
                self._add(add, driver.domid)
            if last or (yield from within(self._notice, lambda: over() or connected())) or over():
                return
            self._remove(guest.domid, driver.domid)
            if (yield from within(self._notice, over)):
                return

    def _plug(self, name: str | None, add: Add) -> None:
        backend = DomId(0) if name is None else self._domid(name)
        if backend is not None:
            self._add(add, backend)

    def _add(self, add: Add, backend: DomId) -> None:
        self._xenbus.in_transaction(lambda nodes: add(nodes, backend=backend))

    def _remove(self, domid: DomId, backend: DomId | None = None) -> None:
        self._xenbus.in_transaction(lambda nodes: devices.remove_devices(nodes, domid, backend))

    def _back_ends(self, domid: DomId) -> list[str]:
        return list(devices.back_ends(self._xenbus, domid).values())

    def _domid(self, name: str) -> DomId | None:
        """The driver domain of that name, if it is there."""
        for record in self._domains.records.values():
            config = record.config
            there = record.shutdown is None and not record.destroying
            if there and config.driver_domain and config.name == name:
                return record.domid
        return None

    def _name(self, device: str, backend: str | None) -> str | None:
        if backend is None:
            return None
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


def within(seconds: float, condition: Callable[[], bool]) -> Generator[Until, None, bool]:
    """Wait until `condition`; False if it does not come true in that time."""
    try:
        yield Until(condition, "the condition did not come true", seconds)
    except ToolstackError:
        return False
    return True


def wanted(record: Record) -> Iterator[tuple[str | None, Add]]:
    """The devices of a domain: the name of the driver domain (None: Dom0), and how to announce each."""
    config, domid = record.config, record.domid
    for disk in config.disks:
        yield disk.backend, partial(devices.add_disk, domid=domid, disk=disk)
    for devid, vif in enumerate(config.vifs):
        yield vif.backend, partial(devices.add_vif, domid=domid, devid=devid, vif=vif)
