"""Which memfd each part of machine memory is shown from, in one process."""

from __future__ import annotations

from typing import NamedTuple

from hypervisor.machine.memory import PART_SHIFT


class Place(NamedTuple):
    """A frame's place: the id of its memfd (wire/messages.py), and its number there."""

    memfd: int
    frame: int


class Backing:
    """Extents are whole parts (2**PART_SHIFT frames)."""

    def __init__(self) -> None:
        self._parts: dict[int, Place] = {}

    def map(self, memfd: int, mfn: int, nr_frames: int, offset: int) -> None:
        """Frames from `mfn` on are those of the memfd from `offset` on."""
        for part in _parts(mfn, nr_frames):
            self._parts[part] = Place(memfd, offset + (part << PART_SHIFT) - mfn)

    def unmap(self, mfn: int, nr_frames: int) -> None:
        """They are nowhere."""
        for part in _parts(mfn, nr_frames):
            self._parts.pop(part, None)

    def of(self, mfn: int) -> Place | None:
        """Where a frame is; None: not here."""
        part = self._parts.get(mfn >> PART_SHIFT)
        return None if part is None else Place(part.memfd, part.frame + (mfn & (1 << PART_SHIFT) - 1))


def _parts(mfn: int, nr_frames: int) -> range:
    return range(mfn >> PART_SHIFT, mfn + nr_frames >> PART_SHIFT)
