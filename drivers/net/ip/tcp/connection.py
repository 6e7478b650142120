"""One TCP connection: its states, and when which segment goes out (RFC 9293 §3.3.2, §3.10.7).

    connect: SYN_SENT ──────────┐                    ┌► FIN_WAIT_1 ─► FIN_WAIT_2 ─┐
                                ├─► ESTABLISHED ─────┤       └──► CLOSING ────────┴► TIME_WAIT ─► CLOSED
    a listener's: SYN_RECEIVED ─┘                    └► CLOSE_WAIT ─► LAST_ACK ─► CLOSED

Whatever the user may wait for, `changed` is called after it: more to read, room to write, another state, the end.
A reset is believed only at the very number that is expected; near misses are answered by an ACK (RFC 5961).
"""

from collections.abc import Callable
from typing import Final

from drivers.net.ip.clock import SECOND, Alarm, Clock
from drivers.net.ip.tcp.outgoing import BUFFER, Outgoing
from drivers.net.ip.tcp.segment import ACK, FIN, RST, SYN, Segment, unfold
from drivers.net.ip.tcp.sender import Sender
from drivers.net.ip.tcp.states import (
    FIN_ACKNOWLEDGED,
    FIN_SEEN,
    FINISHED,
    OPENING,
    RECEIVING,
    State,
)

ATTEMPTS: Final = 8
"""Time-outs in a row until a connection is given up."""
LINGER: Final = 60 * SECOND
"""Twice the longest life of a segment, as Linux takes it; also how long a closed end waits for the other's FIN."""


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
        self._gone = gone
        self._sender = Sender(iss, BUFFER, most)
        self._out = Outgoing(clock, ports, self._sender, mss, transmit, self._timed_out)
        self._state = State.CLOSED
        self._deaf = False  # the user reads no more
        self._attempts = 0
        self._linger = Alarm(clock, lambda: self._end(None))
        self.changed: Callable[[], None] = nothing
        self.error: OSError | None = None
        """Why it ended, if not as it should: refused, reset, timed out."""

    @property
    def state(self) -> State:
        """Where the connection stands (RFC 9293 §3.3.2)."""
        return self._state

    # --- for the user ----------------------------------------------------------------------------

    @property
    def readable(self) -> int:
        """Bytes that `read` would give."""
        return len(self._out.receiver)

    @property
    def at_end(self) -> bool:
        """Nothing more can be read: all was, or the connection is dead."""
        return not self.readable and (self._out.receiver.finished or self._state is State.CLOSED)

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
        data = self._out.receiver.read(count)
        if self._state in RECEIVING and self._out.receiver.nearly_shut():
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
            self._out.send(self._sender.nxt, RST | ACK)
        self._end(None)

    # --- opening ---------------------------------------------------------------------------------

    def open(self) -> None:
        """Send SYN."""
        self._state = State.SYN_SENT
        self._out.send_syn(answers=False, again=False)

    def answer(self, syn: Segment) -> None:
        """Take a SYN for a listener."""
        self._state = State.SYN_RECEIVED
        self._out.meet(syn)
        self._out.send_syn(answers=True, again=False)

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
                self._out.refuse(segment.ack)
            return
        if segment.flags & RST:
            self._end(ConnectionRefusedError("the connection was refused"))
        elif segment.flags & SYN:
            self._out.meet(segment)
            self._state = State.ESTABLISHED
            self._take_ack(segment.seq, sender.nxt, segment)
            self._acknowledge()
            self._output()

    def _receive_synchronized(self, segment: Segment) -> None:
        """RFC 9293 §3.10.7.4, in its order."""
        receiver, sender, flags = self._out.receiver, self._sender, segment.flags
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
        if seq != self._out.receiver.nxt:
            self._acknowledge()
        elif self._state in (State.CLOSING, State.LAST_ACK):
            self._end(None)
        elif self._state is not State.TIME_WAIT:
            self._end(ConnectionResetError("the other end has reset the connection"))

    def _opened(self, ack: int) -> bool:
        """Whether the ACK that a listener's connection waits for is right."""
        if ack != self._sender.nxt:
            self._out.refuse(ack)
            return False
        self._state = State.ESTABLISHED
        return True

    def _take_ack(self, seq: int, ack: int, segment: Segment) -> None:
        sender, window = self._sender, self._out.window_of(segment)
        if ack > sender.una or not window:
            self._attempts = 0
        self._out.take_ack(seq, ack, window, pure=not segment.length)
        if sender.finish_acknowledged and self._state in FIN_ACKNOWLEDGED:
            self._enter(FIN_ACKNOWLEDGED[self._state])

    def _take_data(self, seq: int, segment: Segment) -> None:
        """Data and FIN, of which at least the beginning lies in the window."""
        if not segment.length or self._state not in RECEIVING:
            return
        if self._deaf and segment.data:
            self.abort()
            return
        receiver = self._out.receiver
        expected = receiver.nxt
        receiver.accept(seq, segment.data, bool(segment.flags & FIN))
        if receiver.finished:
            self._enter(FIN_SEEN[self._state])
        self._out.came(segment, at_once=seq != expected or receiver.has_gap or receiver.finished)

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
        self._out.send_pieces()

    def _acknowledge(self) -> None:
        if self._state not in (State.CLOSED, *OPENING) or self._state is State.SYN_RECEIVED:
            self._out.acknowledge()

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
            self._out.send_syn(answers=self._state is State.SYN_RECEIVED, again=True)
            return
        self._out.send_again()
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
        self._linger.clear()
        self._out.stop()
        self._gone()


def nothing() -> None:
    """Where nobody waits."""
