"""The gate: the one way from a domain process to the core.

Owns the process's socket and its view of the mailbox, and each vCPU's place in the conversation (`VcpuPort`). A vCPU runs its
guest or has exactly one request outstanding; `_ask` is where its process waits. Host descriptors (Dom0's physical interrupts)
are looked at only there, while waiting.

Of several vCPUs one runs at a time, the one that was answered last:

    vCPU 0 asks ──► vCPU 0 is answered                  the common case: `hypercall` returns
             └────► vCPU 1 is answered: TurnOver        vCPU 1 runs; `receive` has vCPU 0's answer when it comes
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Final, NoReturn

from domains.cpu.backing import Backing
from domains.cpu.event_posts import EventPosts
from domains.cpu.meter import Meter
from domains.cpu.post_queue import PostQueue
from domains.cpu.watched_fds import WatchedFds
from hypervisor.machine.frame_types import FrameTypes
from hypervisor.machine.memory import MachineMemory
from hypervisor.public.xen import Hypercall
from hypervisor.wire import descriptors
from hypervisor.wire.descriptors import Note
from hypervisor.wire.mailbox import Mailbox
from hypervisor.wire.messages import (
    FRAME_TYPES_MEMFD,
    LOOK,
    M2P_MEMFD,
    NO_IRQ,
    U64_MASK,
    Effect,
    EffectRecord,
    Request,
    pack,
    unpack_reply,
)
from hypervisor.wire.process_endpoint import ProcessEndpoint

LEAVE_FRAMES: Final = frozenset(
    map(int, (Request.START, Request.STOPPED, Hypercall.sched_op, Hypercall.sched_op_compat))
)
"""Requests that change nothing about frames, however long they take."""

Answer = tuple[int, list[EffectRecord]]
"""A request's result (negative: -errno), and its effects for the CPU."""


class TurnOver(Exception):
    """Another vCPU was answered first: it is that one's turn. The request stays outstanding; `Gate.receive` has its answer."""


class VcpuPort:
    """One vCPU's place in the conversation with the core. `seq`: its last request's number; `asks`: what that was, while it is
    outstanding; `seen`: the mailbox's counter when it last looked, which tells the core of events that it has not seen; `held`:
    effects that came while its registers were asked for, before the answer to its request.
    """

    __slots__ = ("asks", "held", "seen", "seq")

    def __init__(self) -> None:
        self.seq = 0
        self.asks: int | None = None
        self.seen = 0
        self.held: list[EffectRecord] = []


class Gate:
    """`busy` is true while a request is outstanding: a signal handler must then leave the gate alone."""

    def __init__(self, domid: int, path: str, pair: socket.socket, mailbox_fd: int) -> None:
        self.domid = domid
        self.memory = MachineMemory()
        self.mailbox = Mailbox(mailbox_fd)
        self.busy = False
        self._ports = [VcpuPort() for _ in range(max(self.mailbox.vcpus, 1))]
        self.meter = Meter(self.mailbox) if self.mailbox.timesheet.repeats else None
        """Of a machine that repeats itself: what the vCPUs' work is counted with."""
        self._pair = pair
        self._memfds: dict[int, int] = {}
        self._backing = Backing()
        self._endpoint = ProcessEndpoint(path)
        self.watched = WatchedFds(self._endpoint)
        """Host descriptors that raise interrupts: Dom0's."""
        self.looks = 0
        """How often the host descriptors were looked at: in each hypercall whose answer was not there at once, and before Dom0
        sleeps.
        """
        self.save_context: Callable[[int], bytes] = bytes
        """The CPU's: a vCPU's registers as vcpu_guest_context, for a core that asks while its request is outstanding."""
        self._early: list[tuple[int, int, list[EffectRecord]]] = []
        """The answer that ended a turn: (vCPU, result, effects)."""
        self.posts = PostQueue(self._endpoint.send, timed=self.meter is None)
        self._event_posts = EventPosts(self.posts if self.meter is None else None)
        descriptors.send(pair, [Note.BOUND])

    # --- requests --------------------------------------------------------------------------------

    def hypercall(self, vcpu: int, nr: int, *args: int) -> Answer:
        """Perform hypercall `nr` exactly once and wait for its result (negative: -errno) and its effects.

        Memory effects (MAP_EXTENT, UNMAP_EXTENT) are done here; the rest is for the CPU to apply, in order. This and each other
        request raises TurnOver in a domain whose process has several vCPUs at the gate.
        """
        a1, a2, a3, a4, a5 = args if len(args) == 5 else (*args, *(0,) * (5 - len(args)))
        return self._ask(vcpu, nr, a1 & U64_MASK, a2 & U64_MASK, a3 & U64_MASK, a4 & U64_MASK, a5 & U64_MASK)

    def start(self, vcpu: int) -> list[EffectRecord]:
        """Wait until the vCPU is first scheduled; the effects hold its initial CONTEXT."""
        return self._ask(vcpu, Request.START, 0, 0, 0, 0, 0)[1]

    def announce(self, vcpu: int) -> None:
        """The vCPU can run; `receive` has the answer, with its initial CONTEXT, when it is first scheduled."""
        self._send(vcpu, Request.START, 0, 0, 0, 0, 0)

    def stopped(self, vcpu: int) -> Answer:
        """Give the slice back after the stop byte was seen; returns when the vCPU holds one again. The result means nothing."""
        return self._ask(vcpu, Request.STOPPED, 0, 0, 0, 0, 0)

    def pte_write(self, vcpu: int, va: int, size: int, value: int, old: int | None) -> Answer:
        """Ask the core to perform a store of the guest to its own read-only page table (P12)."""
        return self._ask(vcpu, Request.PTE_WRITE, va, size, value, int(old is not None), old or 0)

    def new_baseptr(self, vcpu: int, mfn: int) -> Answer:
        """Load another kernel page table, as MMUEXT_NEW_BASEPTR (X3): the guest wrote CR3."""
        return self._ask(vcpu, Request.NEW_BASEPTR, mfn & U64_MASK, 0, 0, 0, 0)

    def map_ldt_page(self, vcpu: int, offset: int) -> Answer:
        """Show the page of the LDT that holds byte `offset` in the per-domain window (X6); -EFAULT if there is none."""
        return self._ask(vcpu, Request.LDT_PAGE, offset & U64_MASK, 0, 0, 0, 0)

    def crash(self, vcpu: int, reason: str) -> NoReturn:
        """End the domain: the guest broke the contract. `reason` goes to the hypervisor's log."""
        self._ask(vcpu, Request.CRASH, reason.encode("utf-8", "replace")[:8192], 0, 0, 0, 0)
        os._exit(1)

    def triple_fault(self, vcpu: int, registers: str) -> NoReturn:
        """An HVM guest could not deliver a double fault: its domain shuts down. `registers` go to the hypervisor's log."""
        self._ask(vcpu, Request.TRIPLE_FAULT, registers.encode("utf-8", "replace")[:8192], 0, 0, 0, 0)
        os._exit(1)

    def receive(self) -> tuple[int, int, list[EffectRecord]]:
        """Wait for an answer to any vCPU, whose turn it is then: (vCPU, result, effects). Only while none runs its guest."""
        self.busy = True
        try:
            while True:
                vcpu, result, effects = self._early.pop() if self._early else self._next()
                answer = self._take(vcpu, result, effects)
                if answer is not None:
                    return vcpu, *answer
        finally:
            self.busy = False

    def _ask(self, vcpu: int, nr: int, a1: int | bytes, a2: int, a3: int, a4: int, a5: int) -> Answer:
        self.busy = True
        try:
            self._send(vcpu, nr, a1, a2, a3, a4, a5)
            while True:
                whose, result, effects = self._next()
                if whose != vcpu:
                    self._early.append((whose, result, effects))
                    raise TurnOver
                answer = self._take(vcpu, result, effects)
                if answer is not None:
                    return answer
        finally:
            self.busy = False

    def _send(self, vcpu: int, nr: int, a1: int | bytes, a2: int, a3: int, a4: int, a5: int) -> None:
        port = self._ports[vcpu]
        port.seq = seq = port.seq + 1
        port.asks = nr
        if self.meter is not None:
            self.meter.hand_in(vcpu)
        message: list[int | bytes] = [seq, vcpu, nr, a1, a2, a3, a4, a5, port.seen]
        if self.posts:
            message.append(self.posts.take())
        self._endpoint.send(pack(message))

    # --- what is done before it is said ----------------------------------------------------------

    def is_alone(self, vcpu: int) -> bool:
        """Whether no sibling waits for anything that could change what a frame is, or is used as."""
        ports = self._ports
        return len(ports) == 1 or all(
            port.asks is None or port.asks in LEAVE_FRAMES
            for number, port in enumerate(ports)
            if number != vcpu
        )

    def post_event(self, vcpu: int, port: int) -> bool:
        """Send an event on a port without waiting, if that is certain to succeed. False: it is to be asked for, next."""
        return self._event_posts.send(vcpu, port, alone=self.is_alone(vcpu))

    def frame_types(self) -> FrameTypes:
        """What each machine frame is used as, read-only."""
        return FrameTypes(self._memfd(FRAME_TYPES_MEMFD))

    def backing(self, mfn: int) -> tuple[int, int] | None:
        """The descriptor of the memfd that a frame is shown from, and its number there; None: it is not shown here."""
        place = self._backing.of(mfn)
        return None if place is None else (self._memfd(place.memfd), place.frame)

    # --- answers ---------------------------------------------------------------------------------

    def _next(self) -> tuple[int, int, list[EffectRecord]]:
        """The next reply to the last request of a vCPU."""
        while True:
            waits_alone = not self.watched.any or self.meter is not None
            data = self._endpoint.recv() if waits_alone else self._wait_for_reply()
            whose, answered, result, effects = unpack_reply(data)
            if answered == self._ports[whose].seq:
                return whose, result, effects
            if answered == LOOK:
                self._look(wait=bool(result))

    def _take(self, vcpu: int, result: int, effects: list[EffectRecord]) -> Answer | None:
        """The vCPU's answer; None if the core only asked for its registers: the answer comes later."""
        port = self._ports[vcpu]
        if effects:
            effects = self._map(effects)
            if effects and effects[-1][0] == Effect.SAVE_CONTEXT:
                port.held += effects[:-1]
                self._send(vcpu, Request.SAVED, self.save_context(vcpu), 0, 0, 0, 0)
                return None
        port.asks = None
        self._event_posts.answered(vcpu, result)
        if port.held:
            effects, port.held = port.held + effects, []
        if self.meter is not None:
            self.meter.take(vcpu)
            self.looks += 1
        return result, effects

    def _map(self, effects: list[EffectRecord]) -> list[EffectRecord]:
        rest = []
        for effect in effects:
            if effect[0] == Effect.MAP_EXTENT:
                _, memfd, mfn, nr_frames, offset = effect
                self.memory.map(self._memfd(memfd), mfn, nr_frames, offset, writable=memfd != M2P_MEMFD)
                self._backing.map(memfd, mfn, nr_frames, offset)
            elif effect[0] == Effect.UNMAP_EXTENT:
                self.memory.unmap(effect[1], effect[2])
                self._backing.unmap(effect[1], effect[2])
            elif effect[0] == Effect.EVTCHN_CLEAR:
                self._event_posts.closed(effect[1])
                rest.append(effect)
            elif effect[0] == Effect.CLOSE_MEMFD:
                os.close(self._memfd(effect[1]))
                del self._memfds[effect[1]]
            else:
                rest.append(effect)
        return rest

    def _memfd(self, wanted: int) -> int:
        """The memfd with that id; it may still be on its way over the pair."""
        while wanted not in self._memfds:
            received = descriptors.receive(self._pair)
            if received is None:
                os._exit(1)
            if received.note[0] == Note.MEMFD:
                stale = self._memfds.pop(received.note[1], None)
                if stale is not None:
                    os.close(stale)
                self._memfds[received.note[1]] = received.fds[0]
        return self._memfds[wanted]

    # --- events ----------------------------------------------------------------------------------

    def raised(self, vcpu: int) -> list[int]:
        """The ports raised for this vCPU since the last call; the caller sets the guest's pending bits.

        What comes after this has not been seen: a block that follows returns at once (`events_seen`).
        """
        self._ports[vcpu].seen = self.mailbox.counter(vcpu)
        return self.mailbox.take_raised(vcpu)

    def should_stop(self, vcpu: int) -> bool:
        """Whether the core asks this vCPU to stop."""
        return self.mailbox.stop(vcpu)

    # --- Dom0's host descriptors -----------------------------------------------------------------

    def _wait_for_reply(self) -> bytes:
        """Wait for the reply, sending an irq for each descriptor that becomes ready meanwhile."""
        endpoint = self._endpoint
        while True:
            reply = endpoint.receive()
            if reply is not None:
                return reply
            if endpoint.readable():
                continue
            irqs = self.watched.poll(None)
            self.looks += 1
            for irq in irqs:
                endpoint.send(pack([irq]))

    def _look(self, *, wait: bool) -> None:
        """The core wants to know whether a descriptor is ready; with `wait`, as soon as one is, unless an answer comes first."""
        irqs: set[int] = set()
        while self.watched.any and not irqs:
            if wait and self._endpoint.readable():
                return
            irqs = self.watched.poll(None if wait else 0)
            if not wait:
                break
        if irqs or not wait:
            self._endpoint.send(pack([min(irqs, default=NO_IRQ)]))
