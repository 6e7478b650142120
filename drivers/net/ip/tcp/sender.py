"""The sending half of a connection: what was written and is not yet acknowledged, and what of it may go now.

        una                nxt          top        end
    ─────┼──────────────────┼────────────┼──────────┼──
    acked│ under way        │ sent before│ waiting  │ FIN
         └─ min(window, congestion) ─►   (nxt < top: being sent again after a time-out)

State only: `next_piece` says what to send, `sent` that it was, `acknowledge` what the other end has. Numbers are
unbounded; SYN is at `iss`, the first byte behind it, FIN behind the last.
"""

from typing import Final, NamedTuple

from drivers.net.ip.tcp.congestion import Congestion
from drivers.net.ip.tcp.round_trip import RoundTrip

DEFAULT_MSS: Final = 536
"""RFC 9293 §3.7.1, where the other end says none."""
LEAST_MSS: Final = 64
"""Less is a stranger's attempt to have a packet for each byte."""


class Piece(NamedTuple):
    """What one segment carries."""

    seq: int
    data: bytes
    fin: bool


class Sender:
    """`limit`: the bytes kept for a peer that does not take them. `most`: bytes of a piece that stands for many segments,
    if the device cuts them.
    """

    def __init__(self, iss: int, limit: int, most: int = 0) -> None:
        self.una = self.nxt = self.top = iss
        self._first = iss + 1  # of the buffer
        self._buffer = bytearray()
        self._limit = limit
        self._finished = False
        self._window = 0
        self._window_from = (0, 0)  # seq and ack of the segment that said so
        self._timed: tuple[int, int] | None = None  # acknowledged at or above …, sent at …
        self._most = most
        self.mss = DEFAULT_MSS
        self._congestion = Congestion(DEFAULT_MSS)
        self.round_trip = RoundTrip()

    def established(self, mss: int, window: int, seq: int, ack: int) -> None:
        """The other end's SYN or its first ACK has told this."""
        self.mss = max(mss, LEAST_MSS)
        self._congestion = Congestion(self.mss, self._most)
        self._window, self._window_from = window, (seq, ack)

    # --- from the user ---------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """Bytes that can be written."""
        return 0 if self._finished else max(self._limit - len(self._buffer), 0)

    def write(self, data: bytes | memoryview) -> int:
        """Take as much of `data` as there is room for; how much that was."""
        count = min(len(data), self.room)
        self._buffer += data[:count]
        return count

    def finish(self) -> None:
        """Nothing more will be written."""
        self._finished = True

    # --- to the network --------------------------------------------------------------------------

    @property
    def flight(self) -> int:
        """How much of the sequence space is under way."""
        return self.nxt - self.una

    @property
    def waiting(self) -> bool:
        """Whether there is anything that was not sent, or not since the last time-out."""
        return self.nxt < self._end + self._finished

    @property
    def finishing(self) -> bool:
        """The user has said that nothing more comes."""
        return self._finished

    @property
    def finish_acknowledged(self) -> bool:
        """Whether the other end has acknowledged our FIN."""
        return self._finished and self.una > self._end

    @property
    def _end(self) -> int:
        return self._first + len(self._buffer)

    def next_piece(self) -> Piece | None:
        """What to send now; None if there is nothing, or it must wait.

        A small piece waits while more is under way, unless it is the last (RFC 9293 §3.8.6.2.1).
        """
        unsent = self._end - self.nxt
        if unsent < 0:
            return None
        wanted = min(self.mss, unsent)
        allowed = min(self._window, self._congestion.window) - self.flight
        size = min(wanted, allowed)
        if wanted and (size <= 0 or (size < wanted and self.flight)):
            return None
        if size == self.mss:
            whole = min(self._most, unsent, allowed) // self.mss
            size = max(whole, 1) * self.mss
        return self._piece(self.nxt, max(size, 0))

    def lost_piece(self) -> Piece | None:
        """The first piece that is not acknowledged, to be sent again."""
        return self._piece(self.una, min(self.mss, self._end - self.una)) if self.una >= self._first else None

    def probe(self) -> Piece | None:
        """One byte into a window that is shut, so that its opening is not missed (RFC 9293 §3.8.6.1)."""
        return self._piece(self.nxt, 1) if self._end > self.nxt else self._piece(self.nxt, 0)

    def _piece(self, seq: int, size: int) -> Piece | None:
        at = seq - self._first
        data = bytes(self._buffer[at : at + size]) if size > 0 else b""
        fin = self._finished and at + len(data) == len(self._buffer)
        return Piece(seq, data, fin) if data or fin else None

    def more_after(self, piece: Piece) -> bool:
        """Whether bytes that lie behind `piece` wait to go."""
        return piece.seq + len(piece.data) < self._end

    def sent(self, piece: Piece, now: int) -> None:
        """`piece` has gone out. Only what goes for the first time tells a round trip."""
        after = piece.seq + len(piece.data) + piece.fin
        if after > self.top:
            self.top = after
            if self._timed is None and piece.seq >= self.nxt:
                self._timed = (after, now)
        elif self._timed is not None and piece.seq < self._timed[0]:
            self._timed = None
        self.nxt = max(self.nxt, after)

    def sent_syn(self, now: int, again: bool) -> None:
        """Our SYN went out at `now` (ns); `again`: not for the first time, so its round trip is not measured."""
        self.nxt = self.top = self.una + 1
        self._timed = None if again else (self.nxt, now)

    # --- from the network ------------------------------------------------------------------------

    def acknowledge(self, seq: int, ack: int, window: int, empty: bool, now: int) -> Piece | None:
        """An acceptable segment acknowledges up to `ack` ≤ `top` and says `window`; `empty`: it carries nothing.

        Returns what was lost and is to be sent again.
        """
        was = self._window
        if (seq, ack) >= self._window_from:
            self._window, self._window_from = window, (seq, ack)
        if ack > self.una:
            return self._advance(ack, now)
        repeated = ack == self.una and self.top > self.una and empty and was == window
        if repeated and self._congestion.duplicate(self.una, self.flight, self.top):
            return self.lost_piece()
        return None

    def _advance(self, ack: int, now: int) -> Piece | None:
        count = ack - self.una
        self.una = ack
        self.nxt = max(self.nxt, ack)
        drop = min(max(ack - self._first, 0), len(self._buffer))
        del self._buffer[:drop]
        self._first += drop
        self.round_trip.progress()
        if self._timed is not None and ack >= self._timed[0]:
            self.round_trip.sample(now - self._timed[1])
            self._timed = None
        return self.lost_piece() if self._congestion.acknowledged(count, ack) else None

    @property
    def shut(self) -> bool:
        """The other end offers no window at all, and nothing is under way: only a probe may go."""
        return not self._window and not self.flight

    def timed_out(self) -> None:
        """Send everything again from `una` on, in due course."""
        self._congestion.timed_out(self.flight, self.top)
        self.round_trip.back_off()
        self._timed = None
        if self.una >= self._first:
            self.nxt = self.una
