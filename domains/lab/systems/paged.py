"""A hypervisor that pages: a guest under nested tables, whose pool of pages has fewer frames of the machine than it believes.

    guest's page ──P2M──► one of `frames`, or nothing: then the page is in the hypervisor's swap, or was never touched

What the P2M lacks is a nested fault. A frame is found for the page, if need be by writing another page to the swap; the guest
never knows. What it writes to its own disk is brought in first, too, for a disk reads memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from domains.cpu.x86.emulator.svm import NOTHING, Exit
from domains.cpu.x86.hvm.vcpu import HvmVcpu
from domains.lab.board import Devices
from domains.lab.image import BASE, Image, kernel_image
from domains.lab.systems.ring0 import Ring0
from domains.lab.systems.scatter import machine_frame
from domains.lab.systems.system import POOL, POOL_PAGES, Crashed
from domains.lab.systems.unported import P2M_TOP, RIGHTS
from hypervisor.machine.paging import TABLE_ENTRIES
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE

FIRST: Final = POOL >> PAGE_SHIFT
P2M_FIRST: Final = P2M_TOP + 3
"""The first of the P2M's lowest tables."""
BALLOON: Final = 0x1FC
"""The port to which the kernel writes the address of a page that it gives back (bare.c)."""
WALKED: Final = (0x40000000, BASE)
"""Addresses whose tables the CPU needs all the time: a program's, and the kernel's."""
Choice = Callable[[list[int]], int]
"""Which of these pages is to go; the one that came first is the first."""


class BalloonPort(Devices):
    """The board, with a port more."""

    given_back: Callable[[int], None]

    def write_port(self, port: int, size: int, value: int) -> None:
        """OUT."""
        if port == BALLOON:
            self.given_back(value >> PAGE_SHIFT)
        else:
            super().write_port(port, size, value)


class PagedGuest(Ring0):
    """A `System`. `believes`: pages in the kernel's pool; `frames`: what the machine has for them; `choose`: who goes.

    `transfers` counts pages: "guest out" and "guest in", to and from the kernel's disk; "hypervisor out" and "hypervisor in";
    "double", those that the hypervisor read only because the kernel wrote them to its disk.
    """

    def __init__(self, believes: int, frames: int, choose: Choice) -> None:
        super().__init__("nested", with_pool(kernel_image("bare"), believes))
        self.transfers: Counter[str] = Counter()
        self._choose = choose
        self._free = [machine_frame(FIRST + number) for number in range(frames)]
        self._where: dict[int, int] = {}
        """Frames, by the guest's page."""
        self._swap: dict[int, bytes] = {}
        self.devices = devices = BalloonPort(self._to_disk, self._from_disk)
        devices.given_back = self._given_back
        for page in range(FIRST, FIRST + POOL_PAGES):
            self._set_p2m(page, 0)
        self.v.handlers[Exit.NPF] = ("nested fault", self._nested_fault)

    def machine(self, address: int) -> int:
        """Where the guest's physical address lies; a page that is away is brought in."""
        page = address >> PAGE_SHIFT
        if FIRST <= page < FIRST + POOL_PAGES:
            return self._bring_in(page) << PAGE_SHIFT | address % PAGE_SIZE
        return super().machine(address)

    def _nested_fault(self, v: HvmVcpu) -> int:
        if v.paging.svm.take_event():
            raise Crashed("an event was delivered through a table that is away")
        _, address = v.paging.svm.exit_info
        self._bring_in(address >> PAGE_SHIFT)
        return NOTHING

    def _bring_in(self, page: int) -> int:
        """The page's frame."""
        if page not in self._where:
            if not self._free:
                self._put_out(self._choose(self._candidates()))
            frame = self._free.pop()
            if page in self._swap:
                self.transfers["hypervisor in"] += 1
            self.memory.write(frame << PAGE_SHIFT, self._swap.pop(page, bytes(PAGE_SIZE)))
            self._where[page] = frame
            self._set_p2m(page, frame)
        return self._where[page]

    def _candidates(self) -> list[int]:
        """All but the page tables that the CPU is walking: an event could not be delivered without them."""
        paging = self.v.paging
        tables = {step.at >> PAGE_SHIFT for va in WALKED for step in paging.walk(va, paging.level_count)}
        return [page for page, frame in self._where.items() if frame not in tables]

    def _put_out(self, page: int) -> None:
        self.transfers["hypervisor out"] += 1
        frame = self._where[page]
        self._swap[page] = self.memory.read(frame << PAGE_SHIFT, PAGE_SIZE)
        self._forget(page)

    def _forget(self, page: int) -> None:
        self._free.append(self._where.pop(page))
        self._set_p2m(page, 0)
        self.cpu.library.tlb_flush()

    def _set_p2m(self, page: int, frame: int) -> None:
        table = self.memory.page(P2M_FIRST + page // TABLE_ENTRIES)
        table[page % TABLE_ENTRIES] = frame << PAGE_SHIFT | RIGHTS if frame else 0

    # --- the guest's devices ---------------------------------------------------------------------------

    def _to_disk(self, address: int, size: int) -> bytes:
        if size == PAGE_SIZE:
            self.transfers["guest out"] += 1
            self.transfers["double"] += address >> PAGE_SHIFT in self._swap
        return self.read(address, size)

    def _from_disk(self, address: int, data: bytes) -> None:
        self.transfers["guest in"] += 1
        self.write(address, data)

    def _given_back(self, page: int) -> None:
        """The kernel's balloon has this page: nobody will look at what is in it."""
        self.transfers["given back"] += 1
        self._swap.pop(page, None)
        if page in self._where:
            self._forget(page)


def with_pool(image: Image, pages: int) -> Image:
    """The kernel, with so many pages to hand out."""
    data, at = bytearray(image.data), image.at("pool_pages") - BASE
    data[at : at + 4] = pages.to_bytes(4, "little")
    return replace(image, data=bytes(data))
