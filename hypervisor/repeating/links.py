"""The links with the processes, on a machine that repeats itself: what a process does of its own accord is waited for where it
was caused, so that the host's speed decides no order.

    fork ──► forked, bound, connected, first message: all waited for        kill ──► its end is waited for
    reply ──► put down as `due`: the loop sends it when nothing else is left to do
"""

from __future__ import annotations

import math
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

from hypervisor.domain.domain import Domain, Vcpu
from hypervisor.links import Link, Links
from hypervisor.wire.endpoint import Received
from hypervisor.wire.messages import LOOK, ProtocolError, pack

MESSAGES_AT_ONCE: Final = 64
MESSAGES_KEPT: Final = 1024
"""Messages that wait to be looked at: honest processes send one each, and one more for each vCPU at their beginning."""
PATIENCE_S: Final = 120.0
"""Seconds of the host's time after which a process that says nothing, when it has to, is given up."""


class RepeatingLinks(Links):
    """`due`: the vCPU whose answer is to be sent next. `received`: messages that nobody has looked at yet."""

    def __init__(
        self,
        folder: Path,
        supervisor: socket.socket,
        supervisor_pidfd: int,
        shared: dict[int, int],
        epoll: select.epoll,
    ) -> None:
        super().__init__(folder, supervisor, supervisor_pidfd, shared, epoll)
        self.due: Vcpu | None = None
        self.received: deque[Received] = deque()
        self._flooding: set[int | None] = set()
        self.before_kill: Callable[[Domain], None] = lambda _domain: None
        """Called with a domain whose process is about to be ended: its frames are as its guest left them."""

    # --- what the hypervisor asks for ------------------------------------------------------------

    def fork(self, domain: Domain) -> None:
        """See `Links`; the process has said its first word when this returns, or has ended."""
        super().fork(domain)
        link = self.by_domid[domain.domid]
        self._wait(link, lambda: link.pidfd >= 0 or domain.domid not in self.by_domid)
        if link.pidfd >= 0:
            self._wait(link, lambda: self._has_word_of(domain.domid))

    def kill(self, domain: Domain) -> None:
        """See `Links`; the process is gone when this returns."""
        self.before_kill(domain)
        super().kill(domain)
        link = self.by_domid.get(domain.domid)
        if link is not None and link.pidfd >= 0:
            poll = select.poll()
            poll.register(link.pidfd, select.POLLIN)
            poll.poll()
            self._on_death(link)

    def interrupt(self, vcpu: Vcpu) -> None:
        """Nothing: whoever runs stops at the end of its budget."""

    def freeze(self, domain: Domain, *, frozen: bool) -> None:
        """Nothing: whoever asks finds no process that runs."""

    def reply(self, vcpu: Vcpu) -> None:
        """Put the answer down; `send` sends it."""
        self.due = vcpu

    def ask_to_save(self, vcpu: Vcpu) -> None:
        """See `Links`; the registers are in `received` when this returns."""
        super().ask_to_save(vcpu)
        link = self.by_domid.get(vcpu.domain.domid)
        if link is not None:
            self._wait(link, lambda: self._has_word_of(vcpu.domain.domid))

    # --- what the loop asks for ------------------------------------------------------------------

    def send(self, vcpu: Vcpu) -> None:
        """Send a vCPU its answer now."""
        super().reply(vcpu)

    def ask_to_look(self, link: Link, *, wait: bool) -> None:
        """Have Dom0, which waits for an answer, look at its host descriptors: whether one is ready, or until one is."""
        self.endpoint.send(link.domain.domid, pack([0, LOOK, int(wait), []]))

    def gather(self) -> bool:
        """Take in the messages that have arrived; whether any are to be looked at."""
        for _ in range(MESSAGES_AT_ONCE):
            received = self.endpoint.receive()
            if received is None:
                break
            if received[0] is not None:
                self._keep(received)
        return bool(self.received)

    def take(self) -> Received:
        """The message that has waited longest."""
        received = self.received.popleft()
        if not self.received:
            self._flooding.clear()
        return received

    def _keep(self, received: Received) -> None:
        """No process makes the core remember more than a bounded number of its messages."""
        domid, _ = received
        if len(self.received) < MESSAGES_KEPT:
            self.received.append(received)
        elif domid not in self._flooding:
            self._flooding.add(domid)
            self.received.append((domid, ProtocolError("a message while another's are waited for")))

    def hear(self, link: Link, deadline: float) -> bool:
        """Wait until a message is to be looked at; False: this process has ended, the machine has, or it is later than
        `deadline` on the host's monotonic clock (infinite is allowed).
        """
        while not self.gather():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if self.endpoint.readable():
                continue
            poll = select.poll()
            for fd in (self.endpoint.fd, self._supervisor_pidfd, link.pidfd):
                if fd >= 0:
                    poll.register(fd, select.POLLIN)
            ready = {fd for fd, _ in poll.poll(None if left == math.inf else left * 1000)}
            for fd in ready - {self.endpoint.fd}:
                if not self.gather():
                    self.on_descriptor(fd)
                    return False
        return True

    def _has_word_of(self, domid: int) -> bool:
        self.gather()
        return any(received[0] == domid for received in self.received)

    def _wait(self, link: Link, condition: Callable[[], bool]) -> None:
        """Until the condition holds, or the process or the machine has ended: that is for the loop to find. A process that says
        nothing for too long is ended.
        """
        while not (condition() or self.ending):
            if self.endpoint.readable():
                self.gather()  # somebody else's word, for which a condition may not look: it would stay readable
                continue
            fds = {self.endpoint.fd, self._supervisor.fileno(), self._supervisor_pidfd}
            fds |= {fd for fd in (link.pair.fileno(), link.pidfd) if fd in self.by_fd}
            poll = select.poll()
            for fd in fds:
                poll.register(fd, select.POLLIN)
            ready = {fd for fd, _ in poll.poll(PATIENCE_S * 1000)}
            if not ready:
                self.broke_the_protocol(link, f"its process says nothing for {PATIENCE_S:g} s")
                return
            if link.pidfd in ready and link.pair.fileno() not in ready:
                return
            for fd in ready - {self.endpoint.fd, link.pidfd}:
                self.on_descriptor(fd)
