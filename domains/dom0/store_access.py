"""What connects the store with the domains around it: Dom0's own client, and the guests' rings.

The store runs inside Dom0, so Dom0's client needs no ring: bytes are handed over by a call. Guests' rings
are mapped and their events bound here; the store itself knows neither.
"""

from __future__ import annotations

from collections.abc import Callable

from domains.dom0.toolstack.xenctrl import XenCtrl
from domains.dom0.xenstore.connection import Connection
from domains.dom0.xenstore.errors import CannotConnect
from domains.dom0.xenstore.ring import Ring
from domains.dom0.xenstore.server import Xenstored
from domains.kernel.kernel import Kernel
from hypervisor.public.errno import XenError
from hypervisor.public.types import PAGE_SIZE, DomId, Mfn, Port, VAddr


class LocalWire:
    """A privileged connection of the store, as the wire of Dom0's Xenbus. `arrived` is called when there is
    something.
    """

    def __init__(self, xenstored: Xenstored) -> None:
        self.arrived: Callable[[], None] = lambda: None
        self._connection = xenstored.open(transport=self)

    def send(self, message: bytes) -> None:
        """Hands a message to the store, which answers at once."""
        self._connection.feed(message)

    def receive(self) -> bytes:
        """The answers and events that wait."""
        return self._connection.outgoing.take()

    def output_ready(self) -> None:
        """Called by the store: something waits."""
        self.arrived()

    def input_wanted(self) -> None:
        """Nothing is held back here."""


class GuestRings:
    """The store's view of the toolstack: which domains exist, and how to reach their rings."""

    def __init__(self, kernel: Kernel, xen: XenCtrl) -> None:
        self._kernel = kernel
        self._xen = xen
        self._lines: dict[DomId, tuple[VAddr, Port]] = {}
        self._found: set[DomId] = set()
        """Domains that Xen has said to exist in this turn of the loop: a new domain's tree asks dozens of times."""

    def exists(self, domid: DomId) -> bool:
        """Whether Xen knows the domain; asked once in a turn of the loop."""
        if domid in self._found:
            return True
        if self._xen.getdomaininfo(domid) is None:
            return False
        if not self._found:
            self._kernel.call_soon(self._found.clear)
        self._found.add(domid)
        return True

    def connect(self, connection: Connection, gfn: int, port: int) -> None:
        """Map the ring in frame `gfn`, bind the domain's unbound `port`. Raises CannotConnect."""
        domid = connection.domain.domid
        self.disconnect(domid)
        kernel = self._kernel
        try:
            va = kernel.memory.map_frames(domid, [Mfn(gfn)])
        except XenError as error:
            raise CannotConnect(f"ring of domain {domid}: {error}") from None
        try:
            local = kernel.events.bind_interdomain(domid, Port(port))
        except XenError as error:
            kernel.memory.unmap(va)
            raise CannotConnect(f"event channel of domain {domid}: {error}") from None
        self._lines[domid] = (va, local)
        page = kernel.cpu.view(va, PAGE_SIZE, write=True)
        ring = Ring(connection, page, lambda: self._notify(local), kernel.call_soon)
        kernel.events.bind(local, ring.poll)
        kernel.call_soon(ring.poll)

    def disconnect(self, domid: DomId) -> None:
        """Harmless if there is no connection."""
        line = self._lines.pop(domid, None)
        if line is not None:
            va, port = line
            self._kernel.events.close(port)
            self._kernel.memory.unmap(va)

    def _notify(self, port: Port) -> None:
        self._kernel.events.notify(port)
