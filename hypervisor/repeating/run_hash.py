"""One number for all that a machine has done: its trace while time runs, and the last content of its domains' frames.

    trace records ──────────────► running hash ◄── frames of each domain that ends: pages that are not zero, with their places
                                      │ copy
                  of now: + frames of the domains that are there ──► digest

Dom0's frames are not in it: they hold what clients asked, and numbers of the host's processes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Final

import numpy as np

from hypervisor.public.types import PAGE_SIZE

DIGEST_SIZE: Final = 16
CHUNK: Final = 1 << 20
"""Bytes of a domain's memory that are looked at together."""


class RunHash:
    """Bounded memory, whatever the run's length. A domain is given as its id and the descriptor of its memory."""

    def __init__(self) -> None:
        self._running = blake2b(digest_size=DIGEST_SIZE)
        self.record = self._running.update
        """Takes one record of the trace."""

    def ended(self, domid: int, memfd: int) -> None:
        """A domain has ended with these frames."""
        _add_frames(self._running, domid, memfd)

    def digest(self, domains: Iterable[tuple[int, int]]) -> str:
        """The hash of all so far, and of the frames that these domains have now, as hexadecimal digits."""
        now = self._running.copy()
        for domid, memfd in domains:
            _add_frames(now, domid, memfd)
        return now.hexdigest()


def _add_frames(to: blake2b, domid: int, memfd: int) -> None:
    to.update(b"domain %d" % domid)
    for offset, data in _data(memfd):
        pages = np.frombuffer(data, np.uint64).reshape(-1, PAGE_SIZE // 8)
        places = np.flatnonzero(pages.any(axis=1))
        to.update((places + offset // PAGE_SIZE).astype("<u8").tobytes())
        to.update(pages[places].tobytes())


def _data(memfd: int) -> Iterator[tuple[int, bytes]]:
    """The parts of a memory file that the host holds, CHUNK by CHUNK; the others are zeros."""
    at = 0
    while True:
        try:
            start = os.lseek(memfd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        at = start - start % CHUNK
        yield at, os.pread(memfd, CHUNK, at)
        at += CHUNK
