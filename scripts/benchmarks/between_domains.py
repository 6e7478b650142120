"""What goes from one domain to another: events, and granted pages."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np

from hypervisor.public.types import PAGES_PER_MIB
from scripts.benchmarks.figure import Figure, Sizes, compare, per_call
from scripts.benchmarks.machine import Machine

MICROSECONDS: Final = 1e6
PAGES: Final = 256
WORDS: Final = 512


def event_rtt(sizes: Sizes) -> Iterator[Figure]:
    """An event to another Python domain whose handler sends one back."""
    with answering_process() as peer, Machine() as machine:
        here, there = machine.guest("Events"), machine.guest("Events")
        here.ask("connect", there.domid, there.ask("listen", here.domid))

        def ping() -> None:
            peer.send(b"!")
            peer.recv(1)

        yield compare(
            "event_rtt",
            "µs",
            "a byte to another process over a socketpair, and one back",
            lambda: float(here.ask("ping", sizes.calls)),
            lambda: per_call(ping, sizes.calls),
            sizes.rounds,
            MICROSECONDS,
        )


@contextmanager
def answering_process() -> Iterator[socket.socket]:
    """A fork of this process that sends back every byte; to be made before any thread there is."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        while byte := theirs.recv(1):
            theirs.send(byte)
        os._exit(0)
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        os.waitpid(pid, 0)


def grant_copy(sizes: Sizes) -> Iterator[Figure]:
    """GNTTABOP_copy of 1 MiB of another domain's pages, in one hypercall."""
    source, target = np.ones((PAGES, WORDS), np.uint64), np.zeros((PAGES, WORDS), np.uint64)
    calls = max(2, sizes.calls // 10)
    with Machine() as machine:
        giver, taker = machine.guest("GrantCopies"), machine.guest("GrantCopies")
        taker.ask("take", giver.domid, giver.ask("grant", taker.domid, PAGES))
        mib = PAGES / PAGES_PER_MIB
        yield compare(
            "grant_copy",
            "MiB/s",
            "numpy copy of as many pages",
            lambda: mib / float(taker.ask("copy", calls)),
            lambda: mib / per_call(lambda: np.copyto(target, source), calls),
            sizes.rounds,
        )
