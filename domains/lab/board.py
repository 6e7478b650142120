"""The machine around an unported kernel's CPU: ports, interrupt lines, a disk, a network card, and a clock that nothing moves.

    port           width
    0x20           1      end of interrupt
    0x1f0 0x1f4    4      disk: sector, guest-physical address of a page;  0x1f8: 1 writes it, 0 reads it; then interrupt 33
    0x312 0x310    2      network card: number of a register, and its word; bit 3 of register 0 sends; then interrupt 34
    0x318          4      network card: guest-physical address of its ring, four times {page, length, owned}

The card sends every slot that it owns, from where it stopped. Devices are done at once, but their interrupts wait until the CPU
takes one. Nothing but the CPU moves time: when it halts and no device has anything to say, the timer ticks (interrupt 32). So
every run of a kernel is the same.
"""

from __future__ import annotations

import struct
from collections import Counter, deque
from collections.abc import Callable
from typing import Final, Protocol

from hypervisor.public.types import PAGE_SIZE

TIMER, DISK, NETWORK = 32, 33, 34
PIC, DISK_SECTOR, DISK_PAGE, DISK_COMMAND = 0x20, 0x1F0, 0x1F4, 0x1F8
NIC_DATA, NIC_ADDRESS, NIC_RING = 0x310, 0x312, 0x318
NIC_DEMAND: Final = 8
SLOT: Final = struct.Struct("<3I")
SLOTS: Final = 4
"""Of the network card's ring."""
READ_ALL_ONES: Final = 0xFFFFFFFF


Told = Callable[[str, str, int], None]
"""Hears who does what, and how many bytes are moved by it."""


class Disk(Protocol):
    """Where the disk's contents are: a page by the number of its sector."""

    def read(self, sector: int) -> bytes:
        """One page."""

    def write(self, sector: int, data: bytes) -> None:
        """One page."""


class Platter:
    """A disk of its own, in this process' memory. `sectors`: what was written, by number."""

    def __init__(self) -> None:
        self.sectors: dict[int, bytes] = {}

    def read(self, sector: int) -> bytes:
        """See Disk."""
        return self.sectors.get(sector, bytes(PAGE_SIZE))

    def write(self, sector: int, data: bytes) -> None:
        """See Disk."""
        self.sectors[sector] = data


class Ports(Protocol):
    """What is behind a machine's ports."""

    def tell(self, told: Told) -> None:
        """Tell of what the devices do."""

    pending: deque[int]
    """Interrupts that were raised, by vector, and are not over."""

    @property
    def sectors(self) -> dict[int, bytes]:
        """What was written to the disk, by number of sector."""

    @property
    def packets(self) -> list[bytes]:
        """What was sent, in order."""

    def read_port(self, port: int, size: int) -> int:
        """IN."""

    def write_port(self, port: int, size: int, value: int) -> None:
        """OUT."""

    def halted(self) -> None:
        """The CPU waits for an interrupt: one is pending afterwards."""


class Lines:
    """Interrupts that devices have raised and the CPU has not ended yet. The card has one line: raised twice, it is up once."""

    def __init__(self) -> None:
        self.pending: deque[int] = deque()

    def raise_line(self, vector: int) -> None:
        """Its device has something to say."""
        if vector != NETWORK or vector not in self.pending:
            self.pending.append(vector)

    def halted(self) -> None:
        """The CPU waits for an interrupt: one is pending afterwards."""
        if not self.pending:
            self.pending.append(TIMER)

    def end_of_interrupt(self) -> None:
        """The one that came first is over."""
        if self.pending:
            self.pending.popleft()


class Devices(Lines):
    """One board's. `read` and `write` reach guest-physical memory; `disk` and `send` are what lies behind the devices.
    `accesses` counts port accesses, by device.
    """

    def __init__(
        self,
        read: Callable[[int, int], bytes],
        write: Callable[[int, bytes], None],
        disk: Disk | None = None,
        send: Callable[[bytes], None] | None = None,
    ) -> None:
        super().__init__()
        self._read, self._write = read, write
        self._platter = Platter()
        self._packets: list[bytes] = []
        self._disk, self._wire = disk or self._platter, send or self._packets.append
        self.accesses: Counter[str] = Counter()
        self._sector = self._page = self._ring = self._register = self._slot = 0
        self._told: Told = lambda _who, _what, _size: None

    def tell(self, told: Told) -> None:
        """See Ports."""
        self._told = told

    @property
    def sectors(self) -> dict[int, bytes]:
        """What was written to the disk, by number of sector; of one that is the board's own."""
        return self._platter.sectors

    @property
    def packets(self) -> list[bytes]:
        """What was sent, in order; by a wire that is the board's own."""
        return self._packets

    def read_port(self, port: int, size: int) -> int:
        """IN."""
        self.accesses[device_of(port)] += 1
        return 0 if port == NIC_DATA else READ_ALL_ONES

    def write_port(self, port: int, size: int, value: int) -> None:
        """OUT."""
        self.accesses[device_of(port)] += 1
        if port == PIC:
            self.end_of_interrupt()
        elif port == DISK_SECTOR:
            self._sector = value
        elif port == DISK_PAGE:
            self._page = value
        elif port == DISK_COMMAND:
            self._transfer(write=bool(value))
        elif port == NIC_ADDRESS:
            self._register = value
        elif port == NIC_RING:
            self._ring, self._slot = value, 0
        elif sends(port, self._register, value):
            self._send()

    def _transfer(self, *, write: bool) -> None:
        if write:
            self._disk.write(self._sector, self._read(self._page, PAGE_SIZE))
        else:
            self._write(self._page, self._disk.read(self._sector))
        self._told("device", "transfer to or from the disk", PAGE_SIZE)
        self.raise_line(DISK)

    def _send(self) -> None:
        while True:
            at = self._ring + self._slot * SLOT.size
            page, length, owned = SLOT.unpack(self._read(at, SLOT.size))
            if not owned:
                return
            self._wire(self._read(page, min(length, PAGE_SIZE)))
            self._told("device", "packet to the wire", min(length, PAGE_SIZE))
            self._write(at + 8, bytes(4))
            self._slot = (self._slot + 1) % SLOTS
            self.raise_line(NETWORK)


def sends(port: int, register: int, value: int) -> bool:
    """Whether this OUT has the network card look at its ring."""
    return port == NIC_DATA and register == 0 and bool(value & NIC_DEMAND)


def device_of(port: int) -> str:
    """The device that a port belongs to."""
    if port == PIC:
        return "interrupt controller"
    return "disk" if port < NIC_DATA else "network card"
