"""The connections of a fleet: ZeroMQ over TCP between the head and its agents, encrypted and authenticated by CURVE (libzmq's,
RFC 26), and over a unix socket between `xenctl fleet` and the head.

The head makes a pair of keys for itself and one for each agent, and hands each its own when it starts it. An agent knows the
head by its public key; the head knows each agent by the agent's, and takes no other connection. So a host is who its key says,
whatever its messages say. The unix socket is in a folder that only its owner may enter.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import zmq
import zmq.auth.thread

from domains.control.fleet_messages import MAX_MESSAGE, pack, unpack
from domains.control.records import Malformed, Record

HEARTBEAT_MS: Final = 1000
SILENCE_MS: Final = 3000
"""A connection that says nothing for so long is made anew."""
QUEUED: Final = 1000
"""Messages that wait for one connection at most; what is more is dropped, as a network would."""
ZAP_DOMAIN: Final = "fleet"
"""What libzmq asks under whether a key may connect; with a name it lets nobody in when nobody answers."""
LINGER_MS: Final = 500
"""For the last messages to leave."""


class Keys(NamedTuple):
    """A pair of CURVE keys, as text of 40 letters."""

    public: str
    secret: str


def new_keys() -> Keys:
    """From the host's random numbers."""
    public, secret = zmq.curve_keypair()
    return Keys(public.decode(), secret.decode())


class Peer(NamedTuple):
    """Where a message came from, for the answer. `host`: of an agent; None: it is a client."""

    host: str | None
    route: bytes


class Allowed:
    """Says to libzmq which agents' keys may connect."""

    def __init__(self) -> None:
        self.hosts: dict[str, str] = {}
        """The host of each public key."""

    def callback(self, _domain: str, key: bytes) -> bool:
        """Whether an agent with this public key, in its form of 40 letters, may connect."""
        return key.decode("ascii", "replace") in self.hosts


class HeadLink:
    """The head's end. Driven by its loop: nothing here waits but `wait`."""

    def __init__(self, address: str, keys: Keys, clients: Path) -> None:
        """Listens on a free TCP port of this address, and at the unix socket `clients`. Raises OSError."""
        self._context = zmq.Context()
        self._authenticator = zmq.auth.thread.ThreadAuthenticator(self._context)
        self._authenticator.start()
        self._allowed = Allowed()
        self._authenticator.configure_curve_callback(ZAP_DOMAIN, self._allowed)
        self._agents = self._router()
        self._clients = self._router()
        self._routes: dict[str, bytes] = {}
        try:
            self._agents.zap_domain = ZAP_DOMAIN.encode()
            self._agents.curve_server = True
            self._agents.curve_publickey, self._agents.curve_secretkey = (key.encode() for key in keys)
            self._agents.ipv6 = ":" in address
            self._agents.bind(f"tcp://[{address}]:*" if ":" in address else f"tcp://{address}:*")
            self._clients.bind(f"ipc://{clients}")
        except zmq.ZMQError as error:
            self.close()
            raise OSError(error.errno, f"cannot listen at {address}: {error.strerror}") from None
        self.endpoint: str = self._agents.getsockopt_string(zmq.LAST_ENDPOINT)
        self._poller = zmq.Poller()
        for socket in (self._agents, self._clients):
            self._poller.register(socket, zmq.POLLIN)

    def _router(self) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.ROUTER)
        for option, value in (
            (zmq.SNDHWM, QUEUED),
            (zmq.MAXMSGSIZE, MAX_MESSAGE),
            (zmq.LINGER, LINGER_MS),
            (zmq.HEARTBEAT_IVL, HEARTBEAT_MS),
            (zmq.HEARTBEAT_TIMEOUT, SILENCE_MS),
        ):
            socket.setsockopt(option, value)
        return socket

    def allow(self, host: str, public_key: str) -> None:
        """From now on an agent with this key may connect, and is that host."""
        self._allowed.hosts[public_key] = host

    def watch(self, fd: int) -> None:
        """`wait` ends when this descriptor is readable, too."""
        self._poller.register(fd, zmq.POLLIN)

    def wait(self, seconds: float) -> None:
        """Until something may have come, or the time is over."""
        self._poller.poll(max(0, int(seconds * 1000)))

    def receive(self) -> Iterator[tuple[Peer, Record]]:
        """What has come. What is no message of ours is dropped."""
        for socket in (self._agents, self._clients):
            for _ in range(QUEUED):
                try:
                    frames = socket.recv_multipart(zmq.NOBLOCK, copy=False)
                except zmq.Again:
                    break
                if (found := self._read(frames, socket is self._agents)) is not None:
                    yield found

    def _read(self, frames: list[Any], from_agent: bool) -> tuple[Peer, Record] | None:
        if len(frames) != 2:
            return None
        host = None
        if from_agent:
            host = self._allowed.hosts.get(str(frames[1].get("User-Id")))
            if host is None:
                return None
            self._routes[host] = frames[0].bytes
        try:
            return Peer(host, frames[0].bytes), unpack(frames[1].bytes)
        except Malformed:
            return None

    def answer(self, peer: Peer, message: Record) -> None:
        """To whoever sent something; one that is gone is nobody's error."""
        socket = self._clients if peer.host is None else self._agents
        send(socket, [peer.route, pack(message)])

    def tell(self, host: str, message: Record) -> bool:
        """To an agent, over the connection that it spoke by last. Whether it was handed over: not to one that was never heard of.
        It may be lost all the same.
        """
        route = self._routes.get(host)
        return route is not None and send(self._agents, [route, pack(message)])

    def close(self) -> None:
        """End all connections, when the last messages have left."""
        self._agents.close()
        self._clients.close()
        self._authenticator.stop()
        self._context.term()


class Link:
    """One connection to a head: an agent's, or a client's."""

    def __init__(self, endpoint: str, keys: Keys | None = None, head_key: str = "") -> None:
        """Connects, now or as soon as there is somebody. `keys` and `head_key`: an agent's own, and the head's public one."""
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        for option, value in (
            (zmq.SNDHWM, QUEUED),
            (zmq.MAXMSGSIZE, MAX_MESSAGE),
            (zmq.LINGER, LINGER_MS),
            (zmq.HEARTBEAT_IVL, HEARTBEAT_MS),
            (zmq.HEARTBEAT_TIMEOUT, SILENCE_MS),
            (zmq.RECONNECT_IVL, 100),
            (zmq.RECONNECT_IVL_MAX, 1000),
        ):
            self._socket.setsockopt(option, value)
        if keys is not None:
            # An agent keeps nothing for a connection that there is not, for old renewals are worth nothing. With this option
            # libzmq drops what has come, too, when the connection ends, and that a client wants to have.
            self._socket.setsockopt(zmq.IMMEDIATE, 1)
            self._socket.curve_serverkey = head_key.encode()
            self._socket.curve_publickey, self._socket.curve_secretkey = (key.encode() for key in keys)
        self._socket.ipv6 = endpoint.startswith("tcp://[")
        self._socket.connect(endpoint)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)

    def watch(self, fd: int) -> None:
        """`wait` ends when this descriptor is readable, too."""
        self._poller.register(fd, zmq.POLLIN)

    def unwatch(self, fd: int) -> None:
        """Not any more."""
        self._poller.unregister(fd)

    def wait(self, seconds: float) -> None:
        """Until something may have come, or the time is over."""
        self._poller.poll(max(0, int(seconds * 1000)))

    def send(self, message: Record) -> bool:
        """Whether it was handed over; an agent's is not if there is no connection."""
        return send(self._socket, [pack(message)])

    def receive(self) -> Iterator[Record]:
        """What has come. What is no message of ours is dropped."""
        while True:
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                yield unpack(frames[-1])
            except Malformed:
                continue

    def close(self) -> None:
        """End the connection, when the last messages have left."""
        self._socket.close()
        self._context.term()


def send(socket: zmq.Socket[bytes], frames: list[bytes]) -> bool:
    """Without waiting; whether it was taken."""
    try:
        socket.send_multipart(frames, zmq.NOBLOCK)
    except zmq.ZMQError:  # full, or gone
        return False
    return True
