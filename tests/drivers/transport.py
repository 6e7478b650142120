"""What carries a split driver's words between two domains, in one process: pages, grants and event channels. The store, its
clients and the loops are the real ones.

A double of the transport alone, with Xen's rules for who may map what and who hears whom: nothing of the
drivers' own is imitated. The loops of all domains share one queue, so that handlers run in the order of their arrival.
Dom0's client of the store is answered at once, everybody else's by an event, as on a real machine.
`Machine.census` says what is still held, for a test to compare with what was held before.
"""

import mmap
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from numpy.typing import NDArray

from domains.dom0.store_access import LocalWire
from domains.dom0.xenstore.server import Xenstored
from domains.kernel.grants import GrantMapping, InOrder
from domains.kernel.kernel import GuestEnded, Kernel
from domains.kernel.loop import Callback, Loop, Source
from domains.kernel.memory import Page
from domains.kernel.waiting import Waiting
from domains.kernel.xenbus import Xenbus
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.grant_table import GNTCOPY_dest_gref, GNTCOPY_source_gref, GrantStatus
from hypervisor.public.types import PAGE_SIZE, DomId, GrantRef, Mfn, Pfn, Port, VAddr
from hypervisor.public.xen import DOMID_SELF
from tests.domains.dom0.xenstore.client import Rings

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
    source: Source | None = None
    pending: bool = False
    masked: bool = False


class Machine:
    """The frames, every domain's tables, and the queue of their loops."""

    def __init__(self, frames: int = 4096) -> None:
        self.memory = memoryview(mmap.mmap(-1, frames * PAGE_SIZE))
        self.free = list(range(1, frames))
        self.domains: dict[int, Domain] = {}
        self.queue: deque[Source] = deque()
        self.store = Xenstored(Rings(*range(1, 64)))
        self.handled = 0
        """So many handlers have run."""
        self.interruptions: dict[int, Callable[[], None]] = {}
        """What happens from outside once so many handlers have run."""
        self.time = 0  # nanoseconds, one for each look at it, and more when all wait for a timer

    def domain(self, domid: int) -> "Domain":
        self.domains[domid] = Domain(self, domid)
        return self.domains[domid]

    def frame(self, mfn: int) -> memoryview:
        return self.memory[mfn * PAGE_SIZE : (mfn + 1) * PAGE_SIZE]

    def run_one(self) -> bool:
        """Run the handler that has been ready longest, whosever it is; False if there is none."""
        if not self.queue:
            return False
        source = self.queue.popleft()
        if not cast(DomainLoop, source.loop).dead:
            source.run()
        self.handled += 1
        if self.handled in self.interruptions:
            self.interruptions.pop(self.handled)()
        return True

    def pass_time(self, until: int | None = None) -> bool:
        """Let time pass up to the first timer, or `until`; False if there is neither."""
        loops = [domain.loop for domain in self.domains.values() if not domain.loop.dead]
        due = [time for time in (until, *(loop.next_deadline() for loop in loops)) if time is not None]
        if not due:
            return False
        self.time = max(self.time, min(due))
        for loop in loops:
            loop.fire(self.time)
        return True

    def step(self) -> bool:
        """Run one handler of any domain, or let time pass; False if there is nothing to wait for."""
        return self.run_one() or self.pass_time()

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
            "watches": sum(len(d.xenbus.tasks._watches) for d in domains if not d.loop.dead),
        }


class DomainLoop(Loop):
    """A domain's loop, whose handlers wait in the machine's queue."""

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self.ready = machine.queue
        self.run_one = machine.run_one  # type: ignore[method-assign]
        self.dead = False


class GuestWire(LocalWire):
    """A guest's connection with the store."""

    def __init__(self, xenstored: Xenstored, domid: DomId) -> None:
        self._connection = xenstored.introduce(domid, gfn=1, port=1)
        self._connection.transport = self


class Domain(Waiting):
    """Stands where a Kernel stands: memory, grants, events and xenbus. How it waits is the real thing."""

    loop: DomainLoop
    events: "Events"  # type: ignore[assignment]

    def __init__(self, machine: Machine, domid: int) -> None:
        self.machine = machine
        self.domid = DomId(domid)
        self.privileged = domid == 0
        self.repeats = True  # no host descriptors, and nothing at the host's own time
        self.cpu = Cpu(machine)
        self.memory = Memory(machine)
        self.grants = Grants(machine, self)
        nothing = cast(Any, None)
        super().__init__(DomainLoop(machine), nothing, nothing, cast(Any, Events(machine, self)))
        wire = LocalWire(machine.store) if domid == 0 else GuestWire(machine.store, self.domid)
        self.xenbus = Xenbus(wire, self.loop, self.run)
        receive = self.xenbus.receive
        wire.arrived = receive if domid == 0 else self.loop.source(receive).trigger

    @property
    def kernel(self) -> Kernel:
        """The same, for a driver, which takes a Kernel."""
        return cast(Kernel, self)

    def now(self) -> int:
        self.machine.time += 1
        return self.machine.time

    def _sleep(self, deadline: int | None) -> None:
        if self.loop.dead:
            raise GuestEnded
        assert self.machine.pass_time(deadline), "waits for ever: nobody has anything to do"

    def die(self) -> None:
        """The domain runs no more, its channels and watches are gone; what others mapped of it stays."""
        self.loop.dead = True
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
        self.copies = 0

    def grant_access(self, domid: DomId, mfn: Mfn, readonly: bool = False) -> GrantRef:
        self._next += 1
        self.table[self._next] = Grant(domid, mfn, readonly)
        return GrantRef(self._next)

    def end_access(self, ref: GrantRef) -> bool:
        if self.table[ref].pins:
            return False
        del self.table[ref]
        return True

    def map(self, domid: DomId, refs: Sequence[GrantRef], writable: bool = True) -> GrantMapping:
        """As Xen does it."""
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
        self._handles[first] = [(grant, first + at) for at, grant in enumerate(grants)]
        return GrantMapping(VAddr(first * PAGE_SIZE), tuple(range(first, first + len(grants))))

    def copy_rows(self, rows: NDArray[Any]) -> list[int]:
        """Operations of gnttab_copy.dtype, each with Xen's checks (G13)."""
        self.copies += 1
        return [self._copy(row) for row in rows]

    def copy_in_order(self, rows: NDArray[Any]) -> InOrder:
        """The first that fails; the others are performed all the same."""
        statuses = self.copy_rows(rows)
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

    def unmap(self, mapping: GrantMapping) -> None:
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

    def bind(self, port: Port, handler: Callback) -> None:
        self.channels[port].source = self._domain.loop.source(handler)
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
        if channel.pending and channel.source is not None and not channel.masked:
            channel.pending = False
            channel.source.trigger()

    def close(self, port: Port) -> None:
        channel = self.channels.pop(port)
        if channel.source is not None:
            channel.source.callback = None
        if channel.peer is not None:
            other = self._machine.domains[channel.peer[0]].events.channels[channel.peer[1]]
            other.peer = None
