"""A connection that this machine makes: a process of its own, from Dom0's wish until the connection ends.

What goes wrong before there is a connection, Dom0 is told in one line (a frame LOST). Later it sees that its socket is closed.
"""

from __future__ import annotations

import errno
import socket
import time
from contextlib import suppress
from typing import Final

import zmq
from zmq.utils.monitor import recv_monitor_message

from domains.carrier.chunks import Violation, hello
from domains.carrier.curve import connecting_socket
from domains.carrier.frames import Word, frame
from domains.carrier.keys import KeyProblem, pair_of
from domains.carrier.splice import Gone, Splice

CONNECT_SECONDS: Final = 10.0
TURN: Final = 32
"""Messages taken before others have their turn."""
RETRY_MS: Final = 5
"""How soon a message is offered again that ZeroMQ did not take."""
WATCHED: Final = (
    zmq.Event.HANDSHAKE_FAILED_AUTH
    | zmq.Event.HANDSHAKE_FAILED_PROTOCOL
    | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
    | zmq.Event.DISCONNECTED
    | zmq.Event.CLOSED
)


class NoConnection(Exception):
    """There is none; `str()` says why, in one line."""


def carry_out(dom0: socket.socket, machine: str, place: str, server: bytes) -> None:
    """Connect `dom0` with the machine at HOST:PORT whose public key is `server`, for as long as both want."""
    try:
        Outgoing(dom0, machine, place, server).run()
    except (NoConnection, KeyProblem) as problem:
        with suppress(OSError):
            dom0.setblocking(True)
            dom0.settimeout(CONNECT_SECONDS)
            dom0.sendall(frame(Word.LOST, str(problem).encode()[:4000]))
    finally:
        dom0.close()


class Outgoing:
    """One connection."""

    def __init__(self, dom0: socket.socket, machine: str, place: str, server: bytes) -> None:
        self._place = place
        self._deadline = time.monotonic() + CONNECT_SECONDS
        self._answered = False
        keys = pair_of(machine)
        self._public = keys.public
        reach(place)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = connecting_socket(self._context, keys, server)
        self._monitor = self._socket.get_monitor_socket(WATCHED)
        self._splice = Splice(dom0, self._transmit)

    def run(self) -> None:
        """Raises NoConnection if it does not come about."""
        self._socket.connect(f"tcp://{self._place}")
        try:
            self._splice.say(hello())
            while not self._splice.over:
                self._turn()
        except (Gone, Violation):
            return
        finally:
            self._socket.close()
            self._context.destroy()

    def _turn(self) -> None:
        splice, poller = self._splice, zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._monitor, zmq.POLLIN)
        events = (zmq.POLLIN if splice.wants_read and self._answered else 0) | (
            zmq.POLLOUT if splice.wants_write else 0
        )
        if events:
            poller.register(splice.dom0, events)
        ready = dict(poller.poll(RETRY_MS if splice.stuck else 1000))
        splice.go_on()
        if ready.get(splice.dom0.fileno(), 0) & zmq.POLLOUT:
            splice.writable()
        if self._socket in ready:
            self._take()
        if ready.get(splice.dom0.fileno(), 0) & zmq.POLLIN:
            splice.readable()
        if self._monitor in ready:
            self._happened(recv_monitor_message(self._monitor)["event"])
        if not self._answered and time.monotonic() > self._deadline:
            raise NoConnection(f"the machine at {self._place} does not answer")

    def _take(self) -> None:
        for _ in range(TURN):
            try:
                message = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            if not self._answered and message != hello():
                raise NoConnection(f"the machine at {self._place} is of another version of Xenoscope")
            self._answered = True
            self._splice.came(memoryview(message))

    def _happened(self, event: int) -> None:
        if self._answered:
            self._take()  # what came before the end
            raise Gone
        if event == zmq.Event.HANDSHAKE_FAILED_AUTH:
            raise NoConnection(
                f"the machine at {self._place} does not know this one: write {self._public.hex()} into its"
                " authorized_keys ('xenctl key' prints it)"
            )
        raise NoConnection(
            f"{self._place} does not answer as the machine with that key; 'xenctl key' there prints the one it has"
        )

    def _transmit(self, message: bytes) -> bool:
        try:
            self._socket.send(message, zmq.NOBLOCK)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            raise Gone from error
        return True


def reach(place: str) -> None:
    """See that somebody listens at HOST:PORT: ZeroMQ does not tell why nobody does. Raises NoConnection."""
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except TimeoutError:
        raise NoConnection(f"nobody answers at {place} within {CONNECT_SECONDS:g} s") from None
    except OSError as error:
        refused = error.errno == errno.ECONNREFUSED
        why = (
            "no machine listens there ('xenctl start --listen')" if refused else error.strerror or str(error)
        )
        raise NoConnection(f"cannot connect to {place}: {why}") from None
