"""Linux's own TCP/IP as the other host, in a network namespace of this process's own, on a TAP device.

    10.9.0.1  this stack ── TAP ── Linux  10.9.0.2

Run as a program, with the name of a scenario: it enters the namespaces (no privilege needed where Linux lets users
have their own) and prints what came of it as JSON, or "unavailable: why".
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import json
import os
import random
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

from domains.kernel.loop import Loop, Timer
from drivers.net.ip.stack import Stack
from drivers.net.ip.tcp.connection import Connection
from drivers.net.ip.tcp.states import State
from drivers.net.protocol import Packet

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
SIOCSIFADDR, SIOCSIFNETMASK, SIOCSIFFLAGS, IFF_UP_RUNNING = 0x8916, 0x891C, 0x8914, 0x41
OURS, LINUX = "10.9.0.1", "10.9.0.2"
LINUX_ADDRESS = IPv4Address(LINUX).packed


def enter_namespaces() -> None:
    """A user with all rights over a network of its own. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    flags = CLONE_NEWNET if os.getuid() == 0 else CLONE_NEWUSER | CLONE_NEWNET
    if libc.unshare(flags) != 0:
        raise OSError(ctypes.get_errno(), "unshare")


def open_tap() -> int:
    """A TAP device whose other end is Linux's LINUX/24. Raises OSError."""
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    name = b"tap0"
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name, IFF_TAP | IFF_NO_PI))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for request, address in ((SIOCSIFADDR, LINUX), (SIOCSIFNETMASK, "255.255.255.0")):
            packed = struct.pack("16sHH4s8x", name, socket.AF_INET, 0, socket.inet_aton(address))
            fcntl.ioctl(control, request, packed)
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH22x", name, IFF_UP_RUNNING))
    return tap


class Host:
    """This stack on the TAP device, in real time. It loses a share of all frames, if asked."""

    def __init__(self, tap: int, loss: float) -> None:
        self.tap = tap
        self.loop = Loop()
        self.dice = random.Random(1)
        self.loss = loss
        interface = IPv4Interface(f"{OURS}/24")
        mac = bytes.fromhex("00163e000001")
        self.stack = Stack(self, mac, interface, None, self.transmit, self.dice.getrandbits)

    def now(self) -> int:
        return time.monotonic_ns()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        return self.loop.call_at(self.now() + int(seconds * 1e9), callback)

    def transmit(self, packet: Packet) -> None:
        if self.dice.random() >= self.loss:
            try:
                os.write(self.tap, packet.data)
            except BlockingIOError:
                return

    def run(self, condition: Callable[[], object], seconds: float = 40) -> None:
        limit = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < limit, "it takes too long"
            if self.loop.run_one() or self.loop.fire(self.now()):
                continue
            due = self.loop.next_deadline()
            wait = 0.05 if due is None else min(0.05, max(due - self.now(), 0) / 1e9)
            if select.select([self.tap], [], [], wait)[0]:
                frame = os.read(self.tap, 65536)
                if self.dice.random() >= self.loss:
                    self.stack.receive(Packet(frame))


def in_thread(work: Callable[[], Any]) -> list[Any]:
    """Run blocking socket calls aside; the list gets their result."""
    result: list[Any] = []
    threading.Thread(target=lambda: result.append(work()), daemon=True).start()
    return result


def text(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def summed(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def exchange(host: Host, connection: Connection, data: bytes) -> bytes:
    """Send `data` and read all there is, both to the end."""
    outgoing, incoming = memoryview(data), bytearray()

    def look() -> bool:
        nonlocal outgoing
        while more := connection.read():
            incoming.extend(more)
        while outgoing and connection.writable:
            outgoing = outgoing[connection.write(outgoing) :]
        if not outgoing:
            connection.finish()
        return connection.at_end and connection.drained

    host.run(look)
    if connection.error is not None:
        raise connection.error
    return bytes(incoming)


def talk_on(sock: socket.socket, data: bytes) -> bytes:
    """The same at Linux's end."""
    sender = threading.Thread(target=lambda: (sock.sendall(data), sock.shutdown(socket.SHUT_WR)))
    sender.start()
    incoming = bytearray()
    while more := sock.recv(65536):
        incoming += more
    sender.join()
    sock.close()
    return bytes(incoming)


def connect(host: Host) -> dict[str, Any]:
    """This stack connects to a server of Linux's; both send a megabyte."""
    server = socket.create_server((LINUX, 80))

    def serve() -> str:
        sock, _ = server.accept()
        return summed(talk_on(sock, text(1_000_001)))

    there = in_thread(serve)
    connection = host.stack.tcp.connect(LINUX_ADDRESS, 80)
    here = exchange(host, connection, text(1_000_000))
    host.run(lambda: there)
    return {"here": summed(here) == summed(text(1_000_001)), "there": there[0] == summed(text(1_000_000))}


def accept(host: Host) -> dict[str, Any]:
    """A client of Linux's connects to this stack; both send a megabyte."""
    accepted: list[Connection] = []
    host.stack.tcp.listen(80, accepted.append)

    def visit() -> str:
        return summed(talk_on(socket.create_connection((OURS, 80), 30), text(1_000_000)))

    there = in_thread(visit)
    host.run(lambda: accepted)
    here = exchange(host, accepted[0], text(1_000_001))
    host.run(lambda: there)
    return {"here": summed(here) == summed(text(1_000_000)), "there": there[0] == summed(text(1_000_001))}


def refuse(host: Host) -> dict[str, Any]:
    """Each refuses a connection to a port where nobody listens."""
    connection = host.stack.tcp.connect(LINUX_ADDRESS, 81)
    host.run(lambda: connection.state is State.CLOSED)

    def visit() -> str:
        try:
            socket.create_connection((OURS, 81), 10)
        except OSError as error:
            return type(error).__name__
        return "connected"

    there = in_thread(visit)
    host.run(lambda: there)
    return {"here": type(connection.error).__name__, "there": there[0]}


def datagrams(host: Host) -> dict[str, Any]:
    """UDP both ways, and a ping that Linux answers."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((LINUX, 2000))
    host.stack.udp.bind(
        2000, lambda address, port, data: host.stack.udp.send_to(2000, address, port, data[::-1])
    )
    sock.sendto(b"hello", (OURS, 2000))
    there = in_thread(lambda: sock.recv(100).decode())
    pings: list[bytes] = []
    host.stack.icmp.ping(LINUX_ADDRESS, 1, 1, b"ping", lambda source, payload: pings.append(payload))
    host.run(lambda: there and pings)
    return {"there": there[0], "ping": pings[0].decode()}


SCENARIOS = {work.__name__: work for work in (connect, accept, refuse, datagrams)}


def main(scenario: str, loss: str) -> None:
    try:
        enter_namespaces()
        tap = open_tap()
    except OSError as error:
        print(f"unavailable: {error}")
        return
    print(json.dumps(SCENARIOS[scenario](Host(tap, float(loss)))), flush=True)
    os._exit(0)  # threads may still wait in sockets of a namespace that ends here


if __name__ == "__main__":
    main(*sys.argv[1:])
