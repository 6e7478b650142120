"""The guest's console: a text stream that `print` and `input` use.

A domain has a ring of xencons_interface with an event channel; Dom0, and a guest before it has one, uses
HYPERVISOR_console_io. A ring that the console daemon broke (byte_ring.py) is taken as one that is full and empty.

    write ─► held ─push─► the ring ─► the daemon, whose event says that there is room again ─► push

Straight-line code waits until its text is in the ring. A handler does not: its text is held back until there is room.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from domains.cpu.python_cpu import PythonCpu
from domains.kernel.byte_ring import ByteRingReader, ByteRingWriter, Direction, RingBroken
from domains.kernel.hypercalls import Hypercalls
from hypervisor.public.io.console import xencons_interface
from hypervisor.public.types import PAGE_SIZE, VAddr
from hypervisor.public.xen import CONSOLEIO_read, CONSOLEIO_write

IN_SIZE: Final = xencons_interface.offsetof("out")
"""Bytes of the ring from the daemon to the guest, which comes first in the page."""
OUT_SIZE: Final = xencons_interface.offsetof("in_cons") - IN_SIZE
"""Bytes of the ring from the guest to the daemon."""
FULL_RING_PATIENCE: Final = 5.0
"""Seconds that output waits for a daemon that does not read; after that it is dropped."""
HELD_MAX: Final = 64 * 1024
"""So many bytes that handlers print are held back for a daemon that does not read; the rest is dropped."""
CONSOLE_IN: Final = Direction(
    xencons_interface.offsetof("in_"),
    IN_SIZE,
    xencons_interface.offsetof("in_cons"),
    xencons_interface.offsetof("in_prod"),
)
"""From the daemon to the guest."""
CONSOLE_OUT: Final = Direction(
    xencons_interface.offsetof("out"),
    OUT_SIZE,
    xencons_interface.offsetof("out_cons"),
    xencons_interface.offsetof("out_prod"),
)
"""From the guest to the daemon."""
_CONSOLE_IO_CHUNK: Final = 1024

Wait = Callable[[Callable[[], bool], float | None], bool]


class Channel(Protocol):
    """Where the bytes go."""

    def send(self, data: memoryview) -> int:
        """Take some of `data`; how many bytes. 0: there is no room now."""

    def receive(self) -> bytes:
        """The bytes that have come."""


class RingChannel:
    """The console ring at `va`; `notify` sends its event."""

    def __init__(self, cpu: PythonCpu, va: VAddr, notify: Callable[[], None]) -> None:
        page = cpu.view(va, PAGE_SIZE, write=True)
        self._input = ByteRingReader(page, CONSOLE_IN)
        self._output = ByteRingWriter(page, CONSOLE_OUT)
        self._notify = notify

    def send(self, data: memoryview) -> int:
        """Puts what fits into the ring and tells the daemon; how many bytes that was."""
        try:
            count = self._output.put(data)
        except RingBroken:
            return 0
        if count:
            self._notify()
        return count

    def receive(self) -> bytes:
        """What the daemon has put into the ring."""
        try:
            data = self._input.take()
        except RingBroken:
            return b""
        if data:
            self._notify()
        return data


class HypervisorChannel:
    """Xen's own console."""

    def __init__(self, hypercalls: Hypercalls) -> None:
        self._hypercalls = hypercalls

    def send(self, data: memoryview) -> int:
        """Writes one chunk into the hypervisor's log; how many bytes that was."""
        chunk = bytes(data[:_CONSOLE_IO_CHUNK])
        self._hypercalls.hypercall_console_io(CONSOLEIO_write, chunk)
        return len(chunk)

    def receive(self) -> bytes:
        """What the hypervisor's console has to read: nothing, here."""
        return self._hypercalls.hypercall_console_io(CONSOLEIO_read, bytes(_CONSOLE_IO_CHUNK))


class Console:
    """A file-like object: sys.stdout, sys.stderr and sys.stdin of the guest. A line ends with \\n, sent as
    \\r\\n.
    """

    encoding = "utf-8"
    errors = "replace"
    closed = False

    def __init__(self, channel: Channel, wait: Wait, may_wait: Callable[[], bool]) -> None:
        self._channel = channel
        self._wait = wait
        self._may_wait = may_wait
        self._input = bytearray()
        self._held = bytearray()

    def write(self, text: str) -> int:
        """Send characters. Straight-line code waits while the ring is full and somebody reads it."""
        self._held += text.replace("\n", "\r\n").encode("utf-8", "replace")
        self.push()
        self.flush()
        del self._held[HELD_MAX:]
        return len(text)

    def flush(self) -> None:
        """Wait until nothing is held back. In a handler, which does not wait, there is nothing to do."""
        while self._held and self._may_wait():
            if not self._wait(self.push, FULL_RING_PATIENCE):
                self._held.clear()

    def push(self) -> bool:
        """Send what is held back, as far as there is room; whether that was anything."""
        moved = False
        while self._held:
            with memoryview(self._held) as data:
                sent = self._channel.send(data)
            if not sent:
                break
            del self._held[:sent]
            moved = True
        return moved

    def isatty(self) -> bool:
        """False: there is no terminal to control."""
        return False

    def readable(self) -> bool:
        """True: as text streams are asked."""
        return True

    def writable(self) -> bool:
        """True: as text streams are asked."""
        return True

    def readline(self, timeout: float | None = None) -> str:
        """The next line of input with its newline; "" if `timeout` seconds passed first."""
        if not self._wait(self._has_line, timeout):
            return ""
        line, _, rest = bytes(self._input).partition(b"\n")
        self._input = bytearray(rest)
        return line.decode("utf-8", "replace") + "\n"

    def _has_line(self) -> bool:
        self._input += self._channel.receive().replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return b"\n" in self._input
