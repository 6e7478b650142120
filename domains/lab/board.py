"""The machine around an unported kernel's CPU: ports, interrupt lines, a disk, a network card, and a clock that nothing moves.

    port           width
    0x20           1      end of interrupt
    0x1f0 0x1f4    4      disk: sector, guest-physical address of a page;  0x1f8: 1 writes it, 0 reads it; then interrupt 33
    0x312 0x310    2      network card: number of a register, and its word; bit 8 of register 0 sends; then interrupt 34
    0x318          4      network card: guest-physical address of {page, length, owned}

Devices are done at once, but their interrupts wait until the CPU takes one. Nothing but the CPU moves time: when it halts and no
device has anything to say, the timer ticks (interrupt 32). So every run of a kernel is the same.
"""

from __future__ import annotations

import struct
from collections import Counter, deque
from collections.abc import Callable
from typing import Final

from hypervisor.public.types import PAGE_SIZE

TIMER, DISK, NETWORK = 32, 33, 34
PIC, DISK_SECTOR, DISK_PAGE, DISK_COMMAND = 0x20, 0x1F0, 0x1F4, 0x1F8
NIC_DATA, NIC_ADDRESS, NIC_RING = 0x310, 0x312, 0x318
NIC_DEMAND: Final = 8
RING: Final = struct.Struct("<3I")
READ_ALL_ONES: Final = 0xFFFFFFFF


class Devices:
    """One board's. `read` and `write` reach guest-physical memory. `accesses` counts port accesses, by device."""

    def __init__(self, read: Callable[[int, int], bytes], write: Callable[[int, bytes], None]) -> None:
        self._read, self._write = read, write
        self.sectors: dict[int, bytes] = {}
        self.packets: list[bytes] = []
        self.accesses: Counter[str] = Counter()
        self.pending: deque[int] = deque()
        self._sector = self._page = self._ring = self._register = 0

    def read_port(self, port: int, _size: int) -> int:
        """IN."""
        self.accesses[device_of(port)] += 1
        return 0 if port == NIC_DATA else READ_ALL_ONES

    def write_port(self, port: int, _size: int, value: int) -> None:
        """OUT."""
        self.accesses[device_of(port)] += 1
        if port == PIC and self.pending:
            self.pending.popleft()
        elif port == DISK_SECTOR:
            self._sector = value
        elif port == DISK_PAGE:
            self._page = value
        elif port == DISK_COMMAND:
            self._transfer(write=bool(value))
        elif port == NIC_ADDRESS:
            self._register = value
        elif port == NIC_RING:
            self._ring = value
        elif port == NIC_DATA and self._register == 0 and value & NIC_DEMAND:
            self._send()

    def halted(self) -> None:
        """The CPU waits for an interrupt: one is pending afterwards."""
        if not self.pending:
            self.pending.append(TIMER)

    def _transfer(self, *, write: bool) -> None:
        if write:
            self.sectors[self._sector] = self._read(self._page, PAGE_SIZE)
        else:
            self._write(self._page, self.sectors.get(self._sector, bytes(PAGE_SIZE)))
        self.pending.append(DISK)

    def _send(self) -> None:
        page, length, owned = RING.unpack(self._read(self._ring, RING.size))
        if owned:
            self.packets.append(self._read(page, min(length, PAGE_SIZE)))
            self._write(self._ring + 8, bytes(4))
            self.pending.append(NETWORK)


def device_of(port: int) -> str:
    """The device that a port belongs to."""
    if port == PIC:
        return "interrupt controller"
    return "disk" if port < NIC_DATA else "network card"
