"""A domain's stream over a connection: the sink of one who sends it, the source of one who makes a domain of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from domains.dom0.toolstack.migrating.connection import Connection
from domains.dom0.toolstack.stream.ends import Bytes
from domains.kernel.kernel import Kernel
from domains.kernel.tasks import NEXT_TURN, Task

MIB: Final = 1 << 20


class ConnectionSink:
    """A Sink. `heard` is called after each piece: what it raises ends the sending. `bandwidth`: MiB a second at most, or 0."""

    def __init__(
        self, kernel: Kernel, connection: Connection, heard: Callable[[], None], bandwidth: float
    ) -> None:
        self._kernel = kernel
        self._connection = connection
        self._heard = heard
        self._bandwidth = bandwidth
        self._due = kernel.now()
        self.size = 0

    def write(self, parts: Sequence[Bytes]) -> Task[None]:
        """See Sink. Raises Lost, and what `heard` raises."""
        size = sum(map(len, parts))
        yield from self._connection.write(parts)
        self._heard()
        self.size += size
        if self._bandwidth:
            self._due = max(self._due, self._kernel.now() - 50_000_000) + int(
                size / self._bandwidth / MIB * 1e9
            )
            while (ahead := self._due - self._kernel.now()) > 0:
                yield from self._kernel.rest(min(ahead / 1e9, 0.5))
                self._heard()
        else:
            yield NEXT_TURN


class ConnectionSource:
    """A Source."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def read(self, size: int) -> Task[Bytes]:
        """See Source. Raises Lost."""
        return self._connection.read(size)
