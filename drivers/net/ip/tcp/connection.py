"""One TCP connection: its states, and when which segment goes out (RFC 9293 §3.3.2, §3.10.7).

    connect: SYN_SENT ──────────┐                    ┌► FIN_WAIT_1 ─► FIN_WAIT_2 ─┐
                                ├─► ESTABLISHED ─────┤       └──► CLOSING ────────┴► TIME_WAIT ─► CLOSED
    a listener's: SYN_RECEIVED ─┘                    └► CLOSE_WAIT ─► LAST_ACK ─► CLOSED

Whatever the user may wait for, `changed` is called after it: more to read, room to write, another state, the end.
A reset is believed only at the very number that is expected; near misses are answered by an ACK (RFC 5961).
"""

from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from drivers.net.ip.clock import SECOND, Alarm, Clock
from drivers.net.ip.tcp.receiver import Receiver
from drivers.net.ip.tcp.segment import ACK, FIN, MAX_WINDOW, PSH, RST, SYN, Segment, unfold
from drivers.net.ip.tcp.sender import DEFAULT_MSS, Piece, Sender

BUFFER: Final = 256 << 10
"""Bytes kept in each direction."""
SCALE: Final = 3
"""Windows are told in units of 1 << SCALE bytes, if the other end can read that."""
ATTEMPTS: Final = 8
"""Time-outs in a row until a connection is given up."""
ACK_DELAY: Final = 40_000_000
"""Nanoseconds that an acknowledgement may wait for data to go with, or for a second segment."""
LINGER: Final = 60 * SECOND
"""Twice the longest life of a segment, as Linux takes it; also how long a closed end waits for the other's FIN."""


class State(Enum):
    """RFC 9293 §3.3.2; LISTEN is a listener's."""

    SYN_SENT = auto()
    SYN_RECEIVED = auto()
    ESTABLISHED = auto()
    FIN_WAIT_1 = auto()
    FIN_WAIT_2 = auto()
    CLOSE_WAIT = auto()
    CLOSING = auto()
    LAST_ACK = auto()
    TIME_WAIT = auto()
    CLOSED = auto()


OPENING: Final = (State.SYN_SENT, State.SYN_RECEIVED)
RECEIVING: Final = (State.ESTABLISHED, State.FIN_WAIT_1, State.FIN_WAIT_2)
FINISHED: Final = {State.ESTABLISHED: State.FIN_WAIT_1, State.CLOSE_WAIT: State.LAST_ACK}
"""After FIN is queued."""
FIN_SEEN: Final = {
    State.ESTABLISHED: State.CLOSE_WAIT,
    State.FIN_WAIT_1: State.CLOSING,
    State.FIN_WAIT_2: State.TIME_WAIT,
}
FIN_ACKNOWLEDGED: Final = {
    State.FIN_WAIT_1: State.FIN_WAIT_2,
    State.CLOSING: State.TIME_WAIT,
    State.LAST_ACK: State.CLOSED,
}


class Connection:
    """`transmit(segment)` sends to the other end; `gone` is called once, when nothing is to be remembered."""

    def __init__(
        self,
        clock: Clock,
        ports: tuple[int, int],
        iss: int,
        mss: int,
        transmit: Callable[[Segment], None],
        gone: Callable[[], None],
        most: int = 0,
    ) -> None:
        """`most`: bytes of a segment that stands for many, if the device cuts such."""
        self._clock = clock
        self._ports = ports
        self._mss = mss  # that this end takes
        self._transmit = transmit
        self._gone = gone
        self._sender = Sender(iss, BUFFER, most)
        self._receiver = Receiver(0, BUFFER, mss)
        self._state = State.CLOSED
        self._shifts: tuple[int, int] | None = (
            None  # of windows told and read; None: the other end scales none
        )
        self._deaf = False  # the user reads no more
        self._unacknowledged = 0  # segments with data since the last ACK
        self._attempts = 0
        self._retransmission = Alarm(clock, self._timed_out)
        self._delayed_ack = Alarm(clock, self._acknowledge)
        self._linger = Alarm(clock, lambda: self._end(None))
        self.changed: Callable[[], None] = nothing
        self.error: OSError | None = None
        """Why it ended, if not as it should: refused, reset, timed out."""

    @property
    def state(self) -> State:
        return self._state

    # --- for the user ----------------------------------------------------------------------------

    @property
    def readable(self) -> int:
        """Bytes that `read` would give."""
        return len(self._receiver)

    @property
    def at_end(self) -> bool:
        """Nothing more can be read: all was, or the connection is dead."""
        return not self.readable and (self._receiver.finished or self._state is State.CLOSED)

    @property
    def writable(self) -> int:
        """Bytes that `write` would take."""
        return self._sender.room if self._state in (*OPENING, State.ESTABLISHED, State.CLOSE_WAIT) else 0

    @property
    def drained(self) -> bool:
        """Everything written has been acknowledged, or never will be."""
        return self._state is State.CLOSED or not (self._sender.flight or self._sender.waiting)

    def read(self, count: int = BUFFER) -> bytes:
        """What has arrived, at most `count` bytes; empty if there is nothing."""
        data = self._receiver.read(count)
        if self._state in RECEIVING and self._receiver.nearly_shut():
            self._acknowledge()
        return data

    def write(self, data: bytes | memoryview) -> int:
        """Send of `data` what there is room for; how many bytes that were. Raises BrokenPipeError, or `error`."""
        if self.error is not None:
            raise self.error
        if self._state not in (*OPENING, State.ESTABLISHED, State.CLOSE_WAIT):
            raise BrokenPipeError("the connection has been closed for writing")
        count = self._sender.write(data)
        self._output()
        return count

    def finish(self) -> None:
        """Nothing more will be written; reading goes on. Harmless if it is said twice."""
        if self._state in OPENING or self._state in FINISHED:
            self._sender.finish()
            self._output()

    def close(self) -> None:
        """Neither read nor write any more: what was written still goes out, what comes is refused."""
        self._deaf = True
        if self._state is State.SYN_SENT:
            self._end(None)
            return
        self.finish()
        if self._state is State.FIN_WAIT_2:
            self._linger.set(LINGER)

    def abort(self) -> None:
        """End at once, and tell the other end."""
        if self._state not in (State.CLOSED, State.SYN_SENT, State.TIME_WAIT):
            self._send(self._sender.nxt, RST | ACK)
        self._end(None)

    # --- opening ---------------------------------------------------------------------------------

    def open(self) -> None:
        """Send SYN."""
        self._state = State.SYN_SENT
        self._send_syn(again=False)

    def answer(self, syn: Segment) -> None:
        """Take a SYN for a listener."""
        self._state = State.SYN_RECEIVED
        self._meet(syn)
        self._send_syn(again=False)

    def _meet(self, syn: Segment) -> None:
        """The other end's SYN tells where its numbers begin, and how large its segments may be."""
        if syn.scale is not None:
            self._shifts = (SCALE, syn.scale)
        self._receiver = Receiver(syn.seq + 1, BUFFER if self._shifts else MAX_WINDOW, self._mss)
        mss = min(self._mss, DEFAULT_MSS if syn.mss is None else syn.mss)
        self._sender.established(mss, syn.window, syn.seq, unfold(syn.ack, self._sender.una))

    def _send_syn(self, again: bool) -> None:
        iss = self._sender.una
        scale = SCALE if self._state is State.SYN_SENT or self._shifts else None
        flags = SYN if self._state is State.SYN_SENT else SYN | ACK
        self._send(iss, flags, mss=self._mss, scale=scale)
        self._sender.sent_syn(self._clock.now(), again)
        self._retransmission.set(self._sender.round_trip.timeout)

    # --- segments that come ----------------------------------------------------------------------

    def receive(self, segment: Segment) -> None:
        """A segment for this connection."""
        if self._state is State.CLOSED:
            return
        if self._state is State.SYN_SENT:
            self._receive_in_syn_sent(segment)
        else:
            self._receive_synchronized(segment)
        self.changed()

    def _receive_in_syn_sent(self, segment: Segment) -> None:
        """RFC 9293 §3.10.7.3; two ends that open at once are not provided for."""
        sender = self._sender
        if not segment.flags & ACK:
            return
        if unfold(segment.ack, sender.nxt) != sender.nxt:
            if not segment.flags & RST:
                self._transmit(Segment(*self._ports, segment.ack, 0, RST, 0))
            return
        if segment.flags & RST:
            self._end(ConnectionRefusedError("the connection was refused"))
        elif segment.flags & SYN:
            self._meet(segment)
            self._state = State.ESTABLISHED
            self._take_ack(segment.seq, sender.nxt, segment)
            self._acknowledge()
            self._output()

    def _receive_synchronized(self, segment: Segment) -> None:
        """RFC 9293 §3.10.7.4, in its order."""
        receiver, sender, flags = self._receiver, self._sender, segment.flags
        seq, ack = unfold(segment.seq, receiver.nxt), unfold(segment.ack, sender.una)
        if not receiver.acceptable(seq, segment.length):
            if not flags & RST:
                self._acknowledge()
            return
        if flags & RST:
            self._take_reset(seq)
            return
        if flags & SYN or not flags & ACK:
            if flags & SYN:
                self._acknowledge()
            return
        if self._state is State.SYN_RECEIVED and not self._opened(ack):
            return
        if ack > sender.top:
            self._acknowledge()
            return
        self._take_ack(seq, ack, segment)
        self._take_data(seq, segment)
        self._output()

    def _take_reset(self, seq: int) -> None:
        """What only lingers is not ended by it, for it answers a late copy of what is over (RFC 1337)."""
        if seq != self._receiver.nxt:
            self._acknowledge()
        elif self._state in (State.CLOSING, State.LAST_ACK):
            self._end(None)
        elif self._state is not State.TIME_WAIT:
            self._end(ConnectionResetError("the other end has reset the connection"))

    def _opened(self, ack: int) -> bool:
        """Whether the ACK that a listener's connection waits for is right."""
        if ack != self._sender.nxt:
            self._transmit(Segment(*self._ports, ack, 0, RST, 0))
            return False
        self._state = State.ESTABLISHED
        return True

    def _take_ack(self, seq: int, ack: int, segment: Segment) -> None:
        sender, window = self._sender, segment.window
        if self._shifts and not segment.flags & SYN:
            window <<= self._shifts[1]
        if ack > sender.una or not window:
            self._attempts = 0
        progress = ack > sender.una
        lost = sender.acknowledge(seq, ack, window, not segment.length, self._clock.now())
        if lost is not None:
            self._send_piece(lost)
        if progress:
            self._retransmission.clear()  # `_output` sets it anew
        if sender.finish_acknowledged and self._state in FIN_ACKNOWLEDGED:
            self._enter(FIN_ACKNOWLEDGED[self._state])

    def _take_data(self, seq: int, segment: Segment) -> None:
        """Data and FIN, of which at least the beginning lies in the window."""
        if not segment.length or self._state not in RECEIVING:
            return
        if self._deaf and segment.data:
            self.abort()
            return
        receiver = self._receiver
        expected = receiver.nxt
        receiver.accept(seq, segment.data, bool(segment.flags & FIN))
        self._unacknowledged += 1 + (len(segment.data) > self._mss)  # such stands for several
        if receiver.finished:
            self._enter(FIN_SEEN[self._state])
        if seq != expected or receiver.has_gap or receiver.finished or self._unacknowledged > 1:
            self._acknowledge()
        elif not self._delayed_ack.is_set:
            self._delayed_ack.set(ACK_DELAY)

    def _enter(self, state: State) -> None:
        if state is State.CLOSED:
            self._end(None)
            return
        self._state = state
        if state is State.TIME_WAIT or (state is State.FIN_WAIT_2 and self._deaf):
            self._linger.set(LINGER)

    # --- segments that go ------------------------------------------------------------------------

    def _output(self) -> None:
        """Send what may be sent, and see to it that somebody looks after it."""
        if self._state in OPENING or self._state is State.CLOSED:
            return
        if self._sender.finishing and self._state in FINISHED:
            self._state = FINISHED[self._state]
        while (piece := self._sender.next_piece()) is not None:
            self._send_piece(piece)
        if not (self._sender.flight or self._sender.waiting):
            self._retransmission.clear()
        elif not self._retransmission.is_set:
            self._retransmission.set(self._sender.round_trip.timeout)

    def _send_piece(self, piece: Piece) -> None:
        flags = (
            ACK
            | (FIN if piece.fin else 0)
            | (PSH if piece.data and not self._sender.more_after(piece) else 0)
        )
        self._send(piece.seq, flags, piece.data)
        self._sender.sent(piece, self._clock.now())

    def _acknowledge(self) -> None:
        """From behind all that was ever sent: after a time-out, `nxt` is where the other end takes nothing any more, not even
        what it acknowledges (RFC 9293 §3.10.7.4), and two such ends would answer each other for ever.
        """
        if self._state not in (State.CLOSED, *OPENING) or self._state is State.SYN_RECEIVED:
            self._send(self._sender.top, ACK)

    def _send(
        self, seq: int, flags: int, data: bytes = b"", mss: int | None = None, scale: int | None = None
    ) -> None:
        """Every segment of this connection; what it acknowledges needs no ACK of its own any more."""
        window = self._receiver.window()
        if self._shifts and not flags & SYN:
            window >>= self._shifts[0]
        ack = self._receiver.nxt if flags & ACK else 0
        self._unacknowledged = 0
        self._delayed_ack.clear()
        size = self._sender.mss if len(data) > self._sender.mss else 0
        self._transmit(
            Segment(*self._ports, seq, ack, flags, min(window, MAX_WINDOW), data, mss, scale, size)
        )

    def _timed_out(self) -> None:
        """Nothing was acknowledged in time, or a shut window has not opened."""
        self._attempts += 1
        sender = self._sender
        if self._attempts > ATTEMPTS:
            self._end(TimeoutError("the other end does not answer"))
            self.changed()
            return
        if self._state in OPENING:
            sender.round_trip.back_off()
            self._send_syn(again=True)
            return
        sender.timed_out()
        if sender.shut and (probe := sender.probe()) is not None:
            self._send_piece(probe)
        self._output()

    def unreachable(self) -> None:
        """The network says that the other end cannot be reached: believed only while opening (RFC 5927)."""
        if self._state is State.SYN_SENT:
            self._end(ConnectionRefusedError("the other end cannot be reached"))
            self.changed()

    def _end(self, error: OSError | None) -> None:
        """Nothing is left to do. What has arrived can still be read."""
        if self._state is State.CLOSED:
            return
        self._state = State.CLOSED
        self.error = error
        for alarm in (self._retransmission, self._delayed_ack, self._linger):
            alarm.clear()
        self._gone()


def nothing() -> None:
    """Where nobody waits."""
