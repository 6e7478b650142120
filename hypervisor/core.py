"""The core process: one loop that owns every socket and feeds the hypervisor.

    endpoint ◄────── requests, irqs ──────── domain processes
    supervisor pair ◄── FORKED ── the supervisor, parent of all
    pidfds (a process ended), pairs (BOUND: its endpoint is there), the supervisor's pidfd

All of them wait in one epoll. Nothing here waits for anybody: forks, connections and deaths are answered when
they come in, and hypercalls that take long go on in portions between messages (Q4). A process that breaks the
protocol ends, with its domain; the core does not.
"""

from __future__ import annotations

import select
import shutil
import signal
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Final, TypeVar

import numpy.ma  # noqa: F401 - np.unique imports it at its first use, which would hold the first hypercall that needs it for 30 ms

from hypervisor.domain.dom0_build import build_dom0
from hypervisor.domain.domain import Domain, Vcpu
from hypervisor.domain.hypervisor import Hypervisor
from hypervisor.domain.posts import PostedOperations
from hypervisor.domain.requests import ProcessRequests
from hypervisor.domain.timer_actions import fire
from hypervisor.hypercalls.dispatch import Dispatcher
from hypervisor.links import Link, Links
from hypervisor.machine.clock import Clock
from hypervisor.machine.config import MachineConfig
from hypervisor.machine.frame_types import SHARED_PAGES, FrameTypes
from hypervisor.machine.memory import MachineMemory, create_memfd, seal_read_only
from hypervisor.mm.layout import XEN_FRAMES
from hypervisor.public.types import DomId
from hypervisor.public.xen import Hypercall
from hypervisor.sched.policies import make_scheduler
from hypervisor.wire.errors import ConnectionEnded
from hypervisor.wire.messages import (
    FRAME_TYPES_MEMFD,
    M2P_MEMFD,
    MAX_POSTS,
    POST_SIZE,
    POSTS_FIELDS,
    REQUEST_FIELDS,
    VCPU_FIELD,
    ProtocolError,
    Request,
    unpack_request,
)

MESSAGES_PER_TURN: Final = 64
POSTS_PER_TURN: Final = MAX_POSTS
"""Nobody answers posts, so a process can send them as fast as it likes: after so many the core looks at timers and at what goes
on in portions, too.
"""
MAX_SLEEP_S: Final = 3600.0
"""How long the core sleeps at most, however far the next deadline is: epoll takes no more than a 32-bit number of ms."""
NS_PER_S: Final = 10**9
POSTS: Final = -100
"""In the place of a request's number: posts alone."""
REQUEST_NAMES: Final = {POSTS: "posts"} | {int(one): one.name for one in (*Hypercall, *Request)}
"""What a hypercall, or a process's own request, is called."""

T = TypeVar("T")


class Core:
    """The loop, and what it drives: the hypervisor, the dispatcher of hypercalls, the links with the processes."""

    LINKS: ClassVar[type[Links]] = Links

    def __init__(
        self,
        config: MachineConfig,
        supervisor: socket.socket,
        supervisor_pidfd: int,
        clock: Clock | None = None,
    ) -> None:
        """`clock`: the machine's; None: the host's."""
        self.config = config
        self._epoll = select.epoll()
        xen_fd = create_memfd("xen", XEN_FRAMES, seal=False)
        memory = MachineMemory()
        memory.map(xen_fd, 0, XEN_FRAMES, 0)
        types_fd = create_memfd("frame types", SHARED_PAGES, seal=False)
        frame_types = FrameTypes(types_fd, writable=True)
        shared = {M2P_MEMFD: xen_fd, FRAME_TYPES_MEMFD: types_fd}
        for fd in shared.values():
            seal_read_only(fd)
        self.links = self.LINKS(config.folder, supervisor, supervisor_pidfd, shared, self._epoll)
        self._endpoint = self.links.endpoint
        self.hv = Hypervisor(
            memory,
            self.links,
            memory_frames=config.memory_frames,
            nr_cpus=config.nr_cpus,
            scheduler=make_scheduler(config.sched, config.slice_ns),
            clock=clock,
            frame_types=frame_types,
        )
        self.links.hv = self.hv
        self.dispatcher = Dispatcher(self.hv)
        self._requests = ProcessRequests(self.hv)
        self._posts = PostedOperations(self.hv)
        self._last_nr = 0
        """Number of the last request that was looked at."""
        self._posts_left = POSTS_PER_TURN
        """How many posts are still performed in this turn."""

    # --- the loop --------------------------------------------------------------------------------

    def run(self) -> None:
        """Build Dom0, then serve until the machine ends; the folder is gone afterwards."""
        try:
            build_dom0(self.hv, self.config)
            self.hv.busiest.reset()
            self._loop()
        finally:
            self._endpoint.close()
            shutil.rmtree(self.config.folder, ignore_errors=True)

    def _loop(self) -> None:
        """Asleep, the core waits in its epoll for whatever comes first; it sleeps when a whole turn did nothing
        that could have brought something new.
        """
        links, endpoint_fd, timeout = self.links, self._endpoint.fd, self._timeout()
        while not links.ending:
            for fd, _events in self._epoll.poll(timeout):
                if fd != endpoint_fd:
                    self._notice(fd)
            busy = self._drain()
            busy |= self._run_background()
            timeout = self._timeout()
            if timeout == 0:
                self._run_timers()
            elif busy:
                timeout = 0

    def _notice(self, fd: int) -> None:
        """A descriptor other than the endpoint's is ready."""
        links = self.links
        domain = links.by_fd[fd].domain if fd in links.by_fd else None
        self._guarded("a descriptor's notice", domain, partial(links.on_descriptor, fd))

    def _guarded(self, what: str, domain: Domain | None, act: Callable[[], T]) -> T | None:
        """Do `act`. A bug that shows itself there ends the domain it is about at most, never the machine (H3)."""
        try:
            return act()
        except Exception:  # noqa: BLE001 - H3: see above
            self.hv.bug(domain, what)
            return None

    def _timeout(self) -> float | None:
        """Seconds until the next deadline, MAX_SLEEP_S at most: 0 if it has come, None if there is none."""
        first = self._guarded("the next deadline", None, self._next_deadline)
        return None if first is None else min(max(0, first - self.hv.now()) / NS_PER_S, MAX_SLEEP_S)

    def _next_deadline(self) -> int | None:
        """System time, ns, of the first timer or the first end of a slice."""
        hv = self.hv
        first, slice_end = hv.timers.next_deadline(), hv.run.slices.next_deadline()
        return slice_end if first is None or (slice_end is not None and slice_end < first) else first

    def _run_timers(self) -> bool:
        """Whether any was due."""
        hv = self.hv
        now = hv.now()
        any_due = bool(self._guarded("the end of a slice", None, lambda: hv.run.slices.expire(now)))
        hv.busiest.lap("the end of a slice")
        for timer in hv.timers.due(now):
            any_due = True
            domain = hv.domains.get(DomId(timer.domid))
            self._guarded(f"a timer {timer.kind.name} of d{timer.domid}", domain, partial(fire, hv, timer))
            hv.busiest.lap("a timer", timer.kind.name)
        return any_due

    def _run_background(self) -> bool:
        """One portion of a hypercall that was cut and one step of other work; whether there was anything to do.

        No more than that: messages are looked at between any two, so that a request waits for a portion of one other
        domain, and not for one of each (Q4).
        """
        hv = self.hv
        if not hv.run.continuations and not hv.work:
            return False
        if hv.run.continuations:
            self._guarded("a continuation", None, self.dispatcher.go_on)
            hv.busiest.lap("a continuation")
        if hv.work:
            work = hv.work.popleft()
            done = self._guarded(f"background work of d{work.domain.domid}", work.domain, work.step)
            hv.busiest.lap("background work")
            if done is False:
                hv.work.append(work)
        return True

    # --- messages --------------------------------------------------------------------------------

    def _drain(self) -> bool:
        """Serve the messages that are there; True if the turn ended before the last one."""
        receive, readable, lap = self._endpoint.receive, self._endpoint.readable, self.hv.busiest.lap
        self._posts_left = POSTS_PER_TURN
        for _ in range(MESSAGES_PER_TURN):
            received = receive()
            if received is None:
                return False
            domid, data = received
            self._serve(domid, data)
            if domid is None:
                lap("bytes that were no whole message")
            else:
                lap(REQUEST_NAMES.get(self._last_nr, "an unknown request"), "of domain", domid)
            if not readable():
                return False
            if self._posts_left <= 0:
                break
        return True

    def _serve(self, domid: int | None, data: bytes | ProtocolError) -> None:
        """One message, or what is wrong with a connection: whatever it is, it ends its sender's domain at most."""
        link = self.links.by_domid.get(domid) if domid is not None else None
        if link is None or link.killed:
            return
        try:
            self._on_message(link, data)
        except ConnectionEnded:
            self.links.connection_ended(link)
        except ProtocolError as error:
            self.links.broke_the_protocol(link, str(error))
        except Exception:  # noqa: BLE001 - H3: a bug of the hypervisor ends nobody but the caller
            self.hv.bug(link.domain, f"a message of d{domid}")
            self.links.broke_the_protocol(link, "hypervisor bug")

    def _on_message(self, link: Link, data: bytes | ProtocolError) -> None:
        """One message of a domain process, which may be anything (docs/trust.md). Raises ProtocolError."""
        if isinstance(data, ProtocolError):
            raise data
        message = unpack_request(data)
        fields = len(message)
        if fields == POSTS_FIELDS:
            self._on_posts(link, *message)
        elif fields == 1:
            self._on_irq(link, message[0])
        else:
            if fields > REQUEST_FIELDS:
                self._on_posts(link, message[VCPU_FIELD], message.pop())
            self._on_request(link, message)

    def _on_posts(self, link: Link, vcpu_id: int, posts: bytes) -> None:
        """What a vCPU has done already. Raises ProtocolError."""
        self._last_nr = POSTS
        self._posts_left -= len(posts) // POST_SIZE
        self._posts.perform(self._vcpu(link, vcpu_id), posts)

    def _vcpu(self, link: Link, vcpu_id: int) -> Vcpu:
        """The domain's vCPU of that number. ProtocolError: there is none."""
        if not 0 <= vcpu_id < len(link.domain.vcpus):
            raise ProtocolError(f"a message of vCPU {vcpu_id}")
        return link.domain.vcpus[vcpu_id]

    def _on_irq(self, link: Link, irq: int) -> None:
        """A host descriptor is ready. Raises ProtocolError."""
        self._requests.irq(link.domain, irq)

    def _on_request(self, link: Link, message: list[Any]) -> None:
        """One request, of the form that wire/messages.py says. Raises ProtocolError."""
        seq, vcpu_id, nr, a1, a2, a3, a4, a5, seen = message
        self._last_nr = nr
        vcpu = self._vcpu(link, vcpu_id)
        if not link.connected:
            link.connected = True
            self._endpoint.connected(link.domain.domid)
        if nr >= 0:
            self.hv.run.request(vcpu, seq, nr)
            self.dispatcher.hypercall(vcpu, nr, (a1, a2, a3, a4, a5), seen)
        else:
            self._requests.perform(vcpu, seq, nr, (a1, a2, a3, a4, a5))


def run_core(
    config: MachineConfig,
    supervisor: socket.socket,
    supervisor_pidfd: int,
    kind: Callable[[MachineConfig, socket.socket, int], Core] = Core,
) -> None:
    """The core process's body."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    core = kind(config, supervisor, supervisor_pidfd)
    core.hv.log.line(
        f"Xenoscope: machine {config.name}, {config.memory_frames >> 8} MiB, {config.nr_cpus} CPUs"
    )
    core.run()
