"""What one TCP connection sends: its segments, and the alarms that have some sent again or late.

Owns both halves' numbers (sender.py, receiver.py), for every segment that goes tells what came. Which state the connection is in
is `connection.py`'s to know.
"""

from collections.abc import Callable
from typing import Final

from drivers.net.ip.clock import Alarm, Clock
from drivers.net.ip.tcp.receiver import Receiver
from drivers.net.ip.tcp.segment import ACK, FIN, MAX_WINDOW, PSH, RST, SYN, Segment, unfold
from drivers.net.ip.tcp.sender import DEFAULT_MSS, Piece, Sender

BUFFER: Final = 256 << 10
"""Bytes kept in each direction."""
SCALE: Final = 3
"""Windows are told in units of 1 << SCALE bytes, if the other end can read that."""
ACK_DELAY: Final = 40_000_000
"""Nanoseconds that an acknowledgement may wait for data to go with, or for a second segment."""


class Outgoing:
    """`transmit(segment)` sends to the other end; `timed_out` is called when nothing was acknowledged in time."""

    def __init__(
        self,
        clock: Clock,
        ports: tuple[int, int],
        sender: Sender,
        mss: int,
        transmit: Callable[[Segment], None],
        timed_out: Callable[[], None],
    ) -> None:
        """`mss`: of the segments that this end takes."""
        self._clock = clock
        self._ports = ports
        self._mss = mss
        self._transmit = transmit
        self.sender = sender
        self.receiver = Receiver(0, BUFFER, mss)
        self._shifts: tuple[int, int] | None = (
            None  # of windows told and read; None: the other end scales none
        )
        self._unacknowledged = 0  # segments with data since the last ACK
        self._retransmission = Alarm(clock, timed_out)
        self._delayed_ack = Alarm(clock, self.acknowledge)

    def meet(self, syn: Segment) -> None:
        """The other end's SYN tells where its numbers begin, and how large its segments may be."""
        if syn.scale is not None:
            self._shifts = (SCALE, syn.scale)
        self.receiver = Receiver(syn.seq + 1, BUFFER if self._shifts else MAX_WINDOW, self._mss)
        mss = min(self._mss, DEFAULT_MSS if syn.mss is None else syn.mss)
        self.sender.established(mss, syn.window, syn.seq, unfold(syn.ack, self.sender.una))

    def window_of(self, segment: Segment) -> int:
        """How many bytes the other end says it takes."""
        scaled = self._shifts and not segment.flags & SYN
        return segment.window << self._shifts[1] if self._shifts and scaled else segment.window

    def send_syn(self, answers: bool, again: bool) -> None:
        """Send SYN; `answers`: to the other end's."""
        scale = SCALE if self._shifts or not answers else None
        self.send(self.sender.una, SYN | ACK if answers else SYN, mss=self._mss, scale=scale)
        self.sender.sent_syn(self._clock.now(), again)
        self._retransmission.set(self.sender.round_trip.timeout)

    def send_pieces(self) -> None:
        """Send what may be sent now, and see to it that somebody looks after it."""
        while (piece := self.sender.next_piece()) is not None:
            self.send_piece(piece)
        if not (self.sender.flight or self.sender.waiting):
            self._retransmission.clear()
        elif not self._retransmission.is_set:
            self._retransmission.set(self.sender.round_trip.timeout)

    def send_piece(self, piece: Piece) -> None:
        """Send this piece of the stream."""
        push = PSH if piece.data and not self.sender.more_after(piece) else 0
        self.send(piece.seq, ACK | (FIN if piece.fin else 0) | push, piece.data)
        self.sender.sent(piece, self._clock.now())

    def take_ack(self, seq: int, ack: int, window: int, pure: bool) -> None:
        """The other end has come to `ack` and takes so many bytes more; `pure`: its segment says nothing else."""
        progress = ack > self.sender.una
        lost = self.sender.acknowledge(seq, ack, window, pure, self._clock.now())
        if lost is not None:
            self.send_piece(lost)
        if progress:
            self._retransmission.clear()  # `send_pieces` sets it anew

    def send_again(self) -> None:
        """Nothing was acknowledged in time, or a shut window has not opened."""
        self.sender.timed_out()
        if self.sender.shut and (probe := self.sender.probe()) is not None:
            self.send_piece(probe)

    def came(self, segment: Segment, at_once: bool) -> None:
        """Data came: acknowledge it, soon or `at_once`."""
        self._unacknowledged += 1 + (len(segment.data) > self._mss)  # such stands for several
        if at_once or self._unacknowledged > 1:
            self.acknowledge()
        elif not self._delayed_ack.is_set:
            self._delayed_ack.set(ACK_DELAY)

    def acknowledge(self) -> None:
        """From behind all that was ever sent: after a time-out, `nxt` is where the other end takes nothing any more, not even
        what it acknowledges (RFC 9293 §3.10.7.4), and two such ends would answer each other for ever.
        """
        self.send(self.sender.top, ACK)

    def refuse(self, ack: int) -> None:
        """Reset a connection of which the other end believes that it has come to `ack`."""
        self._transmit(Segment(*self._ports, ack, 0, RST, 0))

    def send(
        self, seq: int, flags: int, data: bytes = b"", mss: int | None = None, scale: int | None = None
    ) -> None:
        """Every segment of this connection; what it acknowledges needs no ACK of its own any more."""
        window = self.receiver.window()
        if self._shifts and not flags & SYN:
            window >>= self._shifts[0]
        ack = self.receiver.nxt if flags & ACK else 0
        self._unacknowledged = 0
        self._delayed_ack.clear()
        size = self.sender.mss if len(data) > self.sender.mss else 0
        self._transmit(
            Segment(*self._ports, seq, ack, flags, min(window, MAX_WINDOW), data, mss, scale, size)
        )

    def stop(self) -> None:
        """Nothing more is sent by an alarm."""
        self._retransmission.clear()
        self._delayed_ack.clear()
