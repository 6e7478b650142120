"""What a system is to an experiment: load the kernel with its programs, run it to its end, look at what it left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from domains.lab.image import BASE, Image
from domains.lab.trace import Entry, Observer
from hypervisor.public.types import PAGE_SIZE

PROCESSES = 8
POOL, POOL_PAGES = 0x200000, 512
"""What the kernel hands out (kernel.h)."""


class Ended(Exception):
    """The kernel has ended, as it should."""


class Crashed(Exception):
    """The kernel broke a rule of the system; the text says which."""


GAVE_UP: Final = {
    0: "no page is left",
    1: "a process went outside its area, and has no handler",
    2: "a process wrote what it may not, and has no handler",
    3: "an exception that it does not know",
    4: "a hypercall was refused",
}
"""Why the kernel ended, by the digit behind 0xbad of its result (kernel.c, xen.c)."""


def checked(result: int) -> int:
    """The kernel's result. Crashed: it gave up."""
    if result >> 20 == 0xBAD:
        why = GAVE_UP.get(result >> 16 & 0xF, "for a reason of its own")
        raise Crashed(f"the kernel gave up: {why} ({result:#x})")
    return result


class Fault(Crashed):
    """The code of a driver has gone wrong, for an experiment."""


class Effects(Protocol):
    """What a machine's devices have done."""

    @property
    def sectors(self) -> dict[int, bytes]:
        """The pages of the disk that are not empty, by number."""

    @property
    def packets(self) -> list[bytes]:
        """What was sent, in order."""


class System(Protocol):
    """One machine with the kernel under test on it."""

    name: str
    monitor: str
    """Who acts at an exit."""
    image: Image

    @property
    def devices(self) -> Effects:
        """See Effects."""

    def observe(self, observer: Observer) -> None:
        """Attach an observer, before the run."""

    def run(self, programs: Sequence[str]) -> int:
        """Load the kernel, let one process run each program, and come back when all have ended: the kernel's result. Crashed."""

    def read(self, address: int, size: int) -> bytes:
        """The kernel's memory, by its own physical addresses; after a run too."""

    def tables(self, va: int) -> list[Entry]:
        """The way of a linear address to memory, through all the tables in force, as far as there are entries."""

    def close(self) -> None:
        """Give the machine's memory back, and whatever else it holds. Nothing of it may be used afterwards."""


def loadable(image: Image, programs: Sequence[str]) -> bytes:
    """The image with the entries of its first processes filled in. LabError: no such program."""
    data = bytearray(image.data)
    at = image.at("first_program") - BASE
    for number, program in enumerate(programs):
        data[at + 4 * number : at + 4 * number + 4] = image.at(program).to_bytes(4, "little")
    return bytes(data)


def pages(data: bytes) -> list[tuple[int, bytes]]:
    """(offset, bytes) of each page."""
    return [(at, data[at : at + PAGE_SIZE]) for at in range(0, len(data), PAGE_SIZE)]
