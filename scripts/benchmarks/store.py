"""A client at the store's socket, as Xen's own are: each request is sent when the last one is answered."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Final

from hypervisor.public.io.xs_wire import XS_READ, XS_WRITE, xsd_sockmsg
from scripts.benchmarks.between_domains import MICROSECONDS, answering_process
from scripts.benchmarks.figure import Figure, Sizes, compare, per_call
from scripts.benchmarks.machine import Machine

NODE: Final = b"/tool/bench"
REQUESTS: Final = {"store_write": (XS_WRITE, NODE + b"\0value"), "store_read": (XS_READ, NODE + b"\0")}
REPLY: Final = 4096 + xsd_sockmsg.sizeof


def store(sizes: Sizes) -> Iterator[Figure]:
    """A write and a read of one node, by Dom0's own client."""
    with answering_process() as peer, Machine() as machine, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(machine.folder / "xenstored"))

        def ping() -> None:
            peer.send(b"!")
            peer.recv(1)

        for name, (kind, payload) in REQUESTS.items():
            request = xsd_sockmsg(type=kind, len=len(payload)).pack() + payload

            def ask(request: bytes = request) -> None:
                client.send(request)
                client.recv(REPLY)

            yield compare(
                name,
                "µs",
                "a byte to another process over a socketpair, and one back",
                lambda ask=ask: per_call(ask, sizes.calls),  # type: ignore[misc]
                lambda: per_call(ping, sizes.calls),
                sizes.rounds,
                MICROSECONDS,
            )
