"""Dom0's host descriptors as a physical interrupt.

The gate watches descriptors whenever the vCPU waits in the hypervisor, and raises HOST_IRQ when one is ready;
its event channel's handler triggers the callbacks of what is ready, and has the gate watch those again. A vCPU that is
about to wait looks by itself first (`look`): a client that asks again at once is served without the hypervisor.
Level-triggered, like poll: a callback that leaves something unread is called again.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from types import GeneratorType
from typing import Final

from domains.cpu.gate import Gate
from domains.kernel.events import EventPorts
from domains.kernel.loop import Callback, Loop, Source
from domains.kernel.tasks import Task

HOST_IRQ: Final = 16
"""The physical interrupt of all host descriptors: the first behind the ISA ones."""
READABLE: Final = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP
WRITABLE: Final = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR
LINGER_NS: Final = 50_000
"""A client in Python sends its next request within that time after an answer."""


class HostFds:
    """Callbacks by descriptor; the interrupt is bound with the first one."""

    def __init__(self, gate: Gate, events: EventPorts, loop: Loop) -> None:
        self._gate = gate
        self._events = events
        self._loop = loop
        self._bound = False
        self._served = False
        """Whether a descriptor has been served since the last look that found none."""
        self._readers: dict[int, Source] = {}
        self._writers: dict[int, Source] = {}
        self._come: dict[int, Callable[[], bool]] = {}

    @property
    def looks(self) -> int:
        """How often the descriptors were looked at so far."""
        return self._gate.looks

    def add_reader(self, fd: int, callback: Callback, has_come: Callable[[], bool] | None = None) -> None:
        """Has `callback` called whenever the descriptor can be read, and `has_come()` holds if it is given: a descriptor of
        ZeroMQ is readable for other reasons too.
        """
        if has_come is not None:
            self._come[fd] = has_come
        self._add(self._readers, fd, callback)

    def add_writer(self, fd: int, callback: Callback) -> None:
        """Has `callback` called whenever the descriptor can be written."""
        self._add(self._writers, fd, callback)

    def remove_reader(self, fd: int) -> None:
        """Ends add_reader."""
        self._remove(self._readers, fd)

    def remove_writer(self, fd: int) -> None:
        """Ends add_writer."""
        self._remove(self._writers, fd)

    def _add(self, table: dict[int, Source], fd: int, callback: Callback) -> None:
        if not self._bound:
            self._events.bind_pirq(HOST_IRQ, self._interrupt)
            self._bound = True
        if fd in table:
            table[fd].callback = None
        table[fd] = self._loop.source(lambda: self._serve(fd, callback))
        self._watch(fd)

    def _remove(self, table: dict[int, Source], fd: int) -> None:
        source = table.pop(fd, None)
        if source is None:
            return
        source.callback = None
        if fd in self._readers or fd in self._writers:
            self._watch(fd)
        else:
            self._come.pop(fd, None)
            self._gate.watched.unwatch(fd)

    def _watch(self, fd: int) -> None:
        wanted = (select.EPOLLIN if fd in self._readers else 0) | (
            select.EPOLLOUT if fd in self._writers else 0
        )
        self._gate.watched.watch(fd, wanted, HOST_IRQ, self._come.get(fd))

    def look(self) -> bool:
        """Trigger what is ready now, for a vCPU that is about to sleep: to be woken by the interrupt takes it a hypercall and the
        core's answer. Whether anything was. After a descriptor has been served, look for LINGER_NS, giving way to other
        processes: whom that one is about asks again by then, or not soon. On a machine that repeats itself the core says when
        to look: False.
        """
        gate = self._gate
        if gate.meter is not None:
            return False
        gate.looks += 1
        end = time.monotonic_ns() + LINGER_NS if self._served else 0
        while not gate.watched.poll(0):
            if self._loop.ready or time.monotonic_ns() >= end:
                self._served = False
                return False
            os.sched_yield()
        self._interrupt()
        return True

    def _interrupt(self) -> None:
        """Trigger what is ready; each descriptor is watched again after its callback has run."""
        self._served = True
        for fd, events in list(self._gate.watched.ready.items()):
            self._gate.watched.ready.pop(fd, None)
            if events & READABLE and fd in self._readers:
                self._readers[fd].trigger()
            if events & WRITABLE and fd in self._writers:
                self._writers[fd].trigger()

    def _serve(self, fd: int, callback: Callback) -> Task[None] | None:
        task = callback()
        if isinstance(task, GeneratorType):
            return self._finish(fd, task)
        self._rearm(fd)
        return None

    def _finish(self, fd: int, task: Task[None]) -> Task[None]:
        yield from task
        self._rearm(fd)

    def _rearm(self, fd: int) -> None:
        if fd in self._readers or fd in self._writers:
            self._gate.watched.rearm(fd)
