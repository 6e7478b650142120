"""The host's half of a hosted monitor, a process of its own: it has the devices, and asks the host's system for the work.

    python -m domains.lab.systems.host_process MEMORY SWITCH DISK WIRE BROKEN

The arguments are descriptors: the guest's memory; the end of a socket pair that the world switch goes over; a file; a socket.
BROKEN is the sector at which the code of the disk has a fault; -1: it has none. Each message is a world switch: the port
accesses that are to be done, and the answer says what IN found, which devices have something to say, and what was asked of
the host.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import socket
import sys
from typing import Any, Final

from domains.lab.board import Devices
from domains.lab.systems.scatter import MACHINE_PAGES, machine_address
from hypervisor.public.types import PAGE_SIZE

MESSAGE: Final = 65536
HALT: Final = "halt"
"""In the place of an access: the CPU waits for an interrupt."""


class HostFile:
    """The disk: a file of the host's. `did`: who hears of each system call."""

    def __init__(self, fd: int, broken: int, did: list[tuple[str, int]]) -> None:
        self._fd, self._broken, self._did = fd, broken, did

    def read(self, sector: int) -> bytes:
        """See board.Disk."""
        self._fault(sector)
        self._did.append(("pread", PAGE_SIZE))
        return os.pread(self._fd, PAGE_SIZE, sector * PAGE_SIZE).ljust(PAGE_SIZE, b"\0")

    def write(self, sector: int, data: bytes) -> None:
        """See board.Disk."""
        self._fault(sector)
        self._did.append(("pwrite", os.pwrite(self._fd, data, sector * PAGE_SIZE)))

    def _fault(self, sector: int) -> None:
        if sector == self._broken:
            ctypes.memset(0, 0, 1)  # a store by a null pointer: the kernel ends this process


def serve(memory: mmap.mmap, switch: socket.socket, wire: socket.socket, disk: tuple[int, int]) -> None:
    """Answer each message, until the other end is closed. `disk`: the file's descriptor, and the broken sector."""
    did: list[tuple[str, int]] = []

    def read(address: int, size: int) -> bytes:
        at = machine_address(address)
        return memory[at : at + size]

    def write(address: int, data: bytes) -> None:
        at = machine_address(address)
        memory[at : at + len(data)] = data

    def send(packet: bytes) -> None:
        did.append(("send", wire.send(packet)))

    devices = Devices(read, write, HostFile(*disk, did), send)
    while message := switch.recv(MESSAGE):
        found = [perform(devices, *access) for access in json.loads(message)]
        lines = list(devices.pending)
        devices.pending.clear()
        switch.send(json.dumps([found, lines, did]).encode())
        did.clear()


def perform(devices: Devices, kind: str, port: int, size: int, value: int) -> int:
    """One access; what an IN finds, else 0."""
    if kind == HALT:
        devices.halted()
    elif kind == "in":
        return devices.read_port(port, size)
    else:
        devices.write_port(port, size, value)
    return 0


def main(arguments: list[str]) -> None:
    """See above."""
    memory, switch, disk, wire, broken = map(int, arguments)
    pages: Any = mmap.mmap(memory, MACHINE_PAGES * PAGE_SIZE)
    serve(pages, socket.socket(fileno=switch), socket.socket(fileno=wire), (disk, broken))


if __name__ == "__main__":
    main(sys.argv[1:])
