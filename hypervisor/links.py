"""The processes as the core knows them: one link with each, made by fork and ended by death; what the hypervisor asks of them.

    fork ──► the supervisor ──FORKED──► pidfd ──BOUND──► connect ──first message──► connected ──kill or death──► forgotten

Implements the hypervisor's `Processes`. The loop that waits for all of this is the core's (hypervisor/core.py).
"""

from __future__ import annotations

import os
import select
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hypervisor.domain.domain import Domain, Vcpu
from hypervisor.domain.hypervisor import HARDWARE_DOMID, Hypervisor
from hypervisor.domain.lifecycle import begin_destroy, process_gone
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.types import DomId
from hypervisor.wire import descriptors
from hypervisor.wire.descriptors import Note
from hypervisor.wire.endpoint import CoreEndpoint
from hypervisor.wire.errors import ProtocolError
from hypervisor.wire.messages import Effect, pack

RESERVED_DESCRIPTORS: Final = 64
DESCRIPTORS_PER_DOMAIN: Final = 6
DYING_MS: Final = 2
"""Milliseconds from a process's last close to its end, at most."""


@dataclass(eq=False)
class Link:
    """The core's connection with one domain process."""

    domain: Domain
    pair: socket.socket
    path: str
    pidfd: int = -1
    bound: bool = False
    connected: bool = False
    killed: bool = False


class Links:
    """The links of all processes, and what the core's epoll watches of them. `hv` is set before anything else is asked."""

    hv: Hypervisor

    def __init__(
        self,
        folder: Path,
        supervisor: socket.socket,
        supervisor_pidfd: int,
        shared: dict[int, int],
        epoll: select.epoll,
    ) -> None:
        """`supervisor`: the pair with it; `shared`: the memfds that every process gets, by their ids."""
        self.endpoint = CoreEndpoint()
        self.by_domid: dict[int, Link] = {}
        self.by_fd: dict[int, Link] = {}
        self.ending = False
        self._folder = folder
        self._supervisor = supervisor
        self._supervisor_pidfd = supervisor_pidfd
        self._shared = shared
        self._epoll = epoll
        for fd in (supervisor_pidfd, self.endpoint.fd, supervisor.fileno()):
            epoll.register(fd, select.EPOLLIN)

    def broke_the_protocol(self, link: Link, reason: str) -> None:
        """No honest process does that: its domain ends."""
        self.hv.log.line(f"d{link.domain.domid}: protocol error: {reason}")
        self.hv.counters.add("protocol errors")
        self.hv.crash(link.domain, "its process broke the protocol")
        begin_destroy(self.hv, link.domain)

    def connection_ended(self, link: Link) -> None:
        """A process that ends closes its connection a moment before its pidfd tells; one that lives on broke the protocol."""
        poll = select.poll()
        if link.pidfd >= 0:
            poll.register(link.pidfd, select.POLLIN)
        if not poll.poll(DYING_MS):
            self.broke_the_protocol(link, "its connection broke")

    # --- Processes: what the hypervisor asks for -------------------------------------------------

    def fork(self, domain: Domain) -> None:
        """Begin to make the domain's process. XenError(ENOMEM): the host allows no more descriptors."""
        limit = os.sysconf("SC_OPEN_MAX")
        if (len(self.by_domid) + 1) * DESCRIPTORS_PER_DOMAIN + RESERVED_DESCRIPTORS > limit:
            raise XenError(Errno.ENOMEM, "the host allows no more descriptors")
        ours, theirs = descriptors.pair()
        path = str(self._folder / f"d{domain.domid}")
        link = Link(domain, ours, path)
        self.by_domid[domain.domid] = link
        self._watch(ours.fileno(), link)
        for memfd_id, fd in self._shared.items():
            descriptors.send(ours, [Note.MEMFD, memfd_id], (fd,))
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
        """Send Dom0's process the memfd of a domain."""
        for link in self.by_domid.values():
            if link.domain.privileged:
                descriptors.send(link.pair, [Note.MEMFD, domid], (memfd,))

    def kill(self, domain: Domain) -> None:
        """End the domain's process now."""
        link = self.by_domid.get(domain.domid)
        if link is None:
            return
        link.killed = True
        self.endpoint.disconnect(domain.domid)
        if link.pidfd >= 0:
            _send_signal(link, signal.SIGKILL)

    def interrupt(self, vcpu: Vcpu) -> None:
        """Make a process that runs guest code look at its mailbox."""
        link = self.by_domid.get(vcpu.domain.domid)
        if link is not None and link.connected and link.pidfd >= 0:
            _send_signal(link, signal.SIGUSR1)

    def freeze(self, domain: Domain, *, frozen: bool) -> None:
        """Stop the process wherever it is, or let it go on."""
        link = self.by_domid.get(domain.domid)
        if link is not None and link.pidfd >= 0:
            _send_signal(link, signal.SIGSTOP if frozen else signal.SIGCONT)

    def reply(self, vcpu: Vcpu) -> None:
        """Send a vCPU's answer and its effects."""
        run, domid = vcpu.run, vcpu.domain.domid
        data = pack([vcpu.vcpu_id, run.seq, run.result, vcpu.take_effects()])
        link = self.by_domid.get(domid)
        if link is not None and not link.killed and not self.endpoint.send(domid, data):
            self.broke_the_protocol(link, "its reply cannot be delivered")

    def ask_to_save(self, vcpu: Vcpu) -> None:
        """Have the process send a vCPU's registers."""
        effects = [*vcpu.take_effects(), [Effect.SAVE_CONTEXT]]
        self.endpoint.send(vcpu.domain.domid, pack([vcpu.vcpu_id, vcpu.run.seq, 0, effects]))

    def end_machine(self) -> None:
        """Everything ends after this turn of the core's loop."""
        self.ending = True

    def gone(self, domain: Domain) -> None:
        """Forget the domain."""
        link = self.by_domid.pop(domain.domid, None)
        if link is not None:
            self._forget(link)

    # --- processes come and go -------------------------------------------------------------------

    def _watch(self, fd: int, link: Link) -> None:
        self.by_fd[fd] = link
        self._epoll.register(fd, select.EPOLLIN)

    def _unwatch(self, fd: int) -> None:
        if self.by_fd.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def _forget(self, link: Link) -> None:
        self.endpoint.disconnect(link.domain.domid)
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
        link = self.by_domid.get(domid)
        if link is None:
            received.close()
        elif pid == 0:
            process_gone(self.hv, link.domain)
        else:
            link.pidfd, link.domain.pid = received.fds[0], pid
            self._watch(link.pidfd, link)
            if link.killed:
                _send_signal(link, signal.SIGKILL)

    def on_descriptor(self, fd: int) -> None:
        """A descriptor that is watched is ready: of the supervisor, or of a process."""
        if fd == self._supervisor_pidfd:
            self.ending = True
        elif fd == self._supervisor.fileno():
            self._on_supervisor()
        elif fd in self.by_fd:
            link = self.by_fd[fd]
            if fd == link.pidfd:
                self._on_death(link)
            else:
                self._on_pair(link)

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
            try:
                self.endpoint.connect(link.domain.domid, link.path)
            except ProtocolError as error:
                self.broke_the_protocol(link, str(error))

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
