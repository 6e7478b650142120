"""Which domain's back ends serve a domain's devices: Dom0's, or those of a driver domain (`backend=` in a disk or vif).

A driver domain is known by its name, for its id changes when it is made again. A device is plugged in while its driver domain
is there:

    the domain is made         both ends' directories, in the driver domain's part of the store
    the driver domain ends     the front end's directory goes, with the back end's
    it is there again          both are made anew, towards its new id: the front end starts from Initialising

Whoever makes and destroys domains says so here (lifecycle.py); nothing is polled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

from domains.dom0.toolstack import devices
from domains.dom0.toolstack.domains import Domains, Record
from domains.dom0.toolstack.errors import ToolstackError
from domains.dom0.toolstack.store_tree import home
from domains.dom0.toolstack.xlcfg.model import DomainConfig
from hypervisor.public.types import DomId

if TYPE_CHECKING:
    from domains.kernel.xenbus import StoreCalls, Xenbus


class Add(Protocol):
    """Announce one device, in a transaction, to back ends in domain `backend`."""

    def __call__(self, nodes: StoreCalls, *, backend: DomId) -> None: ...


class Backends:
    """`changed` is called when something happened among a driver domain's back ends."""

    def __init__(self, xenbus: Xenbus, domains: Domains, changed: Callable[[], None]) -> None:
        self._xenbus = xenbus
        self._domains = domains
        self._changed = changed
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
        self._xenbus.in_transaction(lambda nodes: devices.remove_devices(nodes, domid))

    def started(self, driver: Record) -> None:
        """A domain was made: if it is a driver domain, the devices that it is to serve are plugged in."""
        if not driver.config.driver_domain:
            return
        watch = self._xenbus.watch(f"{home(driver.domid)}/backend", lambda _path: self._changed())
        self._watches[driver.domid] = watch
        for record in list(self._domains.records.values()):
            if record.destroying:
                continue
            for name, add in wanted(record):
                if name == driver.config.name:
                    self._plug(name, add)

    def ended(self, driver: DomId) -> None:
        """A domain is gone from the store: what it served is gone, too."""
        token = self._watches.pop(driver, None)
        if token is None:
            return
        self._xenbus.unwatch(token)
        for domid in list(self._domains.records):
            self._xenbus.in_transaction(partial(devices.remove_devices, domid=domid, backend=driver))

    def _plug(self, name: str | None, add: Add) -> None:
        backend = DomId(0) if name is None else self._domid(name)
        if backend is not None:
            self._xenbus.in_transaction(lambda nodes: add(nodes, backend=backend))

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


def wanted(record: Record) -> Iterator[tuple[str | None, Add]]:
    """The devices of a domain: the name of the driver domain (None: Dom0), and how to announce each."""
    config, domid = record.config, record.domid
    for disk in config.disks:
        yield disk.backend, partial(devices.add_disk, domid=domid, disk=disk)
    for devid, vif in enumerate(config.vifs):
        yield vif.backend, partial(devices.add_vif, domid=domid, devid=devid, vif=vif)
