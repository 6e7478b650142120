"""Frames of other domains that a client has mapped.

Dom0 maps them itself first, by page-table entries that Xen checks and counts: a page table is not mapped writable, and a frame
that is in use so does not become another's. Then the client gets the memfd of the domain's memory and each frame's place in it.
It is trusted not to look elsewhere there: it is Dom0's user, who may do everything to that memory anyway (docs/trust.md). When
it says so, or goes, Dom0 lets go of the frames; and when the domain is destroyed, whose end would else wait for the client. What
that still sees then is the memfd, which is nobody else's.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Final, NamedTuple

from domains.kernel.kernel import Kernel
from domains.kernel.tasks import NEXT_TURN, Task
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.types import PAGE_SIZE, DomId, Mfn, VAddr
from hypervisor.public.xen import DOMID_SELF

FRAMES_MAX: Final = 256
"""Frames in one request."""
MAPPED_MAX: Final = 1 << 15
"""Frames that all clients may have mapped together: Dom0's page tables for more would take too much of its memory."""


class Mapped(NamedTuple):
    """One mapping: what it is called, and for each frame which of `fds` (descriptors of this process) has it, at which page."""

    number: int
    places: list[tuple[int, int]]
    fds: list[int]


class Room:
    """How many frames all clients have mapped, and who they are."""

    def __init__(self) -> None:
        self.used = 0
        self.clients: dict[ForeignMaps, None] = {}

    def let_go(self, domid: DomId) -> Task[None]:
        """Of all frames of a domain, whoever has them mapped."""
        for client in list(self.clients):
            yield from client.let_go(domid)


class ForeignMaps:
    """Those of one client."""

    def __init__(self, kernel: Kernel, room: Room) -> None:
        self._kernel = kernel
        self._room = room
        self._mapped: dict[int, tuple[DomId, VAddr, int]] = {}
        """By its number: whose frames, where in Dom0, and how many."""
        self._numbers = count(1)
        room.clients[self] = None

    def map(self, domid: DomId, frames: Sequence[int], writable: bool) -> Mapped:
        """All of these frames, or none. XenError: EPERM (Dom0's own), EINVAL, ENOMEM, and what Xen has against it."""
        if domid in (0, DOMID_SELF):
            raise XenError(Errno.EPERM, "Dom0's own memory is its kernel's")
        if not 0 < len(frames) <= FRAMES_MAX:
            raise XenError(Errno.EINVAL, f"{len(frames)} frames")
        if self._room.used + len(frames) > MAPPED_MAX:
            raise XenError(Errno.ENOMEM, f"{self._room.used} frames are mapped")
        va = self._kernel.memory.map_frames(domid, [Mfn(frame) for frame in frames], writable)
        number = next(self._numbers)
        self._mapped[number] = domid, va, len(frames)
        self._room.used += len(frames)
        try:
            return self._placed(number, va, len(frames))
        except XenError:
            self.unmap(number)
            raise

    def _placed(self, number: int, va: VAddr, pages: int) -> Mapped:
        """Where the frames are: as the page tables have them, for of a translated domain others were asked for."""
        cpu, places, fds = self._kernel.cpu, [], dict[int, int]()
        for page in range(pages):
            found = cpu.translate(va + page * PAGE_SIZE)
            place = cpu.gate.backing(found.mfn) if found is not None else None
            if place is None:
                raise XenError(Errno.EINVAL, "a frame that is in no memfd")
            fd, frame = place
            places.append((fds.setdefault(fd, len(fds)), frame))
        return Mapped(number, places, list(fds))

    def unmap(self, number: int) -> None:
        """Let go of a mapping. XenError(EINVAL): there is none that is called so."""
        if number not in self._mapped:
            raise XenError(Errno.EINVAL, f"there is no mapping {number}")
        _domid, va, pages = self._mapped.pop(number)
        self._room.used -= pages
        self._kernel.memory.unmap(va)

    def let_go(self, domid: DomId) -> Task[None]:
        """Of a domain's frames, one mapping after the other; it is the others' turn in between."""
        for number in [number for number, mapped in self._mapped.items() if mapped[0] == domid]:
            if number in self._mapped:
                self.unmap(number)
                yield NEXT_TURN

    def close(self) -> Task[None]:
        """The client has gone: let go of all."""
        self._room.clients.pop(self, None)
        for domid in {mapped[0] for mapped in self._mapped.values()}:
            yield from self.let_go(domid)
