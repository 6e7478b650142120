"""Domains that others made, such as xl create: Dom0 serves them as it serves the toolstack's own.

    @introduceDomain ──► its console/ is watched ──► ring-ref and port are there: consoled serves it, and says under which tty
    VIRQ_DOM_EXC ──────► it has shut down: @releaseDomain    it is dying: all that Dom0 has of it is let go

What becomes of one that has shut down is its maker's business: no `on_…` are known here. Source: Xen tools/console/daemon/io.c,
tools/xenstore/xenstored_domain.c.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from domains.dom0.console.consoled import Consoled
from domains.dom0.console.terminal import Terminal
from domains.dom0.toolstack.domains import Domains
from domains.dom0.toolstack.store_tree import home, read_or_none, tty_of
from domains.dom0.toolstack.xenctrl import DomainInfo, XenCtrl
from domains.dom0.xenstore.server import Xenstored
from domains.kernel.tasks import Task
from domains.kernel.xenbus import Xenbus
from hypervisor.public.errno import XenError
from hypervisor.public.types import DomId, Mfn, Port


@dataclass
class Foreign:
    """One of them: the watch on its console, which is served once it is there."""

    watch: str
    terminal: Terminal | None = None


class Adopted:
    """One per Dom0."""

    def __init__(
        self,
        xen: XenCtrl,
        xenbus: Xenbus,
        xenstored: Xenstored,
        consoled: Consoled,
        domains: Domains,
        log: Callable[[str], None],
    ) -> None:
        self._xen = xen
        self._xenbus = xenbus
        self._xenstored = xenstored
        self._consoled = consoled
        self._domains = domains
        self._log = log
        self._adopted: dict[DomId, Foreign] = {}
        domains.ending.append(self._forget)
        xenbus.watch("@introduceDomain", self._introduced)

    def console(self, domid: DomId) -> Terminal | None:
        """The console of one; None: it has none yet, or is the toolstack's own."""
        foreign = self._adopted.get(domid)
        return foreign.terminal if foreign is not None else None

    def look(self, infos: Mapping[DomId, DomainInfo]) -> None:
        """Some domain has shut down or ceased to exist: here are those there are."""
        for domid in list(self._adopted):
            info = infos.get(domid)
            if info is None or info.dying:
                self._domains.ends(domid)
                self._xenstored.release(domid)
            elif info.shutdown is not None:
                self._xenstored.shutdown(domid)

    def _introduced(self, _path: str) -> Task[None]:
        for info in (yield from self._xen.all_domains()):
            domid = info.domid
            if domid == 0 or info.dying or domid in self._adopted or domid in self._domains.records:
                continue
            if self._xenstored.is_introduced(domid):
                self._adopt(domid)

    def _adopt(self, domid: DomId) -> None:
        foreign = self._adopted[domid] = Foreign("")
        self._domains.adopted[domid] = None
        foreign.watch = self._xenbus.watch(f"{home(domid)}/console", lambda _path: self._serve(domid))

    def _serve(self, domid: DomId) -> None:
        """Its console's directory has changed: serve it, if it is there and is not served."""
        foreign, path = self._adopted.get(domid), f"{home(domid)}/console"
        if foreign is None or foreign.terminal is not None:
            return
        ring, port = (number(read_or_none(self._xenbus, f"{path}/{name}")) for name in ("ring-ref", "port"))
        if ring is None or port is None:
            return
        try:
            foreign.terminal = self._consoled.connect(domid, Mfn(ring), Port(port))
        except XenError as error:
            self._log(f"the console of domain {domid} cannot be served: {error}")
            return
        self._xenbus.write(f"{path}/tty", tty_of(domid))

    def _forget(self, domid: DomId) -> None:
        """It ends, whoever ends it."""
        foreign = self._adopted.pop(domid, None)
        self._domains.adopted.pop(domid, None)
        if foreign is not None:
            self._xenbus.unwatch(foreign.watch)
            self._consoled.disconnect(domid, "destroyed")


def number(text: str | None) -> int | None:
    """A node's value, which its writer may have made anything, as a number below 2**32."""
    return int(text) if text is not None and text.isascii() and text.isdecimal() and len(text) < 10 else None
