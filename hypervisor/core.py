"""The core process: one loop that owns every socket and feeds the hypervisor.

    STREAM ◄──────── requests, irqs ──────── domain processes
    supervisor pair ◄── FORKED ── the supervisor, parent of all
    pidfds (a process ended), pairs (BOUND: its endpoint is there), the supervisor's pidfd

All of them wait in one epoll. Nothing here waits for anybody: forks, connections and deaths are answered when
they come in, and hypercalls that take long go on in portions between messages (Q4). A process that breaks the
protocol ends, with its domain; the core does not.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from hypervisor.domain.dom0_build import build_dom0
from hypervisor.domain.domain import Domain
from hypervisor.domain.hypervisor import HARDWARE_DOMID, Hypervisor
from hypervisor.domain.lifecycle import begin_destroy, process_gone
from hypervisor.domain.requests import ProcessRequests
from hypervisor.domain.timer_actions import fire
from hypervisor.domain.vcpu import Vcpu
from hypervisor.hypercalls.dispatch import Dispatcher
from hypervisor.machine.config import MachineConfig
from hypervisor.machine.memory import MachineMemory, create_memfd, seal_read_only
from hypervisor.mm.layout import XEN_FRAMES
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.types import DomId
from hypervisor.wire import descriptors
from hypervisor.wire.descriptors import Note
from hypervisor.wire.endpoint import CoreEndpoint
from hypervisor.wire.messages import M2P_MEMFD, Effect, ProtocolError, pack, unpack_request

MESSAGES_PER_TURN: Final = 64
MAX_SLEEP_S: Final = 3600.0
"""How long the core sleeps at most, however far the next deadline is: epoll takes no more than a 32-bit number of ms."""
NS_PER_S: Final = 10**9
RESERVED_DESCRIPTORS: Final = 64
DESCRIPTORS_PER_DOMAIN: Final = 6

T = TypeVar("T")


@dataclass(eq=False)
class Link:
    """The core's connection with one domain process. `seq`: the last request's number."""

    domain: Domain
    pair: socket.socket
    path: str
    pidfd: int = -1
    seq: int = 0
    bound: bool = False
    connected: bool = False
    killed: bool = False


class Core:
    def __init__(self, config: MachineConfig, supervisor: socket.socket, supervisor_pidfd: int) -> None:
        self.config = config
        self.links: dict[int, Link] = {}
        self.ending = False
        self._supervisor = supervisor
        self._supervisor_pidfd = supervisor_pidfd
        self._endpoint = CoreEndpoint()
        self._by_fd: dict[int, Link] = {}
        self._xen_fd = create_memfd("xen", XEN_FRAMES, seal=False)
        memory = MachineMemory()
        memory.map(self._xen_fd, 0, XEN_FRAMES, 0)
        seal_read_only(self._xen_fd)
        self.hv = Hypervisor(memory, self, memory_frames=config.memory_frames, nr_cpus=config.nr_cpus)
        self.dispatcher = Dispatcher(self.hv)
        self._requests = ProcessRequests(self.hv)
        self._epoll = select.epoll()
        self._epoll.register(supervisor_pidfd, select.EPOLLIN)
        self._monitor_fd = self._endpoint.monitor_fd
        for fd in (self._endpoint.fd, self._monitor_fd, supervisor.fileno()):
            self._epoll.register(fd, select.EPOLLIN)

    # --- the loop --------------------------------------------------------------------------------

    def run(self) -> None:
        """Build Dom0, then serve until the machine ends; the folder is gone afterwards."""
        try:
            build_dom0(self.hv, self.config)
            self._loop()
        finally:
            self._endpoint.close()
            shutil.rmtree(self.config.folder, ignore_errors=True)

    def _loop(self) -> None:
        """Asleep, the core waits in its epoll for whatever comes first; it sleeps when a whole turn did nothing
        that could have brought something new.
        """
        endpoint_fd, timeout = self._endpoint.fd, self._timeout()
        while not self.ending:
            for fd, _events in self._epoll.poll(timeout):
                if fd != endpoint_fd:
                    domain = self._by_fd[fd].domain if fd in self._by_fd else None
                    self._guarded("a descriptor's notice", domain, partial(self._on_descriptor, fd))
            busy = self._drain()
            busy |= self._run_timers()
            busy |= self._run_background()
            timeout = 0 if busy else self._timeout()

    def _guarded(self, what: str, domain: Domain | None, act: Callable[[], T]) -> T | None:
        """Do `act`. A bug that shows itself there ends the domain it is about at most, never the machine (H3)."""
        try:
            return act()
        except Exception:  # noqa: BLE001 - H3: see above
            self.hv.bug(domain, what)
            return None

    def _timeout(self) -> float | None:
        """Seconds until the next deadline, MAX_SLEEP_S at most; None if there is none."""
        hv = self.hv
        deadlines = [d for d in (hv.timers.next_deadline(), hv.slices.next_deadline()) if d is not None]
        if not deadlines:
            return None
        return min(max(0, min(deadlines) - hv.now()) / NS_PER_S, MAX_SLEEP_S)

    def _run_timers(self) -> bool:
        """Whether any was due."""
        hv = self.hv
        now = hv.now()
        any_due = bool(self._guarded("the end of a slice", None, lambda: hv.slices.expire(now)))
        for timer in hv.timers.due(now):
            any_due = True
            domain = hv.domains.get(DomId(timer.domid))
            self._guarded(f"a timer {timer.kind.name} of d{timer.domid}", domain, partial(fire, hv, timer))
        return any_due

    def _run_background(self) -> bool:
        """One portion of a hypercall that was cut and one step of other work; whether there was anything to do.

        No more than that: messages are looked at between any two, so that a request waits for a portion of one other
        domain, and not for one of each (Q4).
        """
        hv = self.hv
        if not hv.continuations and not hv.work:
            return False
        if hv.continuations:
            self._guarded("a continuation", None, self.dispatcher.go_on)
        if hv.work:
            work = hv.work.popleft()
            done = self._guarded(f"background work of d{work.domain.domid}", work.domain, work.step)
            if done is False:
                hv.work.append(work)
        return True

    # --- messages --------------------------------------------------------------------------------

    def _drain(self) -> bool:
        """Serve the messages that are there; True if the turn ended before the last one."""
        receive, readable, lap = self._endpoint.receive, self._endpoint.readable, self.hv.busiest.lap
        for _ in range(MESSAGES_PER_TURN):
            received = receive()
            if received is None:
                return False
            domid, data = received
            link = self.links.get(domid) if domid is not None else None
            if link is not None and not link.killed:
                try:
                    self._on_message(link, data)
                except ProtocolError as error:
                    self._break(link, str(error))
                except Exception:  # noqa: BLE001 - H3: a bug of the hypervisor ends nobody but the caller
                    self.hv.bug(link.domain, f"a message of d{domid}")
                    self._break(link, "hypervisor bug")
            lap("a message of", domid)
            if not readable():
                return False
        return True

    def _on_message(self, link: Link, data: bytes | ProtocolError) -> None:
        """One message of a domain process, which may be anything (docs/trust.md). Raises ProtocolError."""
        if isinstance(data, ProtocolError):
            raise data
        message = unpack_request(data)
        if len(message) == 1:
            self._requests.irq(link.domain, message[0])
            return
        seq, vcpu_id, nr, a1, a2, a3, a4, a5, seen = message
        if seq != link.seq + 1:
            raise ProtocolError(f"request {seq} after {link.seq}")
        if not 0 <= vcpu_id < len(link.domain.vcpus):
            raise ProtocolError(f"a request of vCPU {vcpu_id}")
        vcpu = link.domain.vcpus[vcpu_id]
        if vcpu.waiting_seq is not None and not vcpu.saving:
            raise ProtocolError("a second request before the first was answered")
        link.seq = seq
        if not link.connected:
            link.connected = True
            self._endpoint.connected(link.domain.domid)
        if nr >= 0:
            vcpu.waiting_seq = seq
            self.dispatcher.hypercall(vcpu, nr, (a1, a2, a3, a4, a5), seen)
        else:
            self._requests.perform(vcpu, seq, nr, (a1, a2, a3, a4, a5))

    def _break(self, link: Link, reason: str) -> None:
        self.hv.log.line(f"d{link.domain.domid}: protocol error: {reason}")
        self.hv.counters.add("protocol errors")
        self.hv.crash(link.domain, "its process broke the protocol")
        begin_destroy(self.hv, link.domain)

    # --- Processes: what the hypervisor asks for -------------------------------------------------

    def fork(self, domain: Domain) -> None:
        limit = os.sysconf("SC_OPEN_MAX")
        if (len(self.links) + 1) * DESCRIPTORS_PER_DOMAIN + RESERVED_DESCRIPTORS > limit:
            raise XenError(Errno.ENOMEM, "the host allows no more descriptors")
        ours, theirs = descriptors.pair()
        path = str(self.config.folder / f"d{domain.domid}")
        link = Link(domain, ours, path)
        self.links[domain.domid] = link
        self._watch(ours.fileno(), link)
        descriptors.send(ours, [Note.MEMFD, M2P_MEMFD], (self._xen_fd,))
        descriptors.send(ours, [Note.MEMFD, domain.domid], (domain.memfd,))
        if domain.privileged:
            for other in self.hv.domains.values():
                if other is not domain:
                    descriptors.send(ours, [Note.MEMFD, other.domid], (other.memfd,))
        domain.pid = -1
        descriptors.send(
            self._supervisor, [Note.FORK, domain.domid, path], (theirs.fileno(), domain.mailbox_fd)
        )
        theirs.close()

    def share_memfd(self, domid: DomId, memfd: int) -> None:
        for link in self.links.values():
            if link.domain.privileged:
                descriptors.send(link.pair, [Note.MEMFD, domid], (memfd,))

    def kill(self, domain: Domain) -> None:
        link = self.links.get(domain.domid)
        if link is None:
            return
        link.killed = True
        self._endpoint.disconnect(domain.domid)
        if link.pidfd >= 0:
            _send_signal(link, signal.SIGKILL)

    def interrupt(self, vcpu: Vcpu) -> None:
        link = self.links.get(vcpu.domain.domid)
        if link is not None and link.connected and link.pidfd >= 0 and vcpu.waiting_seq is None:
            _send_signal(link, signal.SIGUSR1)

    def freeze(self, domain: Domain, *, frozen: bool) -> None:
        link = self.links.get(domain.domid)
        if link is not None and link.pidfd >= 0:
            _send_signal(link, signal.SIGSTOP if frozen else signal.SIGCONT)

    def reply(self, vcpu: Vcpu) -> None:
        reply = vcpu.reply
        vcpu.reply = None
        assert reply is not None
        data = pack([reply.seq, reply.result, vcpu.effects.take()])
        link = self.links.get(vcpu.domain.domid)
        if link is not None and not link.killed and not self._endpoint.send(vcpu.domain.domid, data):
            self._break(link, "its reply cannot be delivered")

    def ask_to_save(self, vcpu: Vcpu) -> None:
        if vcpu.waiting_seq is None:
            return
        effects = [*vcpu.effects.take(), [Effect.SAVE_CONTEXT]]
        self._endpoint.send(vcpu.domain.domid, pack([vcpu.waiting_seq, 0, effects]))

    def end_machine(self) -> None:
        self.ending = True

    def gone(self, domain: Domain) -> None:
        link = self.links.pop(domain.domid, None)
        if link is not None:
            self._forget(link)

    # --- processes come and go -------------------------------------------------------------------

    def _watch(self, fd: int, link: Link) -> None:
        self._by_fd[fd] = link
        self._epoll.register(fd, select.EPOLLIN)

    def _unwatch(self, fd: int) -> None:
        if self._by_fd.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def _forget(self, link: Link) -> None:
        self._endpoint.disconnect(link.domain.domid)
        self._unwatch(link.pair.fileno())
        link.pair.close()
        if link.pidfd >= 0:
            self._unwatch(link.pidfd)
            os.close(link.pidfd)
            link.pidfd = -1

    def _on_supervisor(self) -> None:
        received = descriptors.receive(self._supervisor)
        if received is None:
            self.ending = True
            return
        if received.note[0] != Note.FORKED:
            received.close()
            return
        _, domid, pid = received.note
        link = self.links.get(domid)
        if link is None:
            received.close()
        elif pid == 0:
            process_gone(self.hv, link.domain)
        else:
            link.pidfd, link.domain.pid = received.fds[0], pid
            self._watch(link.pidfd, link)
            if link.killed:
                _send_signal(link, signal.SIGKILL)

    def _on_descriptor(self, fd: int) -> None:
        if fd == self._supervisor_pidfd:
            self.ending = True
        elif fd == self._supervisor.fileno():
            self._on_supervisor()
        elif fd == self._monitor_fd:
            self._on_broken_connections()
        elif fd in self._by_fd:
            link = self._by_fd[fd]
            if fd == link.pidfd:
                self._on_death(link)
            else:
                self._on_pair(link)

    def _on_broken_connections(self) -> None:
        for domid in self._endpoint.broken():
            link = self.links.get(domid)
            if link is not None and not link.killed:
                self._break(link, "its connection broke")

    def _on_pair(self, link: Link) -> None:
        """The process says, once, that its endpoint is bound; anything else, or its end, closes the pair's watch."""
        try:
            received = descriptors.receive(link.pair)
        except (ValueError, OSError):
            received = None
        bound = received is not None and received.note[0] == Note.BOUND and not link.bound
        if received is not None:
            received.close()
        if not bound:
            self._unwatch(link.pair.fileno())
        elif not link.killed:
            link.bound = True
            self._endpoint.connect(link.domain.domid, link.path)

    def _on_death(self, link: Link) -> None:
        self._unwatch(link.pidfd)
        os.close(link.pidfd)
        link.pidfd = -1
        link.killed = True
        process_gone(self.hv, link.domain)
        if link.domain.domid == HARDWARE_DOMID:
            self.end_machine()


def _send_signal(link: Link, number: int) -> None:
    """Signal a process that may have ended already: its pidfd will say so."""
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(link.pidfd, number)


def run_core(config: MachineConfig, supervisor: socket.socket, supervisor_pidfd: int) -> None:
    """The core process's body."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    core = Core(config, supervisor, supervisor_pidfd)
    core.hv.log.line(
        f"Xenoscope: machine {config.name}, {config.memory_frames >> 8} MiB, {config.nr_cpus} CPUs"
    )
    core.run()
