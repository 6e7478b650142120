"""The two ends of a stream: where it goes to and where it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from domains.dom0.toolstack.stream.errors import EndOfStream
from domains.kernel.tasks import NEXT_TURN, Task

Bytes = bytes | memoryview
"""Bytes that nobody alters while they are used."""


class Sink(Protocol):
    """Takes a stream."""

    def write(self, parts: Sequence[Bytes]) -> Task[None]:
        """Take these, one behind the other; they are the writer's again when the task has ended. ToolstackError: it cannot."""


class Source(Protocol):
    """Gives a stream."""

    def read(self, size: int) -> Task[Bytes]:
        """The next `size` bytes, good until the next `read`. EndOfStream: there are fewer; ToolstackError: it cannot."""


class MemorySink:
    """Keeps a stream in memory."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def write(self, parts: Sequence[Bytes]) -> Task[None]:
        """See Sink."""
        self.parts += map(bytes, parts)
        yield NEXT_TURN

    @property
    def data(self) -> bytes:
        """All of it."""
        return b"".join(self.parts)


class MemorySource:
    """A stream that lies in memory."""

    def __init__(self, data: Bytes) -> None:
        self._rest = memoryview(data)

    def read(self, size: int) -> Task[Bytes]:
        """See Source. Nothing is copied, so nobody waits."""
        if size > len(self._rest):
            raise EndOfStream(f"{len(self._rest)} bytes are left, not {size}")
        part, self._rest = self._rest[:size], self._rest[size:]
        yield from ()
        return part
