"""The monitor's side of the world switch: what it does by itself of the devices, and what it has the host's process do.

A port access that needs the host leaves the monitor's world: its registers, tables and interrupts are put away, the host's are
taken up, the host's process acts, and everything happens again in the other direction. Here both worlds are processes, and the
switch is a message over a socket pair; what is counted is how often it happens, in each direction.

What may be put off is (`Policy`): the address of a page for the disk is of interest only when the disk is told to begin.
Source: Sugerman, Venkitachalam, Lim, Virtualizing I/O Devices on VMware Workstation's Hosted Virtual Machine Monitor, 2001.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from enum import Enum
from typing import Final

from domains.lab.board import (
    DISK_COMMAND,
    NIC_ADDRESS,
    NIC_DATA,
    PIC,
    READ_ALL_ONES,
    Lines,
    Told,
    sends,
)
from domains.lab.systems.host_process import HALT, MESSAGE
from domains.lab.systems.system import Crashed
from hypervisor.public.types import PAGE_SIZE

BLOCKS: Final = 64
"""Pages of the disk."""
COMBINED: Final = 3
"""So many packets wait at most, for one world switch."""
Access = tuple[str, int, int, int]
"""Kind, port, size, value."""


class Policy(Enum):
    """Which accesses of the network card and the disk go to the host."""

    EACH_ACCESS = "each access"
    TRANSMIT = "only what needs the host"
    COMBINE = "packets combined"


class Host:
    """The host's process, started when it is first needed. `told`: who hears of what both worlds do."""

    def __init__(self, memory: int, broken: int) -> None:
        self._memory, self._broken = memory, broken
        self._disk = os.memfd_create("disk", os.MFD_CLOEXEC)
        os.ftruncate(self._disk, BLOCKS * PAGE_SIZE)
        self._process: subprocess.Popen[bytes] | None = None
        self._switch, self._wire = (
            socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)
        )
        self.packets: list[bytes] = []
        self.switches = 0
        self.told: Told = lambda _who, _what, _size: None

    @property
    def sectors(self) -> dict[int, bytes]:
        """The pages of the file that are not empty."""
        blocks = ((n, os.pread(self._disk, PAGE_SIZE, n * PAGE_SIZE)) for n in range(BLOCKS))
        return {n: data for n, data in blocks if any(data)}

    def do(self, accesses: list[Access]) -> tuple[list[int], list[int]]:
        """Two world switches, and between them what the host does: what each IN found, and which lines went up.

        Crashed: the host's process has died, and the machine with it.
        """
        if self._process is None:
            self._process = self._start()
        self.switches += 1
        self.told("monitor", "world switch to the host", 0)
        self._switch[0].send(json.dumps(accesses).encode())
        answer = self._switch[0].recv(MESSAGE)
        if not answer:
            end = signal.Signals(-self._process.wait()).name
            raise Crashed(f"the host's process of this machine was ended by {end}")
        found, lines, did = json.loads(answer)
        for what, size in did:
            self.told("host", what, size)
            if what == "send":
                self.packets.append(self._wire[0].recv(MESSAGE))
        self.switches += 1
        self.told("host", "world switch to the monitor", 0)
        return found, lines

    def _start(self) -> subprocess.Popen[bytes]:
        descriptors = self._memory, self._switch[1].fileno(), self._disk, self._wire[1].fileno()
        arguments = [str(one) for one in (*descriptors, self._broken)]
        process = subprocess.Popen(
            [sys.executable, "-m", "domains.lab.systems.host_process", *arguments], pass_fds=descriptors
        )
        for theirs in (self._switch[1], self._wire[1]):
            theirs.close()
        return process

    def close(self) -> None:
        """The process ends, for nobody is at the other end any more."""
        for end in (*self._switch, *self._wire):
            end.close()
        if self._process is not None:
            self._process.wait()
        os.close(self._disk)


class MonitorDevices(Lines):
    """The devices as the guest finds them. `by_port` counts all accesses, `to_host` those that the host was needed for."""

    def __init__(self, host: Host, policy: Policy) -> None:
        super().__init__()
        self._host, self._policy = host, policy
        self._later: list[Access] = []
        self._register = self._packets = 0
        self.by_port: Counter[int] = Counter()
        self.to_host: Counter[int] = Counter()

    def tell(self, told: Told) -> None:
        """See Ports; both worlds do."""
        self._host.told = told

    @property
    def sectors(self) -> dict[int, bytes]:
        """What is on the disk."""
        return self._host.sectors

    @property
    def packets(self) -> list[bytes]:
        """What was sent."""
        return self._host.packets

    def read_port(self, port: int, size: int) -> int:
        """IN: there is nothing in a register that the monitor does not know."""
        self.by_port[port] += 1
        if self._policy is Policy.EACH_ACCESS and port != PIC:
            return self._switch(port, ("in", port, size, 0))
        return 0 if port == NIC_DATA else READ_ALL_ONES

    def write_port(self, port: int, size: int, value: int) -> None:
        """OUT."""
        self.by_port[port] += 1
        if port == NIC_ADDRESS:
            self._register = value
        access = ("out", port, size, value)
        if port == PIC:
            self.end_of_interrupt()
        elif self._policy is Policy.EACH_ACCESS or port == DISK_COMMAND:
            self._switch(port, access)
        elif sends(port, self._register, value):
            self._send(port, access)
        elif port != NIC_DATA:  # acknowledging an interrupt is the monitor's affair
            self._later.append(access)

    def _send(self, port: int, access: Access) -> None:
        self._packets += 1
        if self._policy is Policy.COMBINE and self._packets < COMBINED:
            self._later.append(access)
        else:
            self._switch(port, access)

    def halted(self) -> None:
        """The CPU waits: it is the host's meanwhile."""
        if not self.pending:
            self._switch(None, (HALT, 0, 0, 0))

    def _switch(self, port: int | None, access: Access) -> int:
        """Have the host do this, and before it whatever has waited; what an IN found."""
        if port is not None:
            self.to_host[port] += 1
        accesses, self._later, self._packets = [*self._later, access], [], 0
        found, lines = self._host.do(accesses)
        for line in lines:
            self.raise_line(line)
        return found[-1]
