"""The toolstack's end of xenctl: one table from operation to handler.

A handler gets the operation's arguments, checked for their form (`domains/control/operations.py` declares them), and
returns its result, or an Operation that will. A refusal becomes an exit code and one line. Streams go on after the
handler has returned.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Generator
from contextlib import suppress
from functools import partial
from typing import Any, Final

from domains.control import operations as ops
from domains.control.address import MachineAddress
from domains.control.migration_operations import Migrate, Round
from domains.control.protocol import Exit
from domains.control.server import Congested, ControlServer, Disconnected, Request
from domains.dom0.toolstack.ballooning import Ballooning
from domains.dom0.toolstack.captures import Captures
from domains.dom0.toolstack.domains import Record
from domains.dom0.toolstack.errors import ToolstackError
from domains.dom0.toolstack.info import MachineIdentity, describe, describe_all, describe_machine, walk_store
from domains.dom0.toolstack.lifecycle import Lifecycle, name_of
from domains.dom0.toolstack.log_streams import LogStreams
from domains.dom0.toolstack.migrating.migrations import Migrations
from domains.dom0.toolstack.operations import Operation
from domains.dom0.toolstack.parts import Parts
from domains.dom0.toolstack.restoring.restore import Restoring
from domains.dom0.toolstack.saving.save import Saving
from domains.dom0.toolstack.snapshots.snapshots import Snapshots
from domains.dom0.toolstack.together import run_together
from domains.dom0.toolstack.traffic import Devices
from domains.dom0.toolstack.upkeep import Upkeep
from domains.dom0.toolstack.viewers import Viewers
from domains.dom0.toolstack.vxlans import Vxlans
from domains.kernel.tasks import Task
from hypervisor.public.errno import XenError
from hypervisor.public.sched import SHUTDOWN_reboot
from hypervisor.public.types import DomId


class Service:
    """Answers requests. `stop` ends the machine; `machine` is what `info` tells of it."""

    def __init__(
        self,
        parts: Parts,
        lifecycle: Lifecycle,
        captures: Captures,
        devices: Devices,
        machine: MachineIdentity,
        vxlans: Vxlans,
        stop: Callable[[], None],
    ) -> None:
        self._parts = parts
        self._kernel = parts.kernel
        self._xen = parts.xen
        self._domains = parts.domains
        self._lifecycle = lifecycle
        self._scheduling = parts.scheduling
        ballooning = Ballooning(parts.xen, parts.kernel.xenbus, parts.domains)
        saving, restoring = Saving(parts, lifecycle), Restoring(parts, lifecycle)
        self._migrations = Migrations(parts, lifecycle, saving, restoring, devices, machine.folder, print)
        self._snapshots = Snapshots(parts, saving, restoring, devices.overlays)
        self._vxlans = vxlans
        self._others = (
            *(parts.scheduling, parts.hotplug, ballooning, Upkeep(parts, devices), vxlans),
            *(saving, restoring, self._migrations, self._snapshots),
        )
        self._operations = parts.operations
        self._captures = captures
        self._machine = machine
        self._stop = stop
        self._viewers = Viewers(parts.kernel, parts.consoled)
        self._logs = LogStreams(parts.kernel, parts.xen)
        self._server: ControlServer | None = None

    def listen(self, address: MachineAddress) -> None:
        """Answer at the machine's address from now on."""
        self._server = ControlServer(
            address, lambda: self._kernel.call_soon(self._receive), patient=self._machine.seed is not None
        )
        self._kernel.add_reader(self._server.fd, self._receive, self._server.has_come)

    def close(self) -> None:
        """Answer no more."""
        self._migrations.close()
        if self._server is not None:
            self._kernel.remove_reader(self._server.fd)
            self._server.close()
            self._server = None

    def _receive(self) -> None:
        if self._server is not None:
            for request in self._server.receive():
                self.serve(request)

    def serve(self, request: Request) -> None:
        """Answer one request, now or later; whatever goes wrong ends this request alone."""
        wanted = request.arguments

        def operation() -> Operation:
            handler = self.HANDLERS.get(type(wanted))
            result = self._perform_other(wanted) if handler is None else handler(self, request, wanted)
            if isinstance(result, Generator):
                result = yield from result
            return result

        def done(result: Any) -> None:
            if result is not STREAMING:
                request.answer(result)

        self._operations.start(operation(), done, partial(self._refuse, request))

    def _perform_other(self, wanted: Any) -> Any:
        """An operation of a part that has a table of its own."""
        (part,) = (part for part in self._others if type(wanted) in part.HANDLERS)
        return part.perform(wanted)

    def _refuse(self, request: Request, error: Exception) -> None:
        code, text = Exit.FAILURE, str(error)
        if isinstance(error, ToolstackError):
            code = error.code
        elif not isinstance(error, (XenError, OSError)):
            text = f"the toolstack failed: {type(error).__name__}: {error} (see 'xenctl dmesg')"
            print("".join(traceback.format_exception(error)))
        request.refuse(code, text)

    # --- the machine -----------------------------------------------------------------------------

    def _info(self, _request: Request, _wanted: ops.Info) -> ops.MachineInfo:
        busiest, now = self._kernel.loop.busiest, self._kernel.now()
        vxlans, snapshots = self._vxlans.summaries(), self._snapshots
        return describe_machine(self._parts, self._machine, vxlans, snapshots, busiest, now)

    def _stop_machine(self, request: Request, _wanted: ops.Stop) -> object:
        request.answer(None)
        self._kernel.call_soon(self._stop)
        return STREAMING

    def _dmesg(self, _request: Request, wanted: ops.Dmesg) -> bytes:
        return self._xen.readconsole(wanted.clear)

    def _follow_log(self, request: Request, _wanted: ops.FollowLog) -> object:
        self._logs.follow(request)
        return STREAMING

    def _debug_keys(self, _request: Request, wanted: ops.DebugKeys) -> None:
        self._xen.debug_keys(wanted.keys.encode("utf-8", "replace"))

    def _xenstore_ls(self, _request: Request, wanted: ops.XenstoreLs) -> Task[list[Any]]:
        return walk_store(self._kernel.xenbus, wanted.path)

    # --- domains ---------------------------------------------------------------------------------

    def _create(self, _request: Request, wanted: ops.Create) -> Generator[Any, None, ops.Created]:
        record: Record = yield from self._lifecycle.create(wanted.config, lambda _domid: None, wanted.paused)
        return created(record)

    def _create_watched(self, request: Request, wanted: ops.CreateWatched) -> Generator[Any, None, object]:
        def built(domid: DomId) -> None:
            record = self._domains.records[domid]
            with suppress(Congested, Disconnected):
                request.stream(created(record))
            self._follow(request, record)

        yield from self._lifecycle.create(wanted.config, built, wanted.paused)
        return STREAMING

    def _destroy(self, _request: Request, wanted: ops.Destroy) -> Operation:
        return self._lifecycle.destroy(self._domains.guest(wanted.domain).domid)

    def _list(self, _request: Request, wanted: ops.List) -> Task[list[Any]]:
        pools, now = self._scheduling.pools.names(), self._kernel.now()
        if wanted.domain is None:
            return (yield from describe_all(self._xen, self._domains, pools, now, brief=wanted.brief))
        return [describe(self._domains.find(wanted.domain), self._domains, pools, now, brief=wanted.brief)]

    def _pause(self, _request: Request, wanted: ops.Pause) -> None:
        self._xen.pausedomain(self._domains.guest(wanted.domain).domid)

    def _unpause(self, _request: Request, wanted: ops.Unpause) -> None:
        info = self._domains.guest(wanted.domain)
        if not info.paused:
            raise ToolstackError(f"domain '{wanted.domain}' is not paused")
        self._xen.unpausedomain(info.domid)

    def _run_together(self, _request: Request, wanted: ops.RunTogether) -> Task[bool]:
        return run_together(self._parts, wanted.domains, wanted.seconds)

    def _shutdown(self, _request: Request, wanted: ops.Shutdown) -> Generator[Any, None, ops.Reason]:
        return self._ask(wanted, "poweroff")

    def _reboot(self, _request: Request, wanted: ops.Reboot) -> Generator[Any, None, ops.Reason]:
        return self._ask(wanted, "reboot")

    def _ask(self, wanted: ops.Shutdown | ops.Reboot, command: str) -> Generator[Any, None, ops.Reason]:
        timeout = wanted.timeout or None
        return reason_of((yield from self._lifecycle.shutdown(wanted.domain, command, wanted.wait, timeout)))

    def _wait(self, _request: Request, wanted: ops.Wait) -> Generator[Any, None, ops.Reason]:
        return reason_of((yield from self._lifecycle.wait(wanted.domain, wanted.reboots)))

    def _domid(self, _request: Request, wanted: ops.Domid) -> int:
        return self._domains.find(wanted.domain).domid

    def _domname(self, _request: Request, wanted: ops.Domname) -> str | None:
        return self._domains.name_of(self._domains.find(wanted.domain).domid)

    def _migrate(self, request: Request, wanted: Migrate) -> Operation:
        def tell(done: Round) -> None:
            with suppress(Congested):
                try:
                    request.stream(done)
                except Disconnected:
                    raise ToolstackError("whoever asked for it has gone") from None

        return self._migrations.migrate(wanted, tell)

    # --- streams ---------------------------------------------------------------------------------

    def _console(self, request: Request, wanted: ops.Console) -> object:
        domid = self._domains.find(wanted.domain).domid
        if domid == 0:
            raise ToolstackError("Dom0 has no console; 'xenctl dmesg' shows what it says")
        if (record := self._domains.records.get(domid)) is None:
            raise ToolstackError(f"domain {domid} was made by xl: xenctl xl-env -- xl console {domid}")
        self._follow(request, record, wanted.reboots)
        return STREAMING

    def _follow(self, request: Request, record: Record, reboots: bool = False) -> None:
        """Answer with a domain's console. Raises ToolstackError."""
        if record.console is None:
            raise ToolstackError(f"domain {record.domid} has no console")

        def rebooted(reason: str) -> None:
            def go_on(successor: Record | None) -> None:
                if successor is None or reason != name_of(SHUTDOWN_reboot):
                    self._viewers.end(request, reason, record.exit_code)
                elif self._viewers.follows(request):
                    self._follow(request, successor, reboots)

            self._operations.start(self._lifecycle.successor(record), go_on, partial(self._refuse, request))

        def ended(reason: str) -> None:
            self._logs.flush()
            self._viewers.end(request, reason, record.exit_code)

        self._viewers.follow(request, record.console, rebooted if reboots else ended)

    def _console_input(self, request: Request, wanted: ops.ConsoleInput) -> object:
        self._viewers.type(request.peer, wanted.data)
        return STREAMING

    def _console_detach(self, request: Request, wanted: ops.ConsoleDetach) -> object:
        self._viewers.detach(request.peer, wanted.request)
        return STREAMING

    def _network_capture(self, request: Request, wanted: ops.NetworkCapture) -> object:
        if wanted.bridge is not None:
            self._captures.start_bridge(request, wanted.bridge)
        elif wanted.domain is not None:
            self._captures.start(request, self._domains.find(wanted.domain).domid, wanted.vif)
        return STREAMING

    HANDLERS: Final[dict[type[Any], Callable[[Service, Request, Any], Any]]] = {
        ops.Info: _info,
        ops.Stop: _stop_machine,
        ops.Dmesg: _dmesg,
        ops.FollowLog: _follow_log,
        ops.DebugKeys: _debug_keys,
        ops.XenstoreLs: _xenstore_ls,
        ops.Create: _create,
        ops.CreateWatched: _create_watched,
        ops.Destroy: _destroy,
        ops.List: _list,
        ops.Pause: _pause,
        ops.Unpause: _unpause,
        ops.RunTogether: _run_together,
        ops.Shutdown: _shutdown,
        ops.Reboot: _reboot,
        ops.Wait: _wait,
        ops.Domid: _domid,
        ops.Domname: _domname,
        Migrate: _migrate,
        ops.Console: _console,
        ops.ConsoleInput: _console_input,
        ops.ConsoleDetach: _console_detach,
        ops.NetworkCapture: _network_capture,
    }
    """What performs each operation; the others are in the tables of parts."""


STREAMING: Final = object()
"""A handler's result when the request is answered, or will be, by other means."""


def created(record: Record) -> ops.Created:
    """What the maker of a domain is told of it."""
    return ops.Created(record.domid, record.config.name, record.warnings)


def reason_of(reason: int | None) -> ops.Reason:
    """How a domain ended, in words."""
    return ops.Reason(name_of(reason) if reason is not None else None)
