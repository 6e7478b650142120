"""The receiving half of a connection: bytes in order, pieces that came too early, and the window that is offered.

    ──────┬── ready ──┬────── ahead: pieces with gaps ──────┬──
          │ unread    nxt                                  edge = what was offered; never taken back

Invariant: no more than `capacity` bytes are kept whatever arrives; what lies beyond the edge is cut off.
"""

from typing import Final

MAX_PIECES: Final = 64
"""Separate pieces that are kept; more gaps than that are somebody's mischief."""


class Receiver:
    """`first`: the number of the first byte."""

    def __init__(self, first: int, capacity: int, mss: int) -> None:
        self.nxt = first
        self._capacity = capacity
        self._step = min(mss, self._capacity // 2)
        self._edge = first + self._capacity
        self._ready = bytearray()
        self._ahead = bytearray()  # from nxt on; only what _pieces name counts
        self._pieces: list[tuple[int, int]] = []  # [start, stop) in order, apart from each other
        self._end: int | None = None  # where FIN is
        self.finished = False
        """Everything has arrived, FIN included."""

    # --- for the user ----------------------------------------------------------------------------

    def __len__(self) -> int:
        """Bytes that can be read."""
        return len(self._ready)

    def read(self, count: int) -> bytes:
        """At most `count` bytes in order."""
        data = bytes(self._ready[:count])
        del self._ready[:count]
        return data

    # --- from the network ------------------------------------------------------------------------

    @property
    def offered(self) -> int:
        """The window as it was offered last."""
        return self._edge - self.nxt if self._edge > self.nxt else 0

    def window(self) -> int:
        """The window to offer now. It grows by worthwhile steps only (RFC 9293 §3.8.6.2.2)."""
        if self.would_grow():
            self._edge = self.nxt + self._capacity - len(self._ready)
        return self.offered

    def would_grow(self) -> bool:
        """Whether enough was read to offer more."""
        return self.nxt + self._capacity - len(self._ready) - self._edge >= self._step

    def nearly_shut(self) -> bool:
        """Whether the other end should hear at once that there is room again."""
        return self.offered < self._capacity // 2 and self.would_grow()

    def acceptable(self, seq: int, length: int) -> bool:
        """Whether a segment has anything to do with the window (RFC 9293 §3.10.7.4)."""
        return self.nxt <= (seq + length - 1 if length else seq) and seq <= max(self._edge, self.nxt)

    def accept(self, seq: int, data: bytes, fin: bool) -> None:
        """Keep what fits of a segment's data."""
        if self.finished:
            return
        stop = seq + len(data)
        if fin and self._end is None and self.nxt <= stop <= self._edge:
            self._end = stop
        start = max(seq, self.nxt)
        stop = min(stop, self._edge, stop if self._end is None else self._end)
        if start < stop:
            piece = data[start - seq : stop - seq]
            if start == self.nxt and not self._pieces:
                self._ready += piece
                self.nxt = stop
            else:
                self._keep(start, stop, piece)
        if self.nxt == self._end:
            self.nxt += 1
            self.finished = True
            self._pieces.clear()
            self._ahead.clear()

    @property
    def has_gap(self) -> bool:
        """Something is missing before what has arrived."""
        return bool(self._pieces)

    def _keep(self, start: int, stop: int, data: bytes) -> None:
        """Store a piece that came early or fills a gap, and take in what is in order now."""
        merged = self._merged(start, stop)
        if len(merged) > MAX_PIECES:
            return
        self._pieces = merged
        at = start - self.nxt
        self._ahead.extend(bytes(max(stop - self.nxt - len(self._ahead), 0)))
        self._ahead[at : at + len(data)] = data
        if self._pieces[0][0] == self.nxt:
            count = self._pieces.pop(0)[1] - self.nxt
            self._ready += self._ahead[:count]
            del self._ahead[:count]
            self.nxt += count

    def _merged(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The pieces with one more, those that touch joined."""
        before = [piece for piece in self._pieces if piece[1] < start]
        after = [piece for piece in self._pieces if piece[0] > stop]
        touching = self._pieces[len(before) : len(self._pieces) - len(after)]
        if touching:
            start, stop = min(start, touching[0][0]), max(stop, touching[-1][1])
        return [*before, (start, stop), *after]
