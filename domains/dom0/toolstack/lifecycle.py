"""From creation to the end of a domain, and what its shutdown leads to.

    create ──► paused ──unpause──► running ──SCHEDOP_shutdown──► shut down ──on_…──► destroyed, made again,
    or kept
       │ any failure                  │ destroy, or its process dies
       └──► nothing of it is left ◄───┘

Creation is everything or nothing: what is refused half-way is taken back as `destroy` would, and the reason
reported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Final
from uuid import UUID

from domains.control.description import Action, DomainConfig
from domains.control.protocol import Exit
from domains.dom0.console.consoled import Consoled
from domains.dom0.toolstack import devices, store_tree
from domains.dom0.toolstack.backends import Backends
from domains.dom0.toolstack.builder.build import PAGES_PER_MIB, Builder, Prepared, prepare
from domains.dom0.toolstack.domains import Domains, Record
from domains.dom0.toolstack.errors import ToolstackError
from domains.dom0.toolstack.operations import Operation, Operations, Until
from domains.dom0.toolstack.xenctrl import XenCtrl
from domains.dom0.xenstore.server import Xenstored
from domains.kernel.kernel import Kernel
from hypervisor.public.errno import XenError
from hypervisor.public.sched import (
    SHUTDOWN_crash,
    SHUTDOWN_poweroff,
    SHUTDOWN_reboot,
    SHUTDOWN_suspend,
    SHUTDOWN_watchdog,
    ShutdownReason,
)
from hypervisor.public.types import DomId

DEVICE_TIMEOUT: Final = 10.0
"""Seconds a back end may take to get ready; libxl's hotplug time-out."""
DESTROY_TIMEOUT: Final = 10.0
"""Seconds until the last frame of a destroyed domain is back."""
RESTART_INTERVAL: Final = 1.0
"""Seconds between two creations of a domain that is restarted."""
DEFAULT_EVENT_PORTS: Final = 1023
"""Highest port of a domain, as libxl sets it."""
BUILD_OVERHEAD: Final = 64
"""Frames that a domain takes besides its memory: shared info, grant table, descriptor tables."""


class Lifecycle:
    """One per Dom0."""

    def __init__(
        self,
        kernel: Kernel,
        xen: XenCtrl,
        xenstored: Xenstored,
        consoled: Consoled,
        domains: Domains,
        backends: Backends,
        operations: Operations,
        log: Callable[[str], None],
        chance: Random,
    ) -> None:
        self._kernel = kernel
        self._xen = xen
        self._xenstored = xenstored
        self._consoled = consoled
        self._domains = domains
        self._backends = backends
        self._operations = operations
        self._log = log
        self._chance = chance
        self._builder = Builder(kernel, xen)

    def create(self, config: DomainConfig, built: Callable[[DomId], None], paused: bool) -> Operation:
        """Make a domain; its result is the Record. `built(domid)` is called before its first instruction.

        Raises ToolstackError, and then nothing of it is left.
        """
        return self._create(self._backends.resolved(config), built, paused)

    def _create(self, config: DomainConfig, built: Callable[[DomId], None], paused: bool) -> Operation:
        self._domains.check_name_free(config.name)
        uuid = config.uuid or UUID(int=self._chance.getrandbits(128), version=4)
        config, warnings = with_one_vcpu(replace(with_macs(config, self._chance), uuid=uuid))
        prepared = prepare(config)
        self._check_memory(config)
        domid = self._createdomain(config, uuid)
        record = Record(domid, config, uuid, self._kernel.now(), warnings)
        self._domains.records[domid] = record
        try:
            self._furnish(record, prepared)
            yield Until(
                lambda: devices.ready(self._kernel.xenbus, domid),
                f"the devices of {config.name} did not get ready",
                DEVICE_TIMEOUT,
            )
            if why := devices.refusal(self._kernel.xenbus, domid):
                raise ToolstackError(why)
            built(domid)
            self._backends.started(record)
            if not paused:
                self._xen.unpausedomain(domid)
        except (ToolstackError, XenError) as error:
            yield from self.destroy(domid, "creation failed")
            raise self._explained(config, error) from None
        self._log(f"domain {domid} ({config.name}) created")
        for warning in warnings:
            self._log(warning)
        return record

    def destroy(self, domid: DomId, reason: str = "destroyed") -> Operation:
        """End a domain at once, whatever it is doing; nothing of it is left. Ends when its id is free."""
        record = self._domains.records.get(domid)
        if record is not None:
            record.destroying = True
        if not self._domains.gone(domid):
            self._xen.pausedomain(domid)
        self._consoled.disconnect(domid, reason)
        self._kernel.xenbus.in_transaction(
            lambda nodes: store_tree.remove(nodes, f"{store_tree.home(domid)}/device")
        )
        if not self._domains.gone(domid):
            self._xen.destroydomain(domid)
        self._forget(domid)
        yield Until(
            lambda: self._domains.gone(domid),
            f"domain {domid} did not end: somebody still uses its memory",
            DESTROY_TIMEOUT,
        )

    def shutdown(self, wanted: str, command: str, wait: bool, timeout: float | None) -> Operation:
        """Ask a domain to power off or reboot; with `wait` the result is how it ended (ShutdownReason or
        None).
        """
        info = self._domains.guest(wanted)
        domid = info.domid
        if info.shutdown is not None:
            raise ToolstackError(f"domain '{wanted}' has shut down already; use 'xenctl destroy'")
        self._kernel.xenbus.write(f"{store_tree.home(domid)}/control/shutdown", command)
        if not wait:
            return None
        return (yield from self._ended(domid, self._domains.records.get(domid), wanted, timeout))

    def wait(self, wanted: str, reboots: bool = False) -> Operation:
        """Wait until a domain has shut down or is gone; how it ended (ShutdownReason or None).

        With `reboots` a reboot is no end, if the domain comes back from it.
        """
        domid = self._domains.guest(wanted).domid
        record = self._domains.records.get(domid)
        reason = yield from self._ended(domid, record, wanted)
        while reboots and reason is SHUTDOWN_reboot and record is not None:
            record = yield from self.successor(record)
            if record is not None:
                reason = yield from self._ended(record.domid, record, wanted)
        return reason

    def successor(self, record: Record) -> Operation:
        """Wait until it is known what follows the end of a domain; the Record of the one made of it, or None."""
        yield Until(lambda: not record.restarting, f"domain {record.domid} was not made again")
        return record.successor

    def _ended(
        self, domid: DomId, record: Record | None, wanted: str, timeout: float | None = None
    ) -> Operation:
        yield Until(
            lambda: self._domains.gone(domid) or (record is not None and record.shutdown is not None),
            f"domain '{wanted}' did not shut down",
            timeout,
        )
        return record.shutdown if record is not None else None

    def domain_exception(self) -> None:
        """VIRQ_DOM_EXC: some domain has shut down or ceased to exist. Finds out which."""
        infos = {info.domid: info for info in self._xen.domains()}
        for domid, record in list(self._domains.records.items()):
            info = infos.get(domid)
            if record.destroying or record.restarting:
                continue
            if info is None or info.dying:
                self._died(record)
            elif info.shutdown is not None and record.shutdown is None:
                self._shut_down(record, info.shutdown)
        self._operations.poke()

    def _died(self, record: Record) -> None:
        """Its process is gone: there is nothing left to preserve, under whatever name."""
        self._log(f"domain {record.domid} ({record.config.name}) has died")
        record.shutdown = SHUTDOWN_crash
        action = record.config.on_crash
        self._start(
            self._after(record, SHUTDOWN_crash, Action.DESTROY if action is Action.PRESERVE else action)
        )

    def _shut_down(self, record: Record, reason: ShutdownReason) -> None:
        config = record.config
        action = {
            SHUTDOWN_poweroff: config.on_poweroff,
            SHUTDOWN_reboot: config.on_reboot,
            SHUTDOWN_crash: config.on_crash,
            SHUTDOWN_watchdog: config.on_watchdog,
        }.get(reason, Action.PRESERVE)
        record.shutdown = reason
        self._log(f"domain {record.domid} ({record.config.name}) shut down: {name_of(reason)}, {action}")
        self._xenstored.shutdown(record.domid)
        self._start(self._after(record, reason, action))

    def _after(self, record: Record, reason: ShutdownReason, action: Action) -> Operation:
        """What a shutdown leads to."""
        if action is Action.PRESERVE or reason is SHUTDOWN_suspend:
            return
        if action is Action.DESTROY:
            yield from self.destroy(record.domid, name_of(reason))
            return
        record.restarting = True
        try:
            yield from self._restart(record, reason, action)
        finally:
            record.restarting = False

    def _restart(self, record: Record, reason: ShutdownReason, action: Action) -> Operation:
        yield from self._rest(record)
        if record.destroying:
            return
        config = record.config
        if action is Action.RENAME_RESTART:
            kept = f"{config.name}-{record.domid}"
            store_tree.rename(self._kernel.xenbus, record.domid, kept)
            self._consoled.finish(record.domid, name_of(reason))
            config = replace(config, uuid=None)
        else:
            yield from self.destroy(record.domid, name_of(reason))
        record.successor = yield from self._create(config, lambda _: None, paused=False)

    def _rest(self, record: Record) -> Operation:
        """A domain that ends at once each time is not made again faster than once in RESTART_INTERVAL.

        Until then it stays as it ended, and whoever destroys it ends the row of restarts.
        """
        due = record.created + int(RESTART_INTERVAL * 1e9)
        self._kernel.call_later(max(due - self._kernel.now(), 0) / 1e9, self._operations.poke)
        yield Until(lambda: self._kernel.now() >= due, "the time for a restart did not come")

    def _start(self, operation: Operation) -> None:
        def failed(error: Exception) -> None:
            self._log(f"toolstack: {error}")
            self._operations.poke()

        self._operations.start(operation, lambda _: self._operations.poke(), failed)

    def _createdomain(self, config: DomainConfig, uuid: UUID) -> DomId:
        def limit(value: int | None) -> int:
            return -1 if value is None else value

        try:
            return self._xen.createdomain(
                uuid.bytes,
                config.maxvcpus,
                limit(config.max_grant_frames),
                limit(config.max_maptrack_frames),
                config.max_grant_version,
                config.max_event_channels or DEFAULT_EVENT_PORTS,
                python=config.python_guest is not None,
            )
        except XenError as error:
            raise self._explained(config, error) from None

    def _furnish(self, record: Record, prepared: Prepared) -> None:
        """Everything between an empty domain and one that waits for its devices."""
        domid, config, xenbus = record.domid, record.config, self._kernel.xenbus
        xenbus.in_transaction(lambda nodes: store_tree.make_tree(nodes, domid, record.uuid, config.name))
        built = self._builder.build(domid, config, prepared)
        record.console = self._consoled.connect(domid, built.console_mfn, built.console_port)
        xenbus.in_transaction(lambda nodes: store_tree.publish(nodes, domid, record.uuid, config, built))
        self._xenstored.introduce(domid, built.store_mfn, built.store_port)
        self._backends.plug(record)

    def _forget(self, domid: DomId) -> None:
        """Take the domain out of the store and out of the records."""
        self._xenstored.release(domid)
        self._backends.unplug(domid)
        self._kernel.xenbus.in_transaction(lambda nodes: store_tree.remove_tree(nodes, domid))
        self._domains.records.pop(domid, None)
        self._backends.ended(domid)

    def _check_memory(self, config: DomainConfig) -> None:
        free = self._xen.physinfo().free_pages
        if config.memory * PAGES_PER_MIB + BUILD_OVERHEAD > free:
            raise ToolstackError(
                f"domain {config.name} wants {config.memory} MiB, but only {free // PAGES_PER_MIB} MiB are free;"
                " lower memory= or start the machine with a larger --memory"
            )

    def _explained(self, config: DomainConfig, error: ToolstackError | XenError) -> ToolstackError:
        if isinstance(error, ToolstackError):
            return error
        return ToolstackError(f"domain {config.name} could not be created: {error}", Exit.FAILURE)


def with_macs(config: DomainConfig, chance: Random) -> DomainConfig:
    """Every interface with a MAC address; one that is chosen here the domain keeps when it is made again."""
    return replace(
        config, vifs=tuple(replace(vif, mac=vif.mac or devices.random_mac(chance)) for vif in config.vifs)
    )


def with_one_vcpu(config: DomainConfig) -> tuple[DomainConfig, tuple[str, ...]]:
    """The description with a single vCPU, and what there is to say about that.

    The hypervisor runs vCPU 0 alone. A kernel that is told of others brings them up at boot, and gives up when they do not come.
    """
    if config.maxvcpus == 1:
        return config, ()
    warning = f"{config.name} has 1 vCPU, not {config.vcpus}: a domain's further vCPUs do not run yet"
    return replace(config, vcpus=1, maxvcpus=1), (warning,)


def name_of(reason: ShutdownReason) -> str:
    """A reason as people say it: poweroff, reboot, crash …"""
    return reason.name.removeprefix("SHUTDOWN_")
