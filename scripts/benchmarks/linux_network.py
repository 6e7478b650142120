"""The yardstick of the network: Linux's own, between two processes, each in a network namespace of its own.

    this process ──JSON lines──► near process, 10.99.0.1 ═══ veth pair ═══ far process, 10.99.0.2

Namespaces are made in a user namespace, without root; where the host does not allow that (or has no `ip`), both
processes talk over the host's loopback interface instead, and `kind` says so. With `vxlan` it is a vxlan device in each namespace
that has these addresses, and 10.98.0.1 and 10.98.0.2 are those of the veth pair. Run as a module it is the near process,
which starts the far one.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import struct
import subprocess
import sys
import time
from statistics import median
from typing import Any, Final

from scripts.benchmarks.machine import environment

MIB: Final = 1 << 20
NEAR, FAR = "10.99.0.1", "10.99.0.2"
BELOW: Final = {NEAR: "10.98.0.1", FAR: "10.98.0.2"}
ECHO_REQUEST: Final = 8
IP_HEADER: Final = 20
SILENCE: Final = 0.5
"""Seconds until datagrams that have not come are lost."""
NAMESPACES: Final = ["unshare", "--user", "--map-root-user", "--net"]
LATENCY: Final = 20
"""Echo requests before those that count."""


class LinuxNetwork:
    """Use in a `with` block. `ask` as for a guest: ["pour", mib] → seconds of one MiB; ["throw", size, count] →
    datagrams per second that came; ["ping", calls] → the median in seconds.
    """

    def __init__(self, vxlan: bool = False) -> None:
        self._vxlan = vxlan

    def __enter__(self) -> LinuxNetwork:
        self.namespaces = can_make_namespaces()
        kind = "vxlan over a veth pair" if self._vxlan else "a veth pair"
        self.kind = kind if self.namespaces else "loopback (no namespaces can be made here)"
        self.ping_kind = "ping" if self.namespaces else "a UDP echo"
        command = [sys.executable, "-m", "scripts.benchmarks.linux_network"]
        self._near = subprocess.Popen(
            [*NAMESPACES, *command, "vxlan" if self._vxlan else "veth"]
            if self.namespaces
            else [*command, "loopback"],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._line()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._near.stdin is not None
        self._near.stdin.close()
        self._near.wait()
        assert self._near.stdout is not None
        self._near.stdout.close()

    def ask(self, command: str, *arguments: int) -> Any:
        """Have the near process do something; its answer."""
        assert self._near.stdin is not None
        self._near.stdin.write(json.dumps([command, *arguments]) + "\n")
        self._near.stdin.flush()
        return self._line()

    def _line(self) -> Any:
        assert self._near.stdout is not None
        return json.loads(self._near.stdout.readline())


def can_make_namespaces() -> bool:
    """Whether a user may have network namespaces here, and the tools are there."""
    if not all(shutil.which(tool) for tool in ("unshare", "ip")):
        return False
    trial = [*NAMESPACES, "ip", "link", "add", "near", "type", "veth", "peer", "name", "far"]
    return subprocess.run(trial, capture_output=True, check=False).returncode == 0


class Near:
    """One end: does what it is asked for, and starts the other."""

    def __init__(self, kind: str) -> None:
        veth = kind != "loopback"
        self.far = FAR if veth else "127.0.0.1"
        command = [sys.executable, "-m", "scripts.benchmarks.linux_network", "far"]
        self._peer = subprocess.Popen(
            [*(["unshare", "--net"] if veth else []), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._hear()  # it is in its namespace
        if veth:
            ip(f"link add near type veth peer name far netns {self._peer.pid}")
            set_up("near", NEAR, FAR, kind)
        self.tell(self.far, "far" if veth else "", kind)
        self.tcp, self.udp = self._hear()
        self.ping = self.icmp_ping if veth else self.udp_ping

    def tell(self, *words: object) -> None:
        """Have the far process do something."""
        assert self._peer.stdin is not None
        self._peer.stdin.write(json.dumps(words) + "\n")
        self._peer.stdin.flush()

    def _hear(self) -> Any:
        assert self._peer.stdout is not None
        return json.loads(self._peer.stdout.readline())

    def pour(self, mib: int) -> float:
        """Seconds of one MiB over TCP, over `mib`."""
        start = time.perf_counter()
        with socket.create_connection((self.far, self.tcp)) as stream:
            for _ in range(mib):
                stream.sendall(bytes(MIB))
            stream.shutdown(socket.SHUT_WR)
            stream.recv(1)
        return (time.perf_counter() - start) / mib

    def throw(self, size: int, count: int) -> float:
        """Datagrams of `size` bytes that arrive in a second, of `count` sent."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.connect((self.far, self.udp))
            data = bytes(size)
            self.tell("count", count)
            self._hear()
            for _ in range(count):
                sender.send(data)
        came, seconds = self._hear()
        return float(came / seconds)

    def icmp_ping(self, calls: int) -> float:
        """The far kernel answers."""
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
            raw.connect((self.far, 0))
            times = []
            for number in range(LATENCY + calls):
                message = echo_request(number & 0xFFFF)
                start = time.perf_counter()
                raw.send(message)
                while raw.recv(2048)[IP_HEADER + 6 : IP_HEADER + 8] != message[6:8]:
                    pass
                times.append(time.perf_counter() - start)
        return median(times[LATENCY:])

    def udp_ping(self, calls: int) -> float:
        """The far process answers."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.connect((self.far, self.udp))
            times = []
            for _ in range(LATENCY + calls):
                self.tell("echo")
                self._hear()
                start = time.perf_counter()
                sender.send(bytes(56))
                sender.recv(2048)
                times.append(time.perf_counter() - start)
        return median(times[LATENCY:])

    def serve(self) -> None:
        """Until standard input ends."""
        print(json.dumps("ready"), flush=True)
        for line in sys.stdin:
            command, *arguments = json.loads(line)
            print(json.dumps(getattr(self, command)(*arguments)), flush=True)
        assert self._peer.stdin is not None
        self._peer.stdin.close()
        self._peer.wait()


class Far:
    """The other end: swallows what comes by TCP, counts or returns what comes by UDP."""

    def __init__(self) -> None:
        print(json.dumps("ready"), flush=True)
        address, device, kind = json.loads(sys.stdin.readline())
        if device:
            set_up(device, FAR, NEAR, kind)
        self.tcp = socket.create_server((address, 0))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * MIB)
        self.udp.bind((address, 0))
        print(json.dumps([sock.getsockname()[1] for sock in (self.tcp, self.udp)]), flush=True)

    def serve(self) -> None:
        """Takes connections and orders until its input ends."""
        while True:
            ready, _, _ = select.select([self.tcp, sys.stdin], [], [])
            if self.tcp in ready:
                self.swallow()
            if sys.stdin in ready:
                if not (line := sys.stdin.readline()):
                    return
                command, *arguments = json.loads(line)
                print(json.dumps("go"), flush=True)
                getattr(self, command)(*arguments)

    def swallow(self) -> None:
        """Reads one connection to its end and answers one byte."""
        stream, _ = self.tcp.accept()
        with stream:
            while stream.recv(MIB):
                pass
            stream.sendall(b"!")

    def count(self, count: int) -> None:
        """Tells how many of `count` datagrams came, and in how many seconds."""
        times = []
        self.udp.settimeout(SILENCE)
        try:
            for _ in range(count):
                self.udp.recv(2048)
                times.append(time.perf_counter())
        except TimeoutError:
            pass
        print(json.dumps([len(times), times[-1] - times[0]]), flush=True)

    def echo(self) -> None:
        """Sends one datagram back."""
        self.udp.settimeout(None)
        data, sender = self.udp.recvfrom(2048)
        self.udp.sendto(data, sender)


def echo_request(number: int) -> bytes:
    """ICMP type 8 with 56 bytes of data (RFC 792)."""
    body = struct.pack(">HH", os.getpid() & 0xFFFF, number) + bytes(56)
    words = struct.unpack(f">{len(body) // 2}H", body)
    total = (ECHO_REQUEST << 8) + sum(words)
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack(">BBH", ECHO_REQUEST, 0, ~total & 0xFFFF) + body


def set_up(device: str, own: str, other: str, kind: str) -> None:
    """One end of the veth pair, with the address `own`, or with a vxlan device on it that has that address."""
    if kind == "vxlan":
        for words in (f"addr add {BELOW[own]}/24 dev {device}", f"link set {device} up"):
            ip(words)
        ip(f"link add vx type vxlan id 42 remote {BELOW[other]} dstport 4789 dev {device}")
        device = "vx"
    for words in (f"addr add {own}/24 dev {device}", f"link set {device} up", "link set lo up"):
        ip(words)


def ip(words: str) -> None:
    """Runs `ip` with these words; CalledProcessError if it fails."""
    subprocess.run(["ip", *words.split()], check=True)


if __name__ == "__main__":
    if sys.argv[1] == "far":
        Far().serve()
    else:
        Near(sys.argv[1]).serve()
