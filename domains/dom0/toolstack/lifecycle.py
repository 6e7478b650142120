"""What becomes of a domain once it runs, and what its shutdown leads to.

    create ──► paused ──unpause──► running ──SCHEDOP_shutdown──► shut down ──on_…──► destroyed, made again, or kept
                                      │ destroy, or its process dies
                                      └──► nothing of it is left

VIRQ_DOM_EXC says that some domain has shut down or is gone; all else follows from that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from domains.control.description import Action, DomainConfig
from domains.dom0.console.terminal import Terminal
from domains.dom0.toolstack import store_tree
from domains.dom0.toolstack.adopted import Adopted
from domains.dom0.toolstack.domains import Record
from domains.dom0.toolstack.errors import ToolstackError
from domains.dom0.toolstack.making import Fill, Maker, with_macs
from domains.dom0.toolstack.operations import Operation
from domains.dom0.toolstack.parts import Parts
from domains.kernel.tasks import Pause, Task
from hypervisor.public.errno import XenError
from hypervisor.public.sched import (
    SHUTDOWN_crash,
    SHUTDOWN_poweroff,
    SHUTDOWN_reboot,
    SHUTDOWN_soft_reset,
    SHUTDOWN_suspend,
    SHUTDOWN_watchdog,
    ShutdownReason,
)
from hypervisor.public.types import DomId

AFTER_DUMP: Final = {
    Action.COREDUMP_DESTROY: Action.DESTROY,
    Action.COREDUMP_RESTART: Action.RESTART,
}
"""What follows a core dump."""
OF_THE_DEAD: Final = {
    **AFTER_DUMP,
    Action.PRESERVE: Action.DESTROY,
    Action.SOFT_RESET: Action.DESTROY,
}
"""What else becomes of a domain of which nothing is left."""
NO_SOFT_RESET: Final = "Xenoscope has no soft reset; 'xenctl destroy' ends it, and 'restart' makes it again"
RESTART_INTERVAL: Final = 1.0
"""Seconds between two creations of a domain that is restarted."""
REASONS: Final = {int(reason): reason.name.removeprefix("SHUTDOWN_") for reason in ShutdownReason}


class Lifecycle:
    """One per Dom0."""

    def __init__(self, parts: Parts, log: Callable[[str], None]) -> None:
        self._parts = parts
        self._kernel = parts.kernel
        self._domains = parts.domains
        self._log = log
        self._maker = Maker(parts, log)
        self._adopted = Adopted(
            parts.xen, parts.kernel.xenbus, parts.xenstored, parts.consoled, parts.domains, log
        )

    def create(self, config: DomainConfig, built: Callable[[DomId], None], paused: bool) -> Operation:
        """Make a domain; its result is the Record. `built(domid)` is called before its first instruction.

        Raises ToolstackError, and then nothing of it is left.
        """
        return self._maker.create(config, built, paused)

    def make_of(self, config: DomainConfig, fill: Fill, paused: bool) -> Operation:
        """The same of a domain whose memory and registers come by `fill`, and not from a kernel."""
        config = with_macs(self._parts.backends.resolved(config), self._parts.chance)
        return self._maker.make_of(config, fill, lambda _: None, paused)

    def destroy(self, domid: DomId, reason: str = "destroyed") -> Operation:
        """End a domain at once, whatever it is doing; nothing of it is left. Ends when its id is free."""
        return self._maker.destroy(domid, reason)

    def console(self, domid: DomId) -> Terminal | None:
        """A domain's console, whoever made the domain; None: it has none, or there is no such domain."""
        record = self._domains.records.get(domid)
        return record.console if record is not None else self._adopted.console(domid)

    def destroyed(self, domid: DomId) -> None:
        """Somebody else, such as xl, ends a domain: see to it that all else of it goes, and that it is not made again."""
        record = self._domains.records.get(domid)
        if record is not None and not record.destroying:
            record.destroying = True
            self._start(self.destroy(domid))

    def shutdown(self, wanted: str, command: str, wait: bool, timeout: float | None) -> Operation:
        """Ask a domain to power off or reboot; with `wait` the result is how it ended (a SHUTDOWN_… or
        None).
        """
        info = self._domains.guest(wanted)
        domid = info.domid
        record = self._domains.records.get(domid)
        if info.shutdown is not None:
            if record is not None and record.saving:
                raise ToolstackError(
                    f"domain '{wanted}' is being saved or moved; try again when that is over"
                )
            raise ToolstackError(f"domain '{wanted}' has shut down already; use 'xenctl destroy'")
        self._kernel.xenbus.write(f"{store_tree.home(domid)}/control/shutdown", command)
        if not wait:
            return None
        return (yield from self._ended(domid, record, wanted, timeout))

    def wait(self, wanted: str, reboots: bool = False) -> Operation:
        """Wait until a domain has shut down or is gone; how it ended (a SHUTDOWN_… or None).

        With `reboots` a reboot is no end, if the domain comes back from it.
        """
        domid = self._domains.guest(wanted).domid
        record = self._domains.records.get(domid)
        reason = yield from self._ended(domid, record, wanted)
        while reboots and reason == SHUTDOWN_reboot and record is not None:
            record = yield from self.successor(record)
            if record is not None:
                reason = yield from self._ended(record.domid, record, wanted)
        return reason

    def successor(self, record: Record) -> Operation:
        """Wait until it is known what follows the end of a domain; the Record of the one made of it, or None."""
        yield from self._kernel.until(lambda: not record.restarting, record.restarted)
        return record.successor

    def _ended(
        self, domid: DomId, record: Record | None, wanted: str, timeout: float | None = None
    ) -> Operation:
        yield from self._parts.operations.until(
            lambda: (record is not None and record.has_ended) or self._domains.gone(domid),
            self._domains.changed(domid),
            f"domain '{wanted}' did not shut down",
            timeout,
        )
        return record.shutdown if record is not None else None

    # --- the end of a domain ---------------------------------------------------------------------

    def domain_exception(self) -> Task[None]:
        """VIRQ_DOM_EXC: some domain has shut down or ceased to exist. Finds out which."""
        records = dict(self._domains.records)
        infos = {info.domid: info for info in (yield from self._parts.xen.all_domains())}
        for domid, record in records.items():
            info = infos.get(domid)
            if record.destroying or record.restarting:
                continue
            if info is None or info.dying:
                self._died(record)
            elif info.shutdown is not None and record.shutdown is None:
                self._shut_down(record, info.shutdown)
        self._adopted.look(infos)
        self._domains.tell_of_gone(infos)

    def _died(self, record: Record) -> None:
        """Its process is gone: there is nothing left to preserve, under whatever name."""
        self._log(f"domain {record.domid} ({record.config.name}) has died")
        record.shutdown = SHUTDOWN_crash
        action = record.config.on_crash
        self._follow(record, SHUTDOWN_crash, OF_THE_DEAD.get(action, action))

    def _shut_down(self, record: Record, reason: int) -> None:
        """A domain that is suspended stays; one that gives a reason which Xen does not know is destroyed, as by xl."""
        if reason == SHUTDOWN_suspend and record.unwanted_suspend:
            record.unwanted_suspend, record.shutdown = False, reason
            self._parts.suspending.resume_if_there(record)
            return
        config = record.config
        actions: dict[int, Action] = {
            SHUTDOWN_poweroff: config.on_poweroff,
            SHUTDOWN_reboot: config.on_reboot,
            SHUTDOWN_suspend: Action.PRESERVE,
            SHUTDOWN_crash: config.on_crash,
            SHUTDOWN_watchdog: config.on_watchdog,
            SHUTDOWN_soft_reset: config.on_soft_reset,
        }
        action = actions.get(reason, Action.DESTROY)
        record.shutdown = reason
        record.exit_code = store_tree.exit_code(self._kernel.xenbus, record.domid)
        self._log(f"domain {record.domid} ({record.config.name}) shut down: {name_of(reason)}, {action}")
        self._parts.xenstored.shutdown(record.domid)
        self._follow(record, reason, action)

    def _follow(self, record: Record, reason: int, action: Action) -> None:
        """Begin what a shutdown leads to, and tell those who wait for it."""
        if action in AFTER_DUMP:
            record.restarting = True
            self._start(self._dump(record, reason, AFTER_DUMP[action]))
        elif action is Action.DESTROY:
            record.destroying = True
            self._start(self.destroy(record.domid, name_of(reason)))
        elif action is Action.SOFT_RESET:
            self._log(f"domain {record.domid} ({record.config.name}) stays as it is: {NO_SOFT_RESET}")
        elif action is not Action.PRESERVE:
            record.restarting = True
            self._start(self._restart(record, reason, action))
        self._domains.tell(record.domid)

    def _dump(self, record: Record, reason: int, action: Action) -> Operation:
        """Write the domain's core, and go on, whether that has worked or not. As xl's, a dump replaces the one before it."""
        path = self._parts.cores.path_of(record.config.name)
        try:
            pages = yield from self._parts.cores.dump(record.domid, path)
            self._log(f"domain {record.domid} ({record.config.name}) dumped to {path}: {pages} pages")
        except (ToolstackError, XenError) as error:
            self._log(f"domain {record.domid} ({record.config.name}) is not dumped: {error}")
        record.restarting = False
        if not record.destroying:
            self._follow(record, reason, action)
        if not record.restarting:
            record.restarted.send()

    def _restart(self, record: Record, reason: int, action: Action) -> Operation:
        try:
            yield from self._rest(record)
            if record.destroying:
                return
            config = next_life(record)
            if action is Action.RENAME_RESTART:
                kept = f"{record.config.name}-{record.domid}"
                store_tree.rename(self._kernel.xenbus, record.domid, kept)
                self._parts.consoled.finish(record.domid, name_of(reason))
                config = config.replaced(uuid=None)
            else:
                yield from self.destroy(record.domid, name_of(reason))
            record.successor = yield from self._maker.make(config, lambda _: None, paused=False)
        finally:
            record.restarting = False
            record.restarted.send()

    def _rest(self, record: Record) -> Task[None]:
        """A domain that ends at once each time is not made again faster than once in RESTART_INTERVAL.

        Until then it stays as it ended, and whoever destroys it ends the row of restarts.
        """
        due = record.created + int(RESTART_INTERVAL * 1e9)
        if self._kernel.now() < due:
            yield Pause(deadline=due)

    def _start(self, operation: Operation) -> None:
        self._parts.operations.start(
            operation, lambda _: None, lambda error: self._log(f"toolstack: {error}")
        )


def next_life(record: Record) -> DomainConfig:
    """The description by which a domain is made again: its own, or that of a config-update, with which it keeps its uuid."""
    if record.updated is None:
        return record.config
    return record.updated.replaced(uuid=record.updated.uuid or record.uuid)


def name_of(reason: int) -> str:
    """A reason as people say it: poweroff, reboot, crash …"""
    return REASONS.get(reason, f"unknown reason {reason}")
