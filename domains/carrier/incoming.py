"""Connections that other machines make: one process for all, behind the machine's listening socket.

Whoever has no key that is known is told nothing, and costs a handshake. A machine that is let in gets a socket to Dom0; what it
may make this process hold is bounded (chunks.py). A message of many frames, of which ZeroMQ holds all before it shows the first,
is bounded by this process's memory alone: it ends then, with its connections, and its parent starts it again.
"""

from __future__ import annotations

import resource
import socket
import time
from typing import Final

import zmq

from domains.carrier.chunks import Kind, Violation, hello
from domains.carrier.curve import DoorKeeper, listening_socket
from domains.carrier.keys import KeyProblem, authorized, pair_of
from domains.carrier.outgoing import RETRY_MS, TURN
from domains.carrier.splice import Gone, Splice
from hypervisor.wire import descriptors
from hypervisor.wire.descriptors import Note

MOST: Final = 16
"""Connections at once."""
MEMORY: Final = 1 << 30
"""Bytes that this process may take beside what it begins with."""
DESCRIPTORS: Final = 256
PING_SECONDS: Final = 1.0
LINES: Final = 1000
"""What this process writes into the machine's log at most."""


def listen(notes: socket.socket, machine: str, fd: int, place: str) -> None:
    """Serve the listening socket `fd`, bound to HOST:PORT; each connection that comes is handed to Dom0 by `notes`."""
    with open("/proc/self/statm") as statm:
        space = int(statm.read().split()[0]) * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    notes.setblocking(False)
    incoming = Incoming(notes, machine, fd, place)
    while True:
        incoming.turn()


class Incoming:
    """The connections, by ZeroMQ's name of each."""

    def __init__(self, notes: socket.socket, machine: str, fd: int, place: str) -> None:
        self._notes = notes
        self._lines = LINES
        self._splices: dict[bytes, Splice] = {}
        self._pinged = 0.0
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._door = DoorKeeper(context, self._admits)
        self._socket = listening_socket(context, pair_of(machine), fd, place)

    def turn(self) -> None:
        """Wait for something, and do what it asks for."""
        poller = zmq.Poller()
        poller.register(self._door.socket, zmq.POLLIN)
        poller.register(self._socket, zmq.POLLIN)
        for splice in self._splices.values():
            events = (zmq.POLLIN if splice.wants_read else 0) | (zmq.POLLOUT if splice.wants_write else 0)
            if events:
                poller.register(splice.dom0, events)
        stuck = any(splice.stuck for splice in self._splices.values())
        ready = dict(poller.poll(RETRY_MS if stuck else int(PING_SECONDS * 1000)))
        if self._door.socket in ready:
            self._door.answer()
        for name in list(self._splices):
            self._serve(name, ready)
        if self._socket in ready:
            self._take()
        self._ping()

    def _serve(self, name: bytes, ready: dict[object, int]) -> None:
        splice = self._splices[name]
        events = ready.get(splice.dom0.fileno(), 0)
        try:
            splice.go_on()
            if events & zmq.POLLOUT:
                splice.writable()
            if events & zmq.POLLIN:
                splice.readable()
        except Gone:
            splice.over = True
        self._drop_if_over(name)

    def _take(self) -> None:
        for _ in range(TURN):
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            name, *rest = frames
            if len(rest) == 1:
                self._came(name.bytes, rest[0])
            else:
                self._cut(name.bytes, "the other side says what no machine of this version says")

    def _came(self, name: bytes, message: zmq.Frame) -> None:
        splice = self._splices.get(name)
        try:
            if splice is not None:
                splice.came(memoryview(message.bytes))
            elif message.bytes[:1] == bytes((Kind.HELLO,)):
                self._welcome(name, message)
        except Violation as why:
            self._cut(name, str(why))
        except Gone:
            self._splices[name].over = True
        self._drop_if_over(name)

    def _welcome(self, name: bytes, message: zmq.Frame) -> None:
        """A machine with a known key has connected: Dom0 gets its end. Raises Gone."""
        if message.bytes != hello():
            self._log("a machine of another version of Xenoscope has connected")
            self._transmit(name, hello())  # from which it sees that
            return
        key, address = str(message.get("User-Id")), str(message.get("Peer-Address"))
        if len(self._splices) >= MOST:
            self._log(f"a migration from {address} is cut off: there are {MOST} connections")
            return
        ours, theirs = socket.socketpair()
        try:
            descriptors.send(self._notes, [int(Note.CARRIED), key, address], (theirs.fileno(),))
        except OSError:
            ours.close()
            self._log("Dom0 takes no more connections")
            return
        finally:
            theirs.close()

        def transmit(data: bytes) -> bool:
            return self._transmit(name, data)

        splice = self._splices[name] = Splice(ours, transmit)
        splice.came(memoryview(message.bytes))
        splice.say(hello())

    def _transmit(self, name: bytes, message: bytes) -> bool:
        try:
            self._socket.send_multipart([name, message], zmq.NOBLOCK)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            raise Gone from error
        return True

    def _ping(self) -> None:
        """To a machine that is gone nothing can be sent: that is how ZeroMQ tells."""
        now = time.monotonic()
        if now - self._pinged < PING_SECONDS:
            return
        self._pinged = now
        for name, splice in list(self._splices.items()):
            try:
                if not splice.stuck:
                    splice.say(bytes((Kind.PING,)))
            except Gone:
                splice.over = True
            self._drop_if_over(name)

    def _cut(self, name: bytes, why: str) -> None:
        self._log(f"a migration's connection is cut: {why}")
        if name in self._splices:
            self._splices[name].over = True
            self._drop_if_over(name)

    def _drop_if_over(self, name: bytes) -> None:
        splice = self._splices.get(name)
        if splice is not None and splice.over:
            del self._splices[name]
            splice.dom0.close()

    def _admits(self, key: bytes, address: str) -> bool:
        try:
            if key and any(key == one for one in authorized()):
                return True
            self._log(
                f"a machine at {address} with the key {key.hex()} is refused: it is not in authorized_keys"
            )
        except KeyProblem as problem:
            self._log(f"a machine at {address} is refused: {problem}")
        return False

    def _log(self, line: str) -> None:
        if self._lines:
            self._lines -= 1
            print(f"carrier: {line}", flush=True)
