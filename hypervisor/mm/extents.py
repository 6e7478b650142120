"""A domain's share of the machine: extents of 1024 frames of its own memfd, and which of their frames are free.

    machine  |Xen's|  d0 e0 |  d1 e0 |  d0 e1 |  hole  |  d2 e0 | …      4 MiB each
    memfd d0       |  e0    |  e1    | …

Free frames are handed out in a scrambled order, so that no guest can take contiguous MFNs for granted; a run of
2**order frames is searched for when asked. A freed frame stays its domain's: it is cleared before it is used again
(M2), and its memory goes back to the host in batches. So no other domain can ever hold a translation to it, or see
what was in it (T2).

Invariant: an extent's frames are mapped in the core from `add` to `release`; every free frame of the domain is on
`free` at least once (numbers that a run took are skipped when met).
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hypervisor.machine.frame_types import NO_OWNER
from hypervisor.machine.memory import MachineMemory, grow, punch_hole
from hypervisor.mm.frame_table import FrameTable
from hypervisor.mm.layout import EXTENT_FRAMES, XEN_FRAMES
from hypervisor.public.errno import Errno, XenError

MAX_ORDER: Final = 10
"""Largest run in an extent: all of it."""
PUNCH_BATCH: Final = 256
"""Freed frames whose memory is still held, before it goes back to the host."""
_ORDER: Final = np.arange(EXTENT_FRAMES) * 389 % EXTENT_FRAMES
"""The frames of an extent, each once, as they come onto the free list: 389 is odd."""


class MachineSpace:
    """Which extents of the machine's address space are taken."""

    def __init__(self, memory: MachineMemory, frames: FrameTable) -> None:
        self.memory = memory
        self.frames = frames
        self._next = XEN_FRAMES
        self._returned: list[int] = []
        frames.extend(XEN_FRAMES)

    def take(self) -> int:
        """First frame number of a free extent. XenError(ENOMEM)."""
        if self._returned:
            return self._returned.pop()
        if self._next + EXTENT_FRAMES > self.frames.nr_frames:
            raise XenError(Errno.ENOMEM, "the machine's address space is full")
        base = self._next
        self._next += EXTENT_FRAMES
        self.frames.extend(self._next)
        return base

    def give_back(self, base: int) -> None:
        """The extent that begins at frame `base` is unmapped, and may be taken again."""
        self._returned.append(base)

    def snapshot(self) -> dict[str, Any]:
        """Where the next extent would be, and which were given back."""
        return {"next": self._next, "returned": list(self._returned)}

    def restore(self, record: dict[str, Any]) -> None:
        """Become what `snapshot` wrote down."""
        self._next, self._returned = record["next"], list(record["returned"])


class Extents:
    """Extents and free frames of one domain's memfd, which grows with them up to `capacity` frames; `fd` stays the creator's."""

    def __init__(self, space: MachineSpace, fd: int, capacity: int) -> None:
        self.space = space
        self.fd = fd
        self.capacity = capacity
        self.bases: dict[int, int] = {}
        """First MFN of an extent -> its offset in the memfd, in frames."""
        self.free: list[int] = []
        self.dirty: set[int] = set()
        """Free frames that hold old content."""

    @property
    def nr_frames(self) -> int:
        """Frames of all extents, free or not: what the domain's process can make the host spend."""
        return len(self.bases) * EXTENT_FRAMES

    def add(self) -> tuple[int, int]:
        """Map one more extent: (first MFN, offset in frames). XenError(ENOMEM)."""
        offset = len(self.bases) * EXTENT_FRAMES
        if offset + EXTENT_FRAMES > self.capacity:
            raise XenError(Errno.ENOMEM, f"the domain's memfd has {self.capacity} frames")
        base = self.space.take()
        grow(self.fd, offset + EXTENT_FRAMES)
        self.space.memory.map(self.fd, base, EXTENT_FRAMES, offset)
        self.bases[base] = offset
        self.free.extend((_ORDER + base).tolist())
        return base, offset

    def pop(self) -> int | None:
        """A free frame, no longer on the list; None if there is none."""
        owner = self.space.frames.owner
        while self.free:
            mfn = self.free.pop()
            if owner[mfn] == NO_OWNER:
                return mfn
        return None

    def pop_clean(self, most: int) -> npt.NDArray[np.int64]:
        """Up to `most` (> 0) free frames, in the order of `pop`; none if some free ones must be cleared first."""
        if self.dirty:
            return np.empty(0, np.int64)
        mfns = np.array(self.free[: -most - 1 : -1], np.int64)
        if len(np.unique(mfns)) < len(mfns) or (self.space.frames.owner_np[mfns] != NO_OWNER).any():
            self._rebuild()
            mfns = np.array(self.free[: -most - 1 : -1], np.int64)
        del self.free[len(self.free) - len(mfns) :]
        return mfns

    def pop_run(self, order: int) -> int | None:
        """The first of 2**order free frames in a row, aligned; None if there is no such run."""
        owners = self.space.frames.owner_np
        for base in self.bases:
            free = owners[base : base + EXTENT_FRAMES] == NO_OWNER
            runs = free.reshape(-1, 1 << order).all(axis=1)
            if runs.any():
                return base + int(runs.argmax() << order)
        return None

    def push(self, mfn: int) -> None:
        """A frame of this domain is free again, with its old content."""
        self.free.append(mfn)
        self.dirty.add(mfn)
        if len(self.dirty) >= PUNCH_BATCH:
            self.punch()
        if len(self.free) > 2 * EXTENT_FRAMES * len(self.bases):
            self._rebuild()

    def clean(self, mfn: int) -> bool:
        """The frame is about to be used: True if it must be cleared first."""
        if mfn in self.dirty:
            self.dirty.discard(mfn)
            return True
        return False

    def punch(self) -> None:
        """Give the memory of dirty free frames back to the host; they read as zeros from now on."""
        mfns = np.sort(np.fromiter(self.dirty, np.int64, len(self.dirty)))
        for run in np.split(mfns, np.nonzero(np.diff(mfns) != 1)[0] + 1):
            first, nr = int(run[0]), len(run)
            while nr:
                base = first - first % EXTENT_FRAMES
                part = min(nr, base + EXTENT_FRAMES - first)
                punch_hole(self.fd, self.bases[base] + first - base, part)
                first, nr = first + part, nr - part
        self.dirty.clear()

    def snapshot(self) -> dict[str, Any]:
        """Where the extents lie, and their free frames in the order in which they will be handed out."""
        return {
            "capacity": self.capacity,
            "bases": sorted(self.bases.items(), key=lambda extent: extent[1]),
            "free": list(self.free),
            "dirty": sorted(self.dirty),
        }

    def restore(self, record: dict[str, Any]) -> None:
        """Become what `snapshot` wrote down, and map the extents of this domain's memfd where they were."""
        self.capacity = record["capacity"]
        self.bases = dict(record["bases"])
        self.free, self.dirty = list(record["free"]), set(record["dirty"])
        for base, offset in self.bases.items():
            self.space.memory.map(self.fd, base, EXTENT_FRAMES, offset)

    def _rebuild(self) -> None:
        """Drop the numbers that are on the list twice or in use, keeping the order."""
        owner = self.space.frames.owner
        self.free = [mfn for mfn in dict.fromkeys(self.free) if owner[mfn] == NO_OWNER]

    def release(self) -> None:
        """Unmap all extents, of which no frame is in use, and give the numbers back."""
        for base in self.bases:
            self.space.memory.unmap(base, EXTENT_FRAMES)
            self.space.give_back(base)
        self.bases.clear()
        self.free.clear()
        self.dirty.clear()
