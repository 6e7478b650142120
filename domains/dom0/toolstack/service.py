"""The toolstack's end of xenctl: one table from operation to handler, and how each one's arguments are read.

A handler returns its result, or an Operation that will. Whatever a client sends is checked here; a refusal
becomes an exit code and one line. Streams (console, create with console) go on after the handler has
returned.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Generator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from domains.control.protocol import Exit, Op
from domains.control.server import Congested, ControlServer, Disconnected, Request
from domains.dom0.console.consoled import Consoled
from domains.dom0.toolstack.captures import Captures
from domains.dom0.toolstack.domains import Domains, Record
from domains.dom0.toolstack.errors import ToolstackError
from domains.dom0.toolstack.info import describe, describe_machine, walk_store
from domains.dom0.toolstack.lifecycle import Lifecycle, name_of
from domains.dom0.toolstack.operations import Operation, Operations
from domains.dom0.toolstack.viewers import Viewers
from domains.dom0.toolstack.xenctrl import XenCtrl
from domains.dom0.toolstack.xlcfg.load import read_config
from domains.dom0.toolstack.xlcfg.syntax import ConfigError
from domains.kernel.kernel import Kernel
from hypervisor.public.errno import XenError
from hypervisor.public.sched import SHUTDOWN_reboot
from hypervisor.public.types import DomId

T = TypeVar("T")


class Service:
    """Answers requests. `stop` ends the machine; `machine` is its name and folder for `info`."""

    def __init__(
        self,
        kernel: Kernel,
        xen: XenCtrl,
        domains: Domains,
        lifecycle: Lifecycle,
        operations: Operations,
        consoled: Consoled,
        captures: Captures,
        machine: dict[str, Any],
        stop: Callable[[], None],
    ) -> None:
        self._kernel = kernel
        self._xen = xen
        self._domains = domains
        self._lifecycle = lifecycle
        self._operations = operations
        self._captures = captures
        self._machine = machine
        self._stop = stop
        self._viewers = Viewers(kernel, consoled)
        self._server: ControlServer | None = None

    def listen(self, folder: Path) -> None:
        """Answer on the machine's endpoint from now on."""
        self._server = ControlServer(folder, lambda: self._kernel.call_soon(self._receive))
        self._kernel.add_reader(self._server.fd, self._receive)

    def close(self) -> None:
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
        handler = HANDLERS.get(request.op)
        if handler is None:
            request.refuse(Exit.USAGE, f"unknown operation '{request.op}'")
            return

        def operation() -> Operation:
            result = handler(self, request)
            if isinstance(result, Generator):
                result = yield from result
            return result

        def done(result: Any) -> None:
            if result is not STREAMING:
                request.answer(result)

        self._operations.start(operation(), done, partial(self._refuse, request))

    def _refuse(self, request: Request, error: Exception) -> None:
        code, text = Exit.FAILURE, str(error)
        if isinstance(error, ToolstackError):
            code = error.code
        elif not isinstance(error, (ConfigError, XenError, OSError)):
            text = f"the toolstack failed: {type(error).__name__}: {error} (see 'xenctl dmesg')"
            print("".join(traceback.format_exception(error)))
        request.refuse(code, text)

    # --- the machine -----------------------------------------------------------------------------

    def info(self, _request: Request) -> dict[str, Any]:
        """→ the machine: name, memory in frames, CPUs, number of domains, path of the store's socket,
        uplinks."""
        return describe_machine(self._xen, self._machine)

    def stop(self, request: Request) -> object:
        """→ nothing; then the machine ends, with every domain."""
        request.answer(None)
        self._kernel.call_soon(self._stop)
        return STREAMING

    def dmesg(self, request: Request) -> bytes:
        """clear: bool → the hypervisor's log."""
        return self._xen.readconsole(argument(request, "clear", bool, False))

    def debug_keys(self, request: Request) -> None:
        """keys: text → nothing; what each key reports is in the hypervisor's log."""
        self._xen.debug_keys(argument(request, "keys", str).encode("utf-8", "replace"))

    def xenstore_ls(self, request: Request) -> list[list[Any]]:
        """path → [[path, value, permissions]…] of the node and all below, in order."""
        return walk_store(self._kernel.xenbus, argument(request, "path", str, "/"))

    # --- domains ---------------------------------------------------------------------------------

    def create(self, request: Request) -> Generator[Any, None, Any]:
        """text, file, folder, overrides, mark, paused, console → {domid, name}; with console a stream as below.

        `mark` comes back in `list`: it tells the maker's own domains from others.
        """
        config = read_config(
            argument(request, "text", str),
            argument(request, "file", str, "domain description"),
            Path(argument(request, "folder", str, "/")),
            [str(item) for item in argument(request, "overrides", list, [])],
        )
        config = replace(config, mark=argument(request, "mark", str, "") or None)
        watched = argument(request, "console", bool, False)

        def built(domid: DomId) -> None:
            if watched:
                self._send(request, {"domid": domid, "name": config.name})
                self._follow(request, self._domains.records[domid])

        paused = argument(request, "paused", bool, False)
        record: Record = yield from self._lifecycle.create(config, built, paused)
        return STREAMING if watched else {"domid": record.domid, "name": config.name}

    def destroy(self, request: Request) -> Operation:
        """domain → nothing, when its id is free."""
        return self._lifecycle.destroy(self._guest(request))

    def list_(self, request: Request) -> list[dict[str, Any]]:
        """domain (optional) → one map a domain."""
        wanted = argument(request, "domain", str, "")
        infos = [self._domains.find(wanted)] if wanted else self._xen.domains()
        return [describe(info, self._domains) for info in infos]

    def pause(self, request: Request) -> None:
        """domain → nothing."""
        self._xen.pausedomain(self._guest(request))

    def unpause(self, request: Request) -> None:
        """domain → nothing."""
        self._xen.unpausedomain(self._guest(request))

    def shutdown(self, request: Request) -> Generator[Any, None, Any]:
        """domain, wait, timeout → {reason} with wait."""
        return self._ask(request, "poweroff")

    def reboot(self, request: Request) -> Generator[Any, None, Any]:
        """domain, wait, timeout → {reason} with wait."""
        return self._ask(request, "reboot")

    def _ask(self, request: Request, command: str) -> Generator[Any, None, Any]:
        wait = argument(request, "wait", bool, False)
        timeout = float(argument(request, "timeout", (int, float), 0)) or None
        wanted = argument(request, "domain", str)
        reason = yield from self._lifecycle.shutdown(wanted, command, wait, timeout)
        return {"reason": name_of(reason) if reason is not None else None}

    def wait(self, request: Request) -> Generator[Any, None, Any]:
        """domain, reboots → {reason} once it has shut down; reason nothing if it was destroyed.

        With `reboots`: a reboot that the domain comes back from is no end.
        """
        reboots = argument(request, "reboots", bool, False)
        reason = yield from self._lifecycle.wait(argument(request, "domain", str), reboots)
        return {"reason": name_of(reason) if reason is not None else None}

    def domid(self, request: Request) -> int:
        """domain (its name) → its id."""
        return self._domains.find(argument(request, "domain", str)).domid

    def domname(self, request: Request) -> str | None:
        """domain (its id) → its name."""
        return self._domains.name_of(self._domains.find(argument(request, "domain", str)).domid)

    # --- consoles --------------------------------------------------------------------------------

    def console(self, request: Request) -> object:
        """domain, reboots → a stream of bytes from the oldest kept on; at its end {ended: reason}.

        With `reboots`: after a reboot the stream goes on with the domain that it made.
        """
        domid = self._guest(request)
        if (record := self._domains.records.get(domid)) is None:
            raise ToolstackError(f"domain {domid} has no console")
        self._follow(request, record, argument(request, "reboots", bool, False))
        return STREAMING

    def _follow(self, request: Request, record: Record, reboots: bool = False) -> None:
        """Answer with a domain's console. Raises ToolstackError."""
        if record.console is None:
            raise ToolstackError(f"domain {record.domid} has no console")

        def rebooted(reason: str) -> None:
            def go_on(successor: Record | None) -> None:
                if successor is None or reason != name_of(SHUTDOWN_reboot):
                    self._viewers.end(request, reason)
                elif self._viewers.follows(request):
                    self._follow(request, successor, reboots)

            self._operations.start(self._lifecycle.successor(record), go_on, partial(self._refuse, request))

        self._viewers.follow(request, record.console, rebooted if reboots else None)

    def console_input(self, request: Request) -> object:
        """data: bytes → nothing at all: typed into the console that this client has followed last."""
        self._viewers.type(request.peer, argument(request, "data", bytes))
        return STREAMING

    def console_detach(self, request: Request) -> object:
        """request (optional) → nothing at all: this client no longer follows what that request began, or
        anything.
        """
        number = argument(request, "request", int, -1)
        self._viewers.detach(request.peer, number if number >= 0 else None)
        return STREAMING

    def network_capture(self, request: Request) -> object:
        """domain, vif, or bridge → a stream of bytes in pcap's format; when the interface is gone {packets,
        dropped}.
        """
        if bridge := argument(request, "bridge", str, ""):
            self._captures.start_bridge(request, bridge)
        else:
            self._captures.start(request, self._guest(request), argument(request, "vif", int, 0))
        return STREAMING

    def _send(self, request: Request, value: Any) -> None:
        try:
            request.stream(value)
        except (Congested, Disconnected):
            return

    def _guest(self, request: Request) -> DomId:
        return self._domains.guest(argument(request, "domain", str)).domid


STREAMING: Final = object()
"""A handler's result when the request is answered, or will be, by other means."""

HANDLERS: Final[dict[str, Callable[[Service, Request], Any]]] = {
    Op.info: Service.info,
    Op.stop: Service.stop,
    Op.dmesg: Service.dmesg,
    Op.debug_keys: Service.debug_keys,
    Op.xenstore_ls: Service.xenstore_ls,
    Op.create: Service.create,
    Op.destroy: Service.destroy,
    Op.list_: Service.list_,
    Op.pause: Service.pause,
    Op.unpause: Service.unpause,
    Op.shutdown: Service.shutdown,
    Op.reboot: Service.reboot,
    Op.wait: Service.wait,
    Op.domid: Service.domid,
    Op.domname: Service.domname,
    Op.console: Service.console,
    Op.console_input: Service.console_input,
    Op.console_detach: Service.console_detach,
    Op.network_capture: Service.network_capture,
}


def argument(request: Request, name: str, kind: Any, default: Any = None) -> Any:
    """One argument of a request, of the type it must have. Raises ToolstackError(USAGE)."""
    value = request.arguments.get(name, default)
    if not isinstance(value, kind):
        raise ToolstackError(f"'{request.op}' needs '{name}'", Exit.USAGE)
    return value
