"""The core's loop on a machine that repeats itself: one vCPU at a time, and everything else at points that the work determines.

    settle: messages of new processes, background work, timers that are due ──► until nothing is left
       │                                                                            ▲
       ├─ an answer is due ──► send it, with the time and a budget of work ──► wait for that process alone ──► time passes
       ├─ guests sleep ──────► leap to the next timer ──────────────────────────────┤
       └─ nothing will ever happen, or no guest may run ──► wait for the outside ───┘

Time passes by what guests do, and stands still while none of them may run: what Dom0 does meanwhile, for clients that come when
they please, takes none. Between two turns, every GLANCE_S of the host's time, Dom0 looks whether somebody outside wants
something; if so, it is counted as an input, for then this run is not another one's repetition.
"""

from __future__ import annotations

import math
import socket
import time
from functools import partial
from random import Random
from typing import Any, ClassVar, Final

from hypervisor.core import MAX_SLEEP_S, NS_PER_S, Core, run_core
from hypervisor.domain.domain import Domain, Life, Vcpu
from hypervisor.domain.hypervisor import HARDWARE_DOMID
from hypervisor.domain.lifecycle import begin_destroy
from hypervisor.domain.run_state import Run
from hypervisor.links import Link, Links
from hypervisor.machine.clock import VirtualClock
from hypervisor.machine.config import MachineConfig
from hypervisor.machine.counters import INPUTS
from hypervisor.public.types import DomId
from hypervisor.repeating.links import PATIENCE_S, RepeatingLinks
from hypervisor.repeating.run_hash import RunHash
from hypervisor.wire.mailbox import Engine
from hypervisor.wire.messages import NO_IRQ
from hypervisor.wire.timesheet import Allowance

OPERATION_NS: Final = 500
"""What an operation of a Python guest takes: an access to memory, a hypercall, a look at the clock."""
BLOCK_NS: Final = 10
"""What a block of x86 code takes."""
REQUEST_NS: Final = 50_000
"""What every request takes beside: about what it takes on a host. So time passes whatever a process says of its work, and a guest
that asks again and again until some time has passed need not ask often."""
LONGEST_NS: Final = 10_000_000
"""How long a vCPU runs at most before the core hears of it."""
PARTS: Final = 16
"""Of a slice or turn that the scheduler gives, one to all of so many parts are drawn."""
UNBOUNDED: Final = 1 << 62
"""A budget while time stands still."""
SLACK: Final = 1000
"""Units of work by which a process may overrun its budget, beside as much again: what it does before it can stop."""
GLANCE_S: Final = 0.05


class RepeatingCore(Core):
    """`Core` with another loop, links and clock."""

    LINKS: ClassVar[type[Links]] = RepeatingLinks
    links: RepeatingLinks

    def __init__(self, config: MachineConfig, supervisor: socket.socket, supervisor_pidfd: int) -> None:
        self._clock = VirtualClock()
        super().__init__(config, supervisor, supervisor_pidfd, self._clock)
        self._chance = Random(f"{config.seed} slices")
        self.hv.run.slices.drawn = self._drawn
        self._hash = RunHash()
        self.hv.seed, self.hv.run_hash = config.seed, self._digest
        self.links.before_kill = self._before_kill
        self._running: Vcpu | None = None
        """The vCPU whose process has its answer and has not asked again yet."""
        self._allowance = Allowance(0, 0, 0)
        """What that vCPU was given."""
        self._looks = False
        """Dom0 looks out for its host descriptors, until one is ready."""
        self._next_glance = 0.0

    # --- the loop --------------------------------------------------------------------------------

    def _loop(self) -> None:
        while not self.links.ending:
            self._glance()
            self._settle()
            vcpu, self.links.due = self.links.due, None
            if vcpu is None:
                self._rest()
            elif vcpu.run.state is Run.GUEST:
                self._go_on(vcpu)

    def _settle(self) -> None:
        """Do what is left to do, until a vCPU or the time has to go on."""
        busy = True
        while busy:
            busy = self._serve_received()
            busy |= self._run_background()
            first = self._next_deadline()
            if first is not None and first <= self._clock.now():
                busy |= self._run_timers()

    def _serve_received(self) -> bool:
        received = self.links.received
        busy = bool(received)
        while received:
            self._serve(*self.links.take())
        return busy

    def _go_on(self, vcpu: Vcpu) -> None:
        """Let one vCPU's process run until it asks for something, or has ended."""
        link = self.links.by_domid.get(vcpu.domain.domid)
        if link is None or link.killed:
            return
        self._allow(vcpu)
        self._running = vcpu
        if vcpu.domain.privileged:
            self._looks = False
        self.links.send(vcpu)
        deadline = math.inf if vcpu.domain.privileged else time.monotonic() + PATIENCE_S
        while self._runs(vcpu, link):
            heard = self.links.hear(link, deadline)
            if heard:
                self._serve_received()  # posts alone are no request: the vCPU runs on
            if self._runs(vcpu, link) and link.pidfd >= 0 and not (heard and time.monotonic() < deadline):
                self._give_up(vcpu.domain)
        self._running = None

    def _runs(self, vcpu: Vcpu, link: Link) -> bool:
        """Whether this vCPU's process is still to ask for something."""
        return self._running is vcpu and not (link.killed or self.links.ending)

    def _give_up(self, domain: Domain) -> None:
        reason = f"its process has run for {PATIENCE_S:g} s without a request"
        self.hv.log.line(f"d{domain.domid}: {reason}: the machine does not repeat itself any more")
        self.hv.crash(domain, reason)
        begin_destroy(self.hv, domain)

    def _rest(self) -> None:
        """Nobody has anything to do now."""
        if self._time_runs():
            deadline = self._next_deadline()
            if deadline is not None:
                self._clock.leap(deadline)
            else:
                self._wait_for_outside(None)
            return
        deadline = min(
            (timer.deadline for timer in self.hv.timers.snapshot() if self._is_heeded(timer.domid)),
            default=None,
        )
        if not self._wait_for_outside(
            None if deadline is None else (deadline - self._clock.now()) / NS_PER_S
        ):
            assert deadline is not None
            self._clock.leap(deadline)

    def _is_heeded(self, domid: int) -> bool:
        """Whether a domain's timer counts while time stands still: then it is the host's time that passes."""
        domain = self.hv.domains.get(DomId(domid))
        return domain is not None and (domain.privileged or domain.life is not Life.ALIVE)

    # --- time ------------------------------------------------------------------------------------

    def _time_runs(self) -> bool:
        """Whether a guest may run, be it asleep."""
        return any(domain.runnable() for domain in self.hv.domains.values() if not domain.privileged)

    def _drawn(self, ns: int) -> int:
        """A part of a slice. While time stands still there is nothing to share, and it is not the seed that says how often Dom0
        wakes up.
        """
        return max(ns * self._chance.randint(1, PARTS) // PARTS, 1) if self._time_runs() else ns

    def _allow(self, vcpu: Vcpu) -> None:
        """Give a vCPU the time, and work up to the next timer or the end of its slice."""
        hv, now = self.hv, self._clock.now()
        runs = self._time_runs()
        hv.trace.sink = self._hash.record if runs else None
        if runs:
            unit = OPERATION_NS if vcpu.domain.mailbox.engine is Engine.PYTHON else BLOCK_NS
            end = self._next_deadline()
            left = LONGEST_NS if end is None else min(end - now, LONGEST_NS)
            self._allowance = Allowance(now, max(-(-left // unit), 1), unit)
        else:
            self._allowance = Allowance(now, UNBOUNDED, 0)
        vcpu.domain.mailbox.timesheet.allow(vcpu.vcpu_id, self._allowance)

    def _on_request(self, link: Link, message: list[Any]) -> None:
        vcpu = self._running
        if vcpu is not None and vcpu.domain is link.domain and message[1] == vcpu.vcpu_id:
            self._running = None
            self._account(vcpu)
        super()._on_request(link, message)

    def _account(self, vcpu: Vcpu) -> None:
        """Time passes by what the vCPU has done since it got its answer. A process that lies spoils its own share."""
        _, budget, unit = self._allowance
        if unit:
            work = min(vcpu.domain.mailbox.timesheet.work(vcpu.vcpu_id), 2 * budget + SLACK)
            self._clock.pass_by(work * unit + REQUEST_NS)
        self.hv.run.slices.expire(self._clock.now())

    # --- the outside -----------------------------------------------------------------------------

    def _dom0_link(self) -> Link | None:
        link = self.links.by_domid.get(HARDWARE_DOMID)
        return None if link is None or link.killed else link

    def _wait_for_outside(self, seconds: float | None) -> bool:
        """Until something comes from outside; False if nothing did in that time."""
        links = self.links
        dom0 = self._dom0_link()
        if dom0 is not None and not self._looks:
            self._looks = True
            links.ask_to_look(dom0, wait=True)
        if links.gather() or self._endpoint.readable():
            return True
        ready = self._epoll.poll(None if seconds is None else min(max(seconds, 0), MAX_SLEEP_S))
        for fd, _events in ready:
            if fd != self._endpoint.fd:
                self._notice(fd)
        return bool(ready)

    def _glance(self) -> None:
        """Whether somebody outside wants something: without effect if nobody does."""
        if time.monotonic() < self._next_glance:
            return
        links = self.links
        for fd, _events in self._epoll.poll(0):
            if fd != self._endpoint.fd:
                self._notice(fd)
        dom0 = self._dom0_link()
        if dom0 is not None and not self._looks:
            links.ask_to_look(dom0, wait=False)
            while links.hear(dom0, math.inf) and not any(
                domid == HARDWARE_DOMID for domid, _ in links.received
            ):
                self._serve_received()
            self._serve_received()
        self._next_glance = time.monotonic() + GLANCE_S

    def _on_irq(self, link: Link, irq: int) -> None:
        if link.domain.privileged:
            self._looks = False
            if irq != NO_IRQ and self._time_runs():
                self.hv.counters.add(INPUTS)
        super()._on_irq(link, irq)

    # --- the hash --------------------------------------------------------------------------------

    def _before_kill(self, domain: Domain) -> None:
        if not domain.privileged:
            self._guarded(
                "the hash of a domain's end", domain, partial(self._hash.ended, domain.domid, domain.memfd)
            )

    def _digest(self) -> str:
        domains = self.hv.domains
        there = [(domid, domains[domid].memfd) for domid in sorted(domains)]
        return self._hash.digest(
            (domid, memfd)
            for domid, memfd in there
            if domid != HARDWARE_DOMID and domains[domid].life is Life.ALIVE
        )


def run_repeating_core(config: MachineConfig, supervisor: socket.socket, supervisor_pidfd: int) -> None:
    """The core process's body, on a machine with a seed."""
    run_core(config, supervisor, supervisor_pidfd, RepeatingCore)
