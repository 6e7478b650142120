"""What carries a split driver's words between two domains, in one process: pages, grants, event channels, and
the real store.

A double of the transport alone, with Xen's rules for who may map what and who hears whom: nothing of the
drivers' own is imitated. `Machine.census` says what is still held, for a test to compare with what was held
before.
"""

import heapq
import mmap
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from numpy.typing import NDArray

from domains.dom0.xenstore.server import Xenstored
from domains.kernel.grants import GranterRuns, GrantMapping, InOrder
from domains.kernel.kernel import Kernel
from domains.kernel.memory import Page
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.grant_table import GNTCOPY_dest_gref, GNTCOPY_source_gref, GrantStatus
from hypervisor.public.types import PAGE_SIZE, DomId, GrantRef, Mfn, Pfn, Port, VAddr
from hypervisor.public.xen import DOMID_SELF
from tests.domains.dom0.xenstore.client import Rings
from tests.drivers.store_client import StoreClient

MAPPINGS = 1 << 40
"""Mapped grants of a domain are seen from this address on; its own pages at their machine address."""


@dataclass
class Grant:
    """One entry of a grant table."""

    domid: int
    mfn: int
    readonly: bool
    pins: int = 0


@dataclass
class Channel:
    """One end of an event channel; `peer` is None while nobody is bound to it."""

    remote: int
    peer: tuple[int, int] | None = None
    handler: Callable[[], None] | None = None
    pending: bool = False
    masked: bool = False


class Machine:
    """The frames, and every domain's tables."""

    def __init__(self, frames: int = 4096) -> None:
        self.memory = memoryview(mmap.mmap(-1, frames * PAGE_SIZE))
        self.free = list(range(1, frames))
        self.domains: dict[int, Domain] = {}
        self.queue: deque[Callable[[], None]] = deque()
        self.store = Xenstored(Rings(*range(1, 64)))
        self.stores: list[StoreClient] = []
        self.time = 0  # nanoseconds, one for each look at it, and more when all wait for a timer
        self.timers: list[tuple[int, int, Callable[[], None]]] = []

    def domain(self, domid: int) -> "Domain":
        self.domains[domid] = Domain(self, domid)
        return self.domains[domid]

    def frame(self, mfn: int) -> memoryview:
        return self.memory[mfn * PAGE_SIZE : (mfn + 1) * PAGE_SIZE]

    def step(self) -> bool:
        """Run one callback of any domain; False if there is none."""
        for store in self.stores:
            store.deliver()
        if self.queue:
            self.queue.popleft()()
        elif self.timers:
            due, _, callback = heapq.heappop(self.timers)
            self.time = max(self.time, due)
            callback()
        else:
            return False
        return True

    def settle(self) -> None:
        """Run until nobody has anything to do."""
        for _ in range(100_000):
            if not self.step():
                return
        raise AssertionError("the machine does not come to rest")

    def census(self) -> dict[str, int]:
        """What is held: frames, pins on grants, open ports, watches."""
        domains = self.domains.values()
        return {
            "frames": -len(self.free),
            "pins": sum(grant.pins for d in domains for grant in d.grants.table.values()),
            "mappings": sum(len(d.cpu.mapped) for d in domains),
            "ports": sum(len(d.events.channels) for d in domains),
            "watches": sum(len(store.callbacks) for store in self.stores),
        }


class Domain:
    """Stands where a Kernel stands: memory, grants, events, xenbus, and the loop."""

    def __init__(self, machine: Machine, domid: int) -> None:
        self.machine = machine
        self.domid = DomId(domid)
        self.privileged = domid == 0
        self.cpu = Cpu(machine)
        self.memory = Memory(machine)
        self.grants = Grants(machine, self)
        self.events = Events(machine, self)
        self.xenbus = StoreClient(machine, domid)
        self.dead = False

    @property
    def kernel(self) -> Kernel:
        """The same, for a driver, which takes a Kernel."""
        return cast(Kernel, self)

    def now(self) -> int:
        self.machine.time += 1
        return self.machine.time

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.machine.queue.append(lambda: self._run(callback))

    def _run(self, callback: Callable[[], None]) -> None:
        if not self.dead:
            callback()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        timers = self.machine.timers
        heapq.heappush(
            timers, (self.machine.time + int(seconds * 1e9), len(timers), lambda: self._run(callback))
        )

    def wait(self, condition: Callable[[], bool], timeout: float | None = None) -> bool:
        while not condition():
            if not self.machine.step():
                assert timeout is not None, "waits for ever: nobody has anything to do"
                return condition()
        return True

    def die(self) -> None:
        """The domain runs no more, its channels and watches are gone; what others mapped of it stays."""
        self.dead = True
        self.machine.stores.remove(self.xenbus)
        self.xenbus.callbacks.clear()
        self.machine.store.shutdown(self.domid)
        for port in list(self.events.channels):
            self.events.close(Port(port))


class Cpu:
    """Views of what is mapped."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.mapped: dict[int, tuple[int, bool]] = {}  # page number of the mapping: mfn, writable
        self.next = MAPPINGS // PAGE_SIZE

    def view(self, va: int, size: int, write: bool = False) -> memoryview:
        assert va % PAGE_SIZE + size <= PAGE_SIZE
        page = va // PAGE_SIZE
        mfn, writable = self.mapped[page] if page >= MAPPINGS // PAGE_SIZE else (page, True)
        assert writable or not write, "a write to what is mapped read-only"
        view = self._machine.frame(mfn)[va % PAGE_SIZE : va % PAGE_SIZE + size]
        return view if write else view.toreadonly()

    def views(self, va: int, size: int, write: bool = False) -> list[memoryview]:
        assert va % PAGE_SIZE == 0
        assert size % PAGE_SIZE == 0
        return [self.view(at, PAGE_SIZE, write) for at in range(va, va + size, PAGE_SIZE)]


class Memory:
    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def alloc_page(self) -> Page:
        if not self._machine.free:
            raise XenError(Errno.ENOMEM)
        mfn = self._machine.free.pop()
        self._machine.frame(mfn)[:] = bytes(PAGE_SIZE)
        return Page(VAddr(mfn * PAGE_SIZE), Pfn(mfn), Mfn(mfn))

    def free_page(self, page: Page) -> None:
        assert page.mfn not in self._machine.free
        self._machine.free.append(page.mfn)


class Grants:
    def __init__(self, machine: Machine, domain: Domain) -> None:
        self._machine = machine
        self._domain = domain
        self.table: dict[int, Grant] = {}
        self._next = 8
        self._handles: dict[int, list[tuple[Grant, int]]] = {}
        self._granters: dict[int, int] = {}
        self.copies = 0
        self.tried = 0
        """Calls of any kind."""
        self.busy: set[int] = set()
        """Domains that do not come to a standstill."""

    def grant_access(self, domid: DomId, mfn: Mfn, readonly: bool = False) -> GrantRef:
        self._next += 1
        self.table[self._next] = Grant(domid, mfn, readonly)
        return GrantRef(self._next)

    def end_access(self, ref: GrantRef) -> bool:
        if self.table[ref].pins:
            return False
        del self.table[ref]
        return True

    def try_map(self, domid: DomId, refs: Sequence[GrantRef], writable: bool = True) -> GrantMapping:
        """As Xen does it. Of a domain in `busy` nothing can be mapped or unmapped."""
        self.tried += 1
        if domid in self.busy:
            raise GranterRuns("map")
        if not self._domain.privileged:
            raise XenError(Errno.EINVAL, "GNTST_general_error")
        granter = self._machine.domains.get(domid)
        grants = []
        for ref in refs:
            grant = granter.grants.table.get(ref) if granter else None
            if grant is None or grant.domid != self._domain.domid or (writable and grant.readonly):
                raise XenError(Errno.EINVAL, "GNTST_bad_gntref")
            grants.append(grant)
        cpu, first = self._domain.cpu, self._domain.cpu.next
        cpu.next += len(grants)
        for at, grant in enumerate(grants):
            grant.pins += 1
            cpu.mapped[first + at] = (grant.mfn, writable)
        self._granters[first] = domid
        self._handles[first] = [(grant, first + at) for at, grant in enumerate(grants)]
        return GrantMapping(VAddr(first * PAGE_SIZE), tuple(range(first, first + len(grants))))

    def try_copy_rows(self, rows: NDArray[Any]) -> list[int]:
        """Operations of gnttab_copy.dtype, each with Xen's checks (G13). Of a domain in `busy` nothing can be copied."""
        self.copies += 1
        self.tried += 1
        return [
            int(GrantStatus.GNTST_eagain)
            if {row["source"]["domid"], row["dest"]["domid"]} & self.busy
            else self._copy(row)
            for row in rows
        ]

    def try_copy_in_order(self, rows: NDArray[Any]) -> InOrder:
        """The first that fails; the others are performed all the same."""
        statuses = self.try_copy_rows(rows)
        return next(
            (InOrder(at, status) for at, status in enumerate(statuses) if status), InOrder(len(rows), 0)
        )

    def _copy(self, row: Any) -> int:
        flags, size = int(row["flags"]), int(row["len"])
        source = self._copy_end(row["source"], bool(flags & GNTCOPY_source_gref), write=False)
        dest = self._copy_end(row["dest"], bool(flags & GNTCOPY_dest_gref), write=True)
        if source is None or dest is None:
            return int(GrantStatus.GNTST_bad_gntref)
        start, to = int(row["source"]["offset"]), int(row["dest"]["offset"])
        if max(start, to) + size > PAGE_SIZE:
            return int(GrantStatus.GNTST_bad_copy_arg)
        dest[to : to + size] = bytes(source[start : start + size])
        return int(GrantStatus.GNTST_okay)

    def _copy_end(self, end: Any, by_ref: bool, write: bool) -> memoryview | None:
        if not by_ref:
            assert end["domid"] == DOMID_SELF
            return self._machine.frame(int(end["u"]["gmfn"]))
        granter = self._machine.domains.get(int(end["domid"]))
        grant = granter.grants.table.get(int(end["u"]["ref"])) if granter else None
        if grant is None or grant.domid != self._domain.domid or (write and grant.readonly):
            return None
        return self._machine.frame(grant.mfn)

    def try_unmap(self, mapping: GrantMapping) -> None:
        self.tried += 1
        if self._granters[mapping.va // PAGE_SIZE] in self.busy:
            raise GranterRuns("unmap")
        for grant, page in self._handles.pop(mapping.va // PAGE_SIZE):
            grant.pins -= 1
            del self._domain.cpu.mapped[page]


class Events:
    def __init__(self, machine: Machine, domain: Domain) -> None:
        self._machine = machine
        self._domain = domain
        self.channels: dict[int, Channel] = {}
        self._next = 0
        self.sent = 0

    def _new(self, channel: Channel) -> Port:
        self._next += 1
        self.channels[self._next] = channel
        return Port(self._next)

    def alloc_unbound(self, remote: DomId) -> Port:
        return self._new(Channel(remote))

    def bind_interdomain(self, remote: DomId, remote_port: Port) -> Port:
        other = self._machine.domains.get(remote)
        channel = other.events.channels.get(remote_port) if other else None
        if channel is None or channel.remote != self._domain.domid or channel.peer is not None:
            raise XenError(Errno.EINVAL)
        port = self._new(Channel(remote, (remote, remote_port), pending=True))
        channel.peer = (self._domain.domid, port)
        return port

    def bind(self, port: Port, handler: Callable[[], None]) -> None:
        self.channels[port].handler = handler
        self._deliver(port)

    def mask(self, port: Port) -> None:
        self.channels[port].masked = True

    def notify(self, port: Port) -> None:
        self.sent += 1
        peer = self.channels[port].peer
        if peer is not None:
            self._machine.domains[peer[0]].events.raise_port(peer[1])

    def notify_all(self, ports: Sequence[Port]) -> None:
        for port in ports:
            self.notify(port)

    def raise_port(self, port: int) -> None:
        self.channels[port].pending = True
        self._deliver(port)

    def _deliver(self, port: int) -> None:
        channel = self.channels[port]
        if channel.pending and channel.handler and not channel.masked:
            channel.pending = False
            self._machine.queue.append(lambda: self._call(port))

    def _call(self, port: int) -> None:
        channel = self.channels.get(port)
        if channel is not None and channel.handler is not None:
            channel.handler()

    def close(self, port: Port) -> None:
        channel = self.channels.pop(port)
        if channel.peer is not None:
            other = self._machine.domains[channel.peer[0]].events.channels[channel.peer[1]]
            other.peer = None
