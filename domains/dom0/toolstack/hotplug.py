"""Devices that come to a running domain and leave it: xl's block-attach, block-detach, network-attach, network-detach.

    attach    both ends' directories ─► back end waits (InitWait) ─► the domain's description has it, after a reboot too
              │ it refuses, or takes too long: the directories go again
    detach    back end: online 0, Closing ─► front end lets go ─► back end: Closed ─► directories, description: gone
              │ not in time: refused, the device stays; an interface goes all the same, as by libxl
              └ --force: the front end's directory goes first, so that nobody is asked

Source: libxl_device.c (libxl__device_add_async, libxl__initiate_device_generic_remove). Waiting is bounded whatever the domain
does, and is no one else's: it is a task. A device is in one such operation at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from random import Random
from typing import Any, Final

from domains.control import device_operations as ops
from domains.control.description import MAC_ADDRESS, MAX_DEVICES, MAX_DEVID, DomainConfig, numbered
from domains.control.protocol import Exit
from domains.control.vdev import device_number
from domains.dom0.toolstack import devices
from domains.dom0.toolstack.backends import Backends, Wanted, wanted_disk, wanted_vif
from domains.dom0.toolstack.device_lists import MAX_LISTED, block_device, network_device
from domains.dom0.toolstack.domains import Domains, Record
from domains.dom0.toolstack.errors import ToolstackError
from domains.dom0.toolstack.operations import Operations
from domains.dom0.toolstack.store_tree import children, read_or_none, remove
from domains.kernel.tasks import NEXT_TURN, Task
from domains.kernel.xenbus import Xenbus

ATTACH_SECONDS: Final = 10.0
"""How long a back end may take to get ready: libxl's LIBXL_INIT_TIMEOUT."""


class Hotplug:
    """One per toolstack."""

    def __init__(
        self, xenbus: Xenbus, domains: Domains, operations: Operations, backends: Backends, chance: Random
    ) -> None:
        self._xenbus = xenbus
        self._domains = domains
        self._operations = operations
        self._backends = backends
        self._chance = chance
        self._busy: set[str] = set()
        """Notes of the devices that come or go just now."""

    # --- attaching -------------------------------------------------------------------------------

    def attach_disk(self, wanted: ops.BlockAttach) -> Task[ops.Attached]:
        """Task: one more disk. Raises ToolstackError, and then nothing of it is left."""
        record = self._record(wanted.domain)
        disk = self._backends.resolved_disk(wanted.disk)
        if len(record.config.disks) >= MAX_DEVICES:
            raise ToolstackError(f"domain '{wanted.domain}' has {MAX_DEVICES} disks; it can have no more")

        def kept(config: DomainConfig) -> DomainConfig:
            return config.replaced(disks=(*config.disks, disk))

        return (yield from self._attach(record, wanted_disk(record.domid, disk), disk.vdev, kept))

    def attach_vif(self, wanted: ops.NetworkAttach) -> Task[ops.Attached]:
        """Task: one more interface. Raises ToolstackError, and then nothing of it is left."""
        record = self._record(wanted.domain)
        vif = self._backends.resolved_vif(wanted.vif)
        if len(record.config.vifs) >= MAX_DEVICES:
            raise ToolstackError(
                f"domain '{wanted.domain}' has {MAX_DEVICES} interfaces; it can have no more"
            )
        devid = self._next_vif(record) if vif.devid is None else vif.devid
        vif = vif.replaced(mac=vif.mac or devices.random_mac(self._chance), devid=devid)

        def kept(config: DomainConfig) -> DomainConfig:
            return config.replaced(vifs=(*config.vifs, vif))

        return (yield from self._attach(record, wanted_vif(record.domid, devid, vif), f"vif {devid}", kept))

    def _next_vif(self, record: Record) -> int:
        """The number of a new interface: one more than the highest (libxl__device_nextid), while there is such a one."""
        used = {devid for devid, _ in numbered(record.config.vifs)}
        vifs = devices.note_path(record.domid, "vif")
        used |= {int(devid) for devid in children(self._xenbus, vifs)}
        used |= {int(note.rpartition("/")[2]) for note in self._busy if note.startswith(f"{vifs}/")}
        highest = max(used, default=-1)
        return highest + 1 if highest < MAX_DEVID else min(set(range(MAX_DEVID)) - used)

    def _attach(
        self, record: Record, device: Wanted, called: str, kept: Callable[[DomainConfig], DomainConfig]
    ) -> Task[ops.Attached]:
        note, domid = devices.note_path(record.domid, device.kind, device.devid), record.domid
        with self._alone(note, called, record):
            if self._is_there(record, device.kind, device.devid):
                raise ToolstackError(
                    f"device {called} of domain {domid} already exists in xenstore;"
                    " choose another, or detach it first"
                )
            yield NEXT_TURN
            self._check_alive(record)
            path = self._backends.announce(record, device)
            if path is None:
                raise ToolstackError(f"the driver domain '{device.driver}' is not there")
            try:
                yield from self._until(
                    record,
                    lambda: devices.ready(self._xenbus, path),
                    f"device {called} of domain {domid} did not get ready",
                    ATTACH_SECONDS,
                )
                if why := devices.refusal(self._xenbus, path):
                    raise ToolstackError(why)
            except ToolstackError:
                if not self._ended(record):
                    self._take_away(note)
                raise
            record.config = kept(record.config)
            return ops.Attached(domid, device.devid, path)

    # --- detaching -------------------------------------------------------------------------------

    def detach_disk(self, wanted: ops.BlockDetach) -> Task[None]:
        """Task: take a disk away. ToolstackError(TIMED_OUT): the domain has not let go, and keeps it."""
        record, devid = self._record(wanted.domain), device_number(wanted.device)
        if devid is None or not self._is_there(record, "vbd", devid):
            raise ToolstackError(
                f"Device {wanted.device} not connected; 'xenctl block-list {wanted.domain}' shows those that are"
            )
        note = devices.note_path(record.domid, "vbd", devid)
        with self._alone(note, wanted.device, record):
            if wanted.force:
                yield from self._force(record, note, wanted.timeout)
            elif not (yield from self._closes(record, note, wanted.timeout)):
                raise self._not_released(record, wanted)
            self._take_away(note)
            config = record.config
            record.config = config.replaced(disks=tuple(d for d in config.disks if d.devid != devid))

    def detach_vif(self, wanted: ops.NetworkDetach) -> Task[None]:
        """Task: take an interface away, from a domain that does not let go of it, too."""
        record = self._record(wanted.domain)
        devid = self._vif_called(record, wanted.device)
        if devid is None or not self._is_there(record, "vif", devid):
            raise ToolstackError(
                f"Unknown device {wanted.device}; 'xenctl network-list {wanted.domain}' shows those there are"
            )
        note = devices.note_path(record.domid, "vif", devid)
        with self._alone(note, f"vif {devid}", record):
            if not (yield from self._closes(record, note, wanted.timeout)):
                yield from self._force(record, note, wanted.timeout)
            self._take_away(note)
            config = record.config
            record.config = config.replaced(
                vifs=tuple(vif.replaced(devid=n) for n, vif in numbered(config.vifs) if n != devid)
            )

    def _closes(self, record: Record, note: str, seconds: float) -> Task[bool]:
        """Task: ask for a device; whether its back end has closed in that time. Raises ToolstackError if the domain ends."""
        path = read_or_none(self._xenbus, f"{note}/backend")
        if path is None:  # its driver domain is away, and so are both ends
            return True
        self._xenbus.in_transaction(partial(devices.ask_to_close, path=path))
        try:
            yield from self._until(record, lambda: devices.closed(self._xenbus, path), "", seconds)
        except ToolstackError as error:
            if error.code is not Exit.TIMED_OUT:
                raise
            return False
        return True

    def _force(self, record: Record, note: str, seconds: float) -> Task[None]:
        """Task: have the back end close without the front end, whose directory goes; whatever it does, it has had its time."""
        if (front := read_or_none(self._xenbus, f"{note}/frontend")) is not None:
            self._xenbus.in_transaction(lambda nodes: remove(nodes, front))
        yield from self._closes(record, note, seconds)

    def _not_released(self, record: Record, wanted: ops.BlockDetach) -> ToolstackError:
        info = self._domains.find(str(record.domid))
        why = "it may be using it"
        if info.shutdown is not None:
            why = "it has shut down"
        elif info.paused:
            why = "it is paused"
        return ToolstackError(
            f"unable to remove device {wanted.device}: domain '{wanted.domain}' has not let go of it within"
            f" {wanted.timeout:g} s ({why}); try again later, or --force, which may cost it data",
            Exit.TIMED_OUT,
        )

    def _take_away(self, note: str) -> None:
        self._xenbus.in_transaction(partial(devices.remove_device, note=note))

    # --- listing ---------------------------------------------------------------------------------

    def disks(self, wanted: ops.BlockList) -> Task[tuple[ops.BlockDevice, ...]]:
        """Task: the disks of domains; the others' turn comes after each."""
        return self._listed(wanted.domains, "vbd", block_device)

    def vifs(self, wanted: ops.NetworkList) -> Task[tuple[ops.NetworkDevice, ...]]:
        """Task: the interfaces of domains; the others' turn comes after each."""
        return self._listed(wanted.domains, "vif", network_device)

    def _listed(self, domains: tuple[str, ...], kind: str, describe: Callable[..., Any]) -> Task[Any]:
        found: list[Any] = []
        for name in domains:
            domid = self._domains.find(name).domid
            names = children(self._xenbus, devices.note_path(domid, kind))
            if len(found) + len(names) > MAX_LISTED:
                raise ToolstackError(f"that are more than {MAX_LISTED} devices; name fewer domains at a time")
            for devid in sorted(int(name) for name in names if name.isdecimal()):
                found.append(describe(self._xenbus, domid, devid))
                yield NEXT_TURN
        return tuple(device for device in found if device is not None)

    # --- which domain, which device --------------------------------------------------------------

    def _record(self, wanted: str) -> Record:
        info = self._domains.find(wanted)
        if info.domid == 0:
            raise ToolstackError("Dom0 has no virtual devices: it serves those of the others")
        record = self._domains.records.get(info.domid)
        if record is None or record.destroying or info.dying:
            raise ToolstackError(f"domain '{wanted}' is being taken apart, or was not made by this toolstack")
        return record

    def _is_there(self, record: Record, kind: str, devid: int) -> bool:
        """Whether the domain has that device, or would if its driver domain were there."""
        config = record.config
        known = {disk.devid for disk in config.disks} if kind == "vbd" else dict(numbered(config.vifs))
        note = devices.note_path(record.domid, kind, devid)
        return devid in known or read_or_none(self._xenbus, f"{note}/backend") is not None

    def _vif_called(self, record: Record, text: str) -> int | None:
        """The number of the interface that has this number or MAC address."""
        if MAC_ADDRESS.fullmatch(text.lower()):
            macs = {vif.mac: devid for devid, vif in numbered(record.config.vifs)}
            return macs.get(text.lower())
        return int(text) if text.isascii() and text.isdecimal() and int(text) <= MAX_DEVID else None

    @contextmanager
    def _alone(self, note: str, called: str, record: Record) -> Iterator[None]:
        """No other operation on this device meanwhile. Raises ToolstackError if there is one."""
        if note in self._busy:
            raise ToolstackError(f"device {called} of domain {record.domid} is being attached or detached")
        self._busy.add(note)
        try:
            yield
        finally:
            self._busy.discard(note)

    def _until(self, record: Record, condition: Callable[[], bool], what: str, seconds: float) -> Task[None]:
        """Wait for a device of the domain. ToolstackError: it takes too long (TIMED_OUT), or the domain ends."""
        changed = self._domains.changed(record.domid)
        yield from self._operations.until(lambda: self._ended(record) or condition(), changed, what, seconds)
        self._check_alive(record)

    def _check_alive(self, record: Record) -> None:
        if self._ended(record):
            raise ToolstackError(f"domain {record.domid} ({record.config.name}) has ended meanwhile")

    def _ended(self, record: Record) -> bool:
        return record.destroying or self._domains.records.get(record.domid) is not record

    def perform(self, wanted: Any) -> Any:
        """A task that performs the operation. Raises ToolstackError."""
        return self.HANDLERS[type(wanted)](self, wanted)

    HANDLERS: Final[dict[type[Any], Callable[[Hotplug, Any], Any]]] = {
        ops.BlockAttach: attach_disk,
        ops.BlockDetach: detach_disk,
        ops.BlockList: disks,
        ops.NetworkAttach: attach_vif,
        ops.NetworkDetach: detach_vif,
        ops.NetworkList: vifs,
    }
    """What performs each operation."""
