"""The gate: the one way from a domain process to the core.

Owns the process's socket and its view of the mailbox, and each vCPU's place in the conversation (`VcpuPort`). A vCPU runs its
guest or has exactly one request outstanding; `_ask` is where its process waits. Host descriptors (Dom0's physical interrupts)
are looked at only there, while waiting.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from typing import NoReturn

from hypervisor.machine.memory import MachineMemory
from hypervisor.wire import descriptors
from hypervisor.wire.descriptors import Note
from hypervisor.wire.endpoint import ProcessEndpoint
from hypervisor.wire.mailbox import Mailbox
from hypervisor.wire.messages import M2P_MEMFD, U64_MASK, Effect, EffectRecord, Request, pack, unpack_reply


class VcpuPort:
    """One vCPU's place in the conversation with the core. `seq`: its last request's number; `seen`: the mailbox's counter when
    it last looked, which tells the core of events that it has not seen.
    """

    __slots__ = ("seen", "seq")

    def __init__(self) -> None:
        self.seq = 0
        self.seen = 0


class Gate:
    """`busy` is true while a request is outstanding: a signal handler must then leave the gate alone."""

    def __init__(self, domid: int, path: str, pair: socket.socket, mailbox_fd: int) -> None:
        self.domid = domid
        self.memory = MachineMemory()
        self.mailbox = Mailbox(mailbox_fd)
        self.busy = False
        self._ports = [VcpuPort() for _ in range(max(self.mailbox.vcpus, 1))]
        self._pair = pair
        self._memfds: dict[int, int] = {}
        self._endpoint = ProcessEndpoint(path)
        self._epoll: select.epoll | None = None
        self._socket_fd: int = self._endpoint.fd
        self._irqs: dict[int, tuple[int, int]] = {}
        self.ready_fds: dict[int, int] = {}
        self.looks = 0
        """How often the host descriptors were looked at: once in each hypercall whose answer was not there at once."""
        self.save_context: Callable[[], bytes] = bytes
        """The CPU's: its registers as vcpu_guest_context, for a core that asks while a request is outstanding."""
        descriptors.send(pair, [Note.BOUND])

    # --- requests --------------------------------------------------------------------------------

    def hypercall(self, vcpu: int, nr: int, *args: int) -> tuple[int, list[EffectRecord]]:
        """Perform hypercall `nr` exactly once and wait for its result (negative: -errno) and its effects.

        Memory effects (MAP_EXTENT, UNMAP_EXTENT) are done here; the rest is for the CPU to apply, in order.
        """
        a1, a2, a3, a4, a5 = args if len(args) == 5 else (*args, *(0,) * (5 - len(args)))
        return self._ask(vcpu, nr, a1 & U64_MASK, a2 & U64_MASK, a3 & U64_MASK, a4 & U64_MASK, a5 & U64_MASK)

    def start(self, vcpu: int) -> list[EffectRecord]:
        """Wait until the vCPU is first scheduled; the effects hold its initial CONTEXT."""
        return self._ask(vcpu, Request.START, 0, 0, 0, 0, 0)[1]

    def stopped(self, vcpu: int) -> list[EffectRecord]:
        """Give the slice back after the stop byte was seen; returns when the vCPU holds one again."""
        return self._ask(vcpu, Request.STOPPED, 0, 0, 0, 0, 0)[1]

    def pte_write(
        self, vcpu: int, va: int, size: int, value: int, old: int | None
    ) -> tuple[int, list[EffectRecord]]:
        """Ask the core to perform a store of the guest to its own read-only page table (P12)."""
        return self._ask(vcpu, Request.PTE_WRITE, va, size, value, int(old is not None), old or 0)

    def new_baseptr(self, vcpu: int, mfn: int) -> tuple[int, list[EffectRecord]]:
        """Load another kernel page table, as MMUEXT_NEW_BASEPTR (X3): the guest wrote CR3."""
        return self._ask(vcpu, Request.NEW_BASEPTR, mfn & U64_MASK, 0, 0, 0, 0)

    def map_ldt_page(self, vcpu: int, offset: int) -> tuple[int, list[EffectRecord]]:
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

    def _ask(
        self, vcpu: int, nr: int, a1: int | bytes, a2: int, a3: int, a4: int, a5: int
    ) -> tuple[int, list[EffectRecord]]:
        self.busy = True
        try:
            port = self._ports[vcpu]
            port.seq = seq = port.seq + 1
            self._endpoint.send(pack([seq, vcpu, nr, a1, a2, a3, a4, a5, port.seen]))
            while True:
                data = self._endpoint.recv() if self._epoll is None else self._wait_for_reply()
                whose, answered, result, effects = unpack_reply(data)
                if answered == seq and whose == vcpu:
                    break
            if not effects:
                return result, effects
            mine = self._map(effects)
            if mine and mine[-1][0] == Effect.SAVE_CONTEXT:
                result, later = self._ask(vcpu, Request.SAVED, self.save_context(), 0, 0, 0, 0)
                return result, mine[:-1] + later
            return result, mine
        finally:
            self.busy = False

    def _map(self, effects: list[EffectRecord]) -> list[EffectRecord]:
        rest = []
        for effect in effects:
            if effect[0] == Effect.MAP_EXTENT:
                _, memfd, mfn, nr_frames, offset = effect
                self.memory.map(self._memfd(memfd), mfn, nr_frames, offset, writable=memfd != M2P_MEMFD)
            elif effect[0] == Effect.UNMAP_EXTENT:
                self.memory.unmap(effect[1], effect[2])
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

    def watch_fd(self, fd: int, events: int, irq: int) -> None:
        """Raise physical interrupt `irq` when `fd` is ready for `events` (select.EPOLLIN, EPOLLOUT), once per `rearm_fd`."""
        if self._epoll is None:
            self._epoll = select.epoll()
            self._epoll.register(self._socket_fd, select.EPOLLIN)
        if fd in self._irqs:
            self._epoll.modify(fd, events | select.EPOLLONESHOT)
        else:
            self._epoll.register(fd, events | select.EPOLLONESHOT)
        self._irqs[fd] = (irq, events)

    def rearm_fd(self, fd: int) -> None:
        """The interrupt was served: a descriptor that is still ready raises it again."""
        if fd in self._irqs and self._epoll is not None:
            self.ready_fds.pop(fd, None)
            self._epoll.modify(fd, self._irqs[fd][1] | select.EPOLLONESHOT)

    def unwatch_fd(self, fd: int) -> None:
        """Forget `fd`, before it is closed."""
        if self._irqs.pop(fd, None) is not None and self._epoll is not None:
            self.ready_fds.pop(fd, None)
            self._epoll.unregister(fd)

    def _wait_for_reply(self) -> bytes:
        """Wait for the reply, sending an irq for each descriptor that becomes ready meanwhile.

        The socket's own descriptor is edge-triggered, so the socket is always tried before the epoll is.
        """
        endpoint, epoll = self._endpoint, self._epoll
        assert epoll is not None
        while True:
            reply = endpoint.receive()
            if reply is not None:
                return reply
            if endpoint.readable():
                continue
            irqs = set()
            ready = epoll.poll()
            self.looks += 1
            for fd, events in ready:
                if fd in self._irqs:
                    irqs.add(self._irqs[fd][0])
                    self.ready_fds[fd] = self.ready_fds.get(fd, 0) | events
            for irq in irqs:
                endpoint.send(pack([irq]))
