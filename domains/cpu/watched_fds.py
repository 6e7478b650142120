"""Host descriptors that become physical interrupts: Dom0's, looked at only while its process waits for the core."""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import NamedTuple, Protocol


class Watched(NamedTuple):
    """A host descriptor: its physical interrupt, the events it is watched for, and whether something has come indeed."""

    irq: int
    events: int
    has_come: Callable[[], bool] | None


class HasFileno(Protocol):
    """A descriptor's owner."""

    def fileno(self) -> int:
        """The descriptor."""


class WatchedFds:
    """`ready`: the descriptors that were ready and have not been served, with their events."""

    def __init__(self, connection: HasFileno | int) -> None:
        """`connection`: readable when the core may have answered; it ends a wait."""
        self._connection = connection
        self._epoll: select.epoll | None = None
        self._watched: dict[int, Watched] = {}
        self.ready: dict[int, int] = {}

    @property
    def any(self) -> bool:
        """Whether any descriptor was ever watched."""
        return self._epoll is not None

    def watch(self, fd: int, events: int, irq: int, has_come: Callable[[], bool] | None = None) -> None:
        """Raise physical interrupt `irq` when `fd` is ready for `events` (select.EPOLLIN, EPOLLOUT), once per `rearm`.

        `has_come`: whether there is something to be read indeed, of a descriptor that is ready for other reasons too.
        """
        if self._epoll is None:
            self._epoll = select.epoll()
            self._epoll.register(self._connection, select.EPOLLIN)
        if fd in self._watched:
            self._epoll.modify(fd, events | select.EPOLLONESHOT)
        else:
            self._epoll.register(fd, events | select.EPOLLONESHOT)
        self._watched[fd] = Watched(irq, events, has_come)

    def rearm(self, fd: int) -> None:
        """The interrupt was served: a descriptor that is still ready raises it again."""
        if fd in self._watched and self._epoll is not None:
            self.ready.pop(fd, None)
            self._epoll.modify(fd, self._watched[fd].events | select.EPOLLONESHOT)

    def unwatch(self, fd: int) -> None:
        """Forget `fd`, before it is closed."""
        if self._watched.pop(fd, None) is not None and self._epoll is not None:
            self.ready.pop(fd, None)
            self._epoll.unregister(fd)

    def poll(self, seconds: float | None) -> set[int]:
        """Wait for the core and for the descriptors, if there are any; the interrupts of those that are ready."""
        irqs: set[int] = set()
        for fd, events in self._epoll.poll(seconds) if self._epoll is not None else ():
            watched = self._watched.get(fd)
            if watched is None:
                continue
            if watched.has_come is not None and not watched.has_come():
                self.rearm(fd)
                continue
            irqs.add(watched.irq)
            self.ready[fd] = self.ready.get(fd, 0) | events
        return irqs
