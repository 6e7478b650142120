"""Bytes on their way to one client, message by message, and the accounts that they are charged to.

A request is over when its reply and all events that it caused, at whichever clients, have been taken. Until
then it counts against its domain (`Quota.OUTSTANDING`), so a guest cannot fill other clients' queues: it is
not served any more until they have been emptied (rule S2, XSA-326). What a client leaves lying counts as its
own memory.

    message = header and payload, whole;     front -> [partly taken][...][...] <- back
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from domains.dom0.xenstore.quota import Quota, Usage

EVENT_TIMEOUT: Final = 20.0
"""Seconds after which an event that an unprivileged client has not taken is dropped, as in Xen: or else a
domain that does not read could stall those that write."""


class Outstanding:
    """One accepted request that is not over yet. Every `get` has its `put`."""

    __slots__ = ("_count", "usage")

    def __init__(self, usage: Usage) -> None:
        self.usage = usage
        self._count = 0

    def get(self) -> "Outstanding":
        """One more message belongs to the request."""
        if self._count == 0:
            self.usage.add(Quota.OUTSTANDING, 1)
        self._count += 1
        return self

    def put(self) -> None:
        """One message less; the last one ends the request."""
        self._count -= 1
        if self._count == 0:
            self.usage.add(Quota.OUTSTANDING, -1)


@dataclass(eq=False, slots=True)
class Message:
    """`cause` is the request it comes from, or None. `deadline`: when it may be dropped; None for replies."""

    data: bytes
    cause: Outstanding | None
    is_event: bool
    deadline: float | None = None


class Outgoing:
    """The queue of one connection. `usage` is its domain's."""

    def __init__(self, usage: Usage) -> None:
        self._usage = usage
        self._messages: deque[Message] = deque()
        self._taken = 0  # of the first message
        self._length = 0
        self._events: set[bytes] = set()  # those in the queue, to send no event twice

    def __len__(self) -> int:
        """Bytes not yet taken."""
        return self._length - self._taken

    def holds_event(self, data: bytes) -> bool:
        """Whether the very same event is waiting already."""
        return data in self._events

    def append(self, message: Message) -> None:
        """Queues a message; its bytes are on its domain's account until they are sent."""
        if message.cause:
            message.cause.get()
        if message.is_event:
            self._events.add(message.data)
        self._usage.add(Quota.MEMORY, len(message.data))
        self._length += len(message.data)
        self._messages.append(message)

    def peek(self, limit: int) -> bytes:
        """Up to `limit` of the next bytes; they stay until `advance`."""
        chunks: list[bytes] = []
        length = 0
        start = self._taken
        for message in self._messages:
            if length >= limit:
                break
            chunks.append(message.data[start : start + limit - length])
            length += len(chunks[-1])
            start = 0
        return b"".join(chunks)

    def advance(self, count: int) -> None:
        """`count` bytes have been taken by the client."""
        self._taken += count
        while self._messages and self._taken >= len(self._messages[0].data):
            message = self._messages.popleft()
            self._taken -= len(message.data)
            self._forget(message)

    def take(self) -> bytes:
        """All that waits: for a client in the same process."""
        data = self.peek(len(self))
        self.advance(len(data))
        return data

    def waiting(self) -> list[tuple[bytes, bool]]:
        """The messages not yet taken, of the first what is left of it; and whether each is an event, which the rest of
        one is not.
        """
        messages = [(message.data, message.is_event) for message in self._messages]
        if messages and self._taken:
            messages[0] = (messages[0][0][self._taken :], False)
        return messages

    def expire(self, now: float) -> None:
        """Drop the events whose time is over, except one that the client has begun to take."""
        kept: deque[Message] = deque()
        for index, message in enumerate(self._messages):
            begun = index == 0 and self._taken > 0
            if begun or message.deadline is None or message.deadline > now:
                kept.append(message)
            else:
                self._forget(message)
        self._messages = kept

    def next_deadline(self) -> float | None:
        """When `expire` will have something to do. The first deadline is the earliest; they come in order."""
        return next(self._deadlines(), None)

    def _deadlines(self) -> Iterator[float]:
        for index, message in enumerate(self._messages):
            if message.deadline is not None and not (index == 0 and self._taken > 0):
                yield message.deadline

    @property
    def footprint(self) -> int:
        """Bytes of `Quota.MEMORY`: a message that is partly taken counts as a whole."""
        return sum(len(message.data) for message in self._messages)

    def causes(self) -> set[Outstanding]:
        """The requests that are not over before these messages have been taken."""
        return {message.cause for message in self._messages if message.cause}

    def clear(self) -> None:
        """The client is gone, and with it what it has not taken."""
        while self._messages:
            self._forget(self._messages.popleft())
        self._taken = 0

    def _forget(self, message: Message) -> None:
        self._length -= len(message.data)
        self._usage.add(Quota.MEMORY, -len(message.data))
        if message.is_event:
            self._events.discard(message.data)
        if message.cause:
            message.cause.put()
