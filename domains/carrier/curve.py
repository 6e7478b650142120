"""ZeroMQ sockets that speak CURVE: the listening machine's, which knows whom it lets in, and that of one who connects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import zmq
from zmq.utils import z85

from domains.carrier.chunks import LARGEST
from domains.carrier.keys import Pair

ENCRYPTED: Final = LARGEST + 64
"""Bytes of the largest frame on the wire: what encryption adds are 33."""
HANDSHAKE_MS: Final = 5000
HEARTBEAT_MS: Final = 2000
SILENCE_MS: Final = 8000
"""The other carrier, or the network, that has not answered a heartbeat for so long is gone."""
MESSAGES: Final = 16
"""Messages that ZeroMQ holds each way."""
LINGER_MS: Final = 2000
ZAP_ENDPOINT: Final = "inproc://zeromq.zap.01"
ZAP_VERSION: Final = b"1.0"


def bounded(socket: zmq.Socket[bytes], keys: Pair) -> None:
    """What both kinds of sockets have."""
    socket.curve_secretkey = z85.encode(keys.secret)
    socket.curve_publickey = z85.encode(keys.public)
    socket.maxmsgsize = ENCRYPTED
    socket.rcvhwm = socket.sndhwm = MESSAGES
    socket.handshake_ivl = HANDSHAKE_MS
    socket.heartbeat_ivl, socket.heartbeat_timeout = HEARTBEAT_MS, SILENCE_MS
    socket.linger = LINGER_MS
    socket.ipv6 = True


def listening_socket(
    context: zmq.Context[zmq.Socket[bytes]], keys: Pair, fd: int, place: str
) -> zmq.Socket[bytes]:
    """A ROUTER behind the listening socket `fd`, which is bound to `place` (HOST:PORT)."""
    socket = context.socket(zmq.ROUTER)
    bounded(socket, keys)
    socket.curve_server = True
    socket.zap_domain = b"xenoscope"
    socket.router_mandatory = True
    socket.setsockopt(zmq.USE_FD, fd)
    socket.bind(f"tcp://{place}")
    return socket


def connecting_socket(
    context: zmq.Context[zmq.Socket[bytes]], keys: Pair, server: bytes
) -> zmq.Socket[bytes]:
    """A DEALER that believes only the machine with the public key `server`; it connects once, and never again by itself."""
    socket = context.socket(zmq.DEALER)
    bounded(socket, keys)
    socket.curve_serverkey = z85.encode(server)
    socket.reconnect_ivl = -1
    socket.connect_timeout = HANDSHAKE_MS
    return socket


class DoorKeeper:
    """Says who may connect (ZAP, ZeroMQ RFC 27): whose key `admits` takes. Its messages then bear the key as their User-Id."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], admits: Callable[[bytes, str], bool]) -> None:
        self._admits = admits
        self.socket = context.socket(zmq.REP)
        self.socket.linger = 0
        self.socket.bind(ZAP_ENDPOINT)

    def answer(self) -> None:
        """Answer one question of ZeroMQ's, which is there."""
        version, request, _domain, address, _identity, mechanism, *credentials = self.socket.recv_multipart()
        key = credentials[0] if mechanism == b"CURVE" and credentials else b""
        good = version == ZAP_VERSION and self._admits(key, address.decode(errors="replace"))
        status, text = (b"200", b"OK") if good else (b"400", b"unknown key")
        self.socket.send_multipart([ZAP_VERSION, request, status, text, key.hex().encode(), b""])
