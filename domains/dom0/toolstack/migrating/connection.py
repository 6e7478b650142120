"""A connection with another machine's Dom0: words and pieces of a domain's stream, over a socket that nobody waits for.

    say(word)      queued behind what is under way; few, and small
    write(parts)   a task: DATA, sent as the other side takes it
    words          what has come besides DATA and was not looked at yet
    read(size)     a task: the next bytes of DATA

At most one piece of DATA and WORDS_MOST words are held, whatever the other side sends: what does not fit stays in the socket, and
holds up the sender. A PING goes each second; one who says nothing for SILENCE seconds, or
takes nothing for STALL seconds, is lost.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final, NamedTuple

from domains.carrier.frames import HEAD_SIZE, PIECE, NotAFrame, Word, frame, head, parse_head
from domains.dom0.listener import Watched
from domains.dom0.toolstack.errors import ToolstackError
from domains.kernel.kernel import Kernel
from domains.kernel.loop import Timer
from domains.kernel.tasks import Signal, Task

Piece = bytes | memoryview

PING_SECONDS: Final = 1.0
SILENCE: Final = 10.0
STALL: Final = 60.0
WORDS_MOST: Final = 16
PARTS_AT_ONCE: Final = 512
"""Pieces of one call of writev(2); Linux takes 1,024."""


class Lost(ToolstackError):
    """The connection is over; `str()` says why, in one line."""


class Said(NamedTuple):
    """A word and its body."""

    word: Word
    body: bytes


class Connection:
    """One end. `name`: what the other side is called. `changed` is sent when words, bytes or the end have come."""

    def __init__(self, kernel: Kernel, peer: socket.socket, name: str) -> None:
        self.name = name
        self.words: deque[Said] = deque()
        self.changed = Signal()
        self.lost: str | None = None
        """Why it is over; None while it is not."""
        self.sent_bytes = 0
        self.when_lost: Callable[[], None] = lambda: None
        """Called once, when it is over."""
        self._kernel = kernel
        self._peer = peer
        self._out: deque[memoryview] = deque()
        self._taken = Signal()
        self._head = bytearray()
        self._word = Word.PING
        self._body: bytearray | None = None
        self._filled = 0
        self._data: memoryview = memoryview(b"")
        self._heard = self._moved = kernel.now()
        self._said = 0
        peer.setblocking(False)
        self._watched = Watched(kernel, peer.fileno(), self._readable, self._writable)
        self._watched.reads(True)
        self._timer: Timer = kernel.call_later(PING_SECONDS, self._tick)

    # --- saying ----------------------------------------------------------------------------------

    def say(self, word: Word, body: bytes = b"") -> None:
        """Say something; of a connection that is over nothing comes of it."""
        if self.lost is None:
            self._out.append(memoryview(frame(word, body)))
            self._writable()

    def write(self, parts: Sequence[Piece]) -> Task[None]:
        """Send these bytes, in this order, as DATA; done when the other side's socket has them all. Raises Lost."""
        for pieces, size in cut(parts, PIECE):
            if self.lost is not None:
                raise Lost(self.lost)
            self._out.append(memoryview(head(Word.DATA, size)))
            self._out.extend(pieces)
            self._writable()
            yield from self._kernel.until(
                lambda: not self._out or self.lost is not None, self._taken, self.changed
            )
            self.sent_bytes += size
        if self.lost is not None:
            raise Lost(self.lost)

    def _writable(self) -> None:
        if self.lost is not None:
            return
        while self._out:
            try:
                size = self._peer.sendmsg(list(islice(self._out, PARTS_AT_ONCE)), [], socket.MSG_NOSIGNAL)
            except BlockingIOError:
                break
            except OSError:
                self._lose(f"the connection with {self.name} is broken")
                return
            self._said = self._moved = self._kernel.now()
            self._strike_off(size)
        self._watched.writes(bool(self._out))
        if not self._out:
            self._taken.send()

    def _strike_off(self, size: int) -> None:
        while size:
            first = self._out[0]
            if size < len(first):
                self._out[0] = first[size:]
                return
            size -= len(first)
            self._out.popleft()

    # --- hearing ---------------------------------------------------------------------------------

    def read(self, size: int) -> Task[Piece]:
        """The next bytes of DATA, so many. Raises Lost: they do not come, for a word has come, or the end."""
        got, filled = bytearray(size), 0
        while filled < size:
            yield from self._kernel.until(
                lambda: bool(self._data or self.words) or self.lost is not None,
                self.changed,
                timeout=STALL * 2,
            )
            if not self._data:
                raise Lost(self.lost or f"{self.name} sends no more of the domain")
            part, self._data = self._data[: size - filled], self._data[size - filled :]
            got[filled : filled + len(part)] = part
            filled += len(part)
            if not self._data:
                self._go_on_reading()
        return memoryview(got)

    def take(self) -> Said | None:
        """The next word, if one has come."""
        said = self.words.popleft() if self.words else None
        if said is not None:
            self._go_on_reading()
        return said

    def _go_on_reading(self) -> None:
        if self.lost is None:
            self._watched.reads(not self._data and len(self.words) < WORDS_MOST)

    def _readable(self) -> None:
        """Take in one frame, or what there is of it."""
        try:
            data = self._receive()
        except BlockingIOError:
            return
        except NotAFrame as why:
            self._lose(f"{self.name} is no machine of this version: {why}")
            return
        except OSError:
            data = 0
        if not data:
            self._lose(f"the connection with {self.name} has ended")

    def _receive(self) -> int:
        """How many bytes have come; 0: the end."""
        if self._body is None:
            data = self._peer.recv(HEAD_SIZE - len(self._head))
            self._head += data
            size = len(data)
            if len(self._head) == HEAD_SIZE:
                self._word, length = parse_head(bytes(self._head))
                self._head.clear()
                self._body, self._filled = bytearray(length), 0
        else:
            size = self._peer.recv_into(memoryview(self._body)[self._filled :])
            self._filled += size
        if size:
            self._heard = self._kernel.now()
        if self._body is not None and self._filled == len(self._body):
            body, self._body = self._body, None
            self._whole(body)
        return size

    def _whole(self, body: bytearray) -> None:
        if self._word is Word.PING:
            return
        if self._word is Word.DATA:
            self._data = memoryview(body)
        elif self._word is Word.LOST:
            self._lose(body.decode(errors="replace"))
            return
        else:
            self.words.append(Said(self._word, bytes(body)))
        self._go_on_reading()
        self.changed.send()

    # --- its end ---------------------------------------------------------------------------------

    def close(self, why: str = "it was closed") -> None:
        """End it, after what was said last as far as the socket takes that at once. Idempotent."""
        self._writable()
        self._lose(why)

    def _lose(self, why: str) -> None:
        if self.lost is not None:
            return
        self.lost = why
        self._watched.reads(False)
        self._watched.writes(False)
        self._timer.cancel()
        self._peer.close()
        self._out.clear()
        self._taken.send()
        self.changed.send()
        self.when_lost()

    def _tick(self) -> None:
        now = self._kernel.now()
        waits = self._data or len(self.words) >= WORDS_MOST
        if waits:
            self._heard = now
        elif now - self._heard > SILENCE * 1e9:
            self._lose(f"{self.name} has said nothing for {SILENCE:g} s")
            return
        if self._out and now - self._moved > STALL * 1e9:
            self._lose(f"{self.name} has taken nothing for {STALL:g} s")
            return
        if not self._out and now - self._said > PING_SECONDS * 5e8:
            self.say(Word.PING)
        if self.lost is None:
            self._timer = self._kernel.call_later(PING_SECONDS, self._tick)


def cut(parts: Sequence[Piece], most: int) -> list[tuple[list[memoryview], int]]:
    """The same bytes in groups of at most `most`, with each group's size."""
    groups: list[tuple[list[memoryview], int]] = []
    pieces: list[memoryview] = []
    size = 0
    for part in parts:
        rest = memoryview(part).cast("B")
        while rest:
            piece, rest = rest[: most - size], rest[most - size :]
            pieces.append(piece)
            size += len(piece)
            if size == most:
                groups.append((pieces, size))
                pieces, size = [], 0
    if pieces:
        groups.append((pieces, size))
    return groups
