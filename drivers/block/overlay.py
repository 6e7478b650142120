"""A disk that begins as an image is, and is written apart from it: the image stays as it is, and any number of disks may lie over
one.

    read    what was written ─► its own file          the rest ─► the image below
    write   ─► its own file, whole chunks: what a chunk had around the new sectors is copied there first

Its own file has no name and no block that was not written. It is open for as long as the overlay is there, which is longer than a
device: a domain that reboots finds what it wrote. Invariant: a chunk is marked as written after its content is in the file, so a
thread that reads at the same time finds the old content or the new one.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Final

import numpy as np

from drivers.block.image import Image, tail
from drivers.block.protocol import SECTOR_SIZE

CHUNK: Final = 8
"""Sectors that are written apart at once."""
CHUNK_SIZE: Final = CHUNK * SECTOR_SIZE
FORMAT: Final = "overlay"
"""What stands before its number in a device's `params`."""


class Overlay:
    """One disk over an image. It owns both descriptors."""

    def __init__(self, below: int, own: int, folder: str) -> None:
        """`below`: the image; `own`: an empty file, in folder `folder`. Both are closed with it. OSError."""
        self.below = below
        self.own = own
        self.folder = folder
        self.in_use = False
        size = os.lseek(below, 0, os.SEEK_END)
        os.ftruncate(own, size)
        self.written = np.zeros(-(-size // CHUNK_SIZE), np.bool_)
        """By chunk: whether it is in the own file."""

    def runs(self, first: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """The chunks from `first` to `end`: (from, to, whether they were written)."""
        marks = self.written[first:end]
        edges = [0, *(np.flatnonzero(marks[1:] != marks[:-1]) + 1).tolist(), len(marks)]
        for start, stop in pairwise(edges) if len(marks) else ():
            yield first + start, first + stop, bool(marks[start])

    def close(self) -> None:
        """Nothing of it is left. Idempotent."""
        if self.own >= 0:
            os.close(self.below)
            os.close(self.own)
            self.below = self.own = -1


class OverlayImage:
    """An overlay as a device has it, with the methods of Image, which see."""

    waits: Final = False

    def __init__(self, overlay: Overlay, mode: str) -> None:
        """OSError: another device has it."""
        if overlay.in_use:
            raise OSError(errno.EBUSY, "in use by another device")
        self.path = FORMAT
        self.writable = self.discards = mode.startswith("w")
        self._overlay = overlay
        self._below = Image(f"/proc/self/fd/{overlay.below}", "r!")
        try:
            self._own = Image(f"/proc/self/fd/{overlay.own}", "w!")
        except OSError:
            self._below.close()
            raise
        self.sectors = self._below.sectors
        overlay.in_use = True

    def read_at_once(self, sector: int, pages: Sequence[memoryview], size: int) -> bool:
        """As Image's; what lies in both files takes two reads, and is left to the thread."""
        first, end = reach(sector, size)
        runs = list(self._overlay.runs(first, end))
        if len(runs) > 1:
            return False
        image = self._own if runs and runs[0][2] else self._below
        return image.read_at_once(sector, pages, size)

    def read(self, sector: int, pages: Sequence[memoryview], size: int) -> None:
        """As Image's."""
        first, end = reach(sector, size)
        last = sector + size // SECTOR_SIZE
        for start, stop, written in self._overlay.runs(first, end):
            begin, until = max(start * CHUNK, sector), min(stop * CHUNK, last)
            image = self._own if written else self._below
            part = piece(pages, (begin - sector) * SECTOR_SIZE, (until - begin) * SECTOR_SIZE)
            image.read(begin, part, (until - begin) * SECTOR_SIZE)

    def write(self, sector: int, pages: Sequence[memoryview], size: int) -> None:
        """As Image's."""
        first, end = reach(sector, size)
        last = sector + size // SECTOR_SIZE
        written = self._overlay.written
        if sector % CHUNK and not written[first]:
            self._copy_up(first)
        if last % CHUNK and not written[end - 1]:
            self._copy_up(end - 1)
        self._own.write(sector, pages, size)
        written[first:end] = True

    def _copy_up(self, chunk: int) -> None:
        size = min(CHUNK, self.sectors - chunk * CHUNK) * SECTOR_SIZE
        content = memoryview(bytearray(size))
        self._below.read(chunk * CHUNK, [content], size)
        self._own.write(chunk * CHUNK, [content], size)
        self._overlay.written[chunk] = True

    def flush(self) -> None:
        """Nothing: what is written goes with the domain, and with the host anyway."""

    def discard(self, sector: int, count: int) -> None:
        """As Image's; of chunks that go as a whole."""
        first, end = -(-sector // CHUNK), (sector + count) // CHUNK
        if first < end:
            self._own.discard(first * CHUNK, (end - first) * CHUNK)
            self._overlay.written[first:end] = True

    def close(self) -> None:
        """The overlay stays."""
        self._overlay.in_use = False
        self._below.close()
        self._own.close()


class Overlays:
    """Those of Dom0, by number."""

    def __init__(self) -> None:
        self._overlays: dict[int, Overlay] = {}
        self._last = 0

    def add(self, make: Callable[[], Overlay]) -> int:
        """One more; its number. OSError of `make`."""
        self._last += 1
        self._overlays[self._last] = make()
        return self._last

    def get(self, number: int) -> Overlay | None:
        """The one of that number; None: it is gone, or there never was."""
        return self._overlays.get(number)

    def image(self, path: str, mode: str) -> OverlayImage:
        """What a device opens: `path` is the number. OSError."""
        overlay = self._overlays.get(int(path)) if path.isdecimal() and len(path) < 16 else None
        if overlay is None:
            raise OSError(errno.ENOENT, "no fork's disk has this number", path)
        return OverlayImage(overlay, mode)

    def close(self, number: int) -> None:
        """Nothing of it is left."""
        overlay = self._overlays.pop(number, None)
        if overlay is not None:
            overlay.close()


def reach(sector: int, size: int) -> tuple[int, int]:
    """The chunks that some bytes from a sector on lie in: from, to."""
    return sector // CHUNK, -(-(sector + size // SECTOR_SIZE) // CHUNK)


def piece(pages: Sequence[memoryview], start: int, size: int) -> list[memoryview]:
    """The views' bytes from `start` on, so many."""
    found: list[memoryview] = []
    for view in tail(pages, start):
        if size <= 0:
            break
        found.append(view[:size])
        size -= len(found[-1])
    return found
