"""The xenstore ring: two streams of bytes in the page that a domain shares with the store.

Whole messages are queued here and copied as room appears (byte_ring.py), so that messages of several tasks never
mix. Source: Xen public/io/xs_wire.h.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from domains.cpu.python_cpu import PythonCpu
from domains.kernel.byte_ring import ByteRingReader, ByteRingWriter, Direction, RingBroken
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.io.xs_wire import XENSTORE_RING_SIZE, xenstore_domain_interface
from hypervisor.public.types import PAGE_SIZE, VAddr

REQUESTS: Final = Direction(
    xenstore_domain_interface.offsetof("req"),
    XENSTORE_RING_SIZE,
    xenstore_domain_interface.offsetof("req_cons"),
    xenstore_domain_interface.offsetof("req_prod"),
)
"""From the guest to the store."""
REPLIES: Final = Direction(
    xenstore_domain_interface.offsetof("rsp"),
    XENSTORE_RING_SIZE,
    xenstore_domain_interface.offsetof("rsp_cons"),
    xenstore_domain_interface.offsetof("rsp_prod"),
)
"""From the store to the guest: answers and events."""


class Wire(Protocol):
    """A connection with a store: bytes of whole messages out, bytes in."""

    def send(self, message: bytes) -> None:
        """Queue one message."""

    def receive(self) -> bytes:
        """What has come since the last call; also sends on what had no room before. XenError(EIO): a broken
        ring.
        """


class XenstoreRing:
    """The ring in the page at `va`; `notify` sends its event."""

    def __init__(self, cpu: PythonCpu, va: VAddr, notify: Callable[[], None]) -> None:
        page = cpu.view(va, PAGE_SIZE, write=True)
        self._requests = ByteRingWriter(page, REQUESTS)
        self._replies = ByteRingReader(page, REPLIES)
        self._notify = notify
        self._out = bytearray()

    def send(self, message: bytes) -> None:
        """Queues a message and puts as much of the queue into the ring as fits. Raises XenError(EIO)."""
        self._out += message
        with eio_if_broken():
            if self._push():
                self._notify()

    def receive(self) -> bytes:
        """The bytes of answers and events that have come; puts more of the queue into the ring. Raises XenError(EIO)."""
        with eio_if_broken():
            moved = self._push()
            data = self._replies.take()
        if moved or data:
            self._notify()
        return data

    def _push(self) -> bool:
        """Copy what has room; whether that was anything."""
        count = self._requests.put(self._out)
        del self._out[:count]
        return count > 0


@contextmanager
def eio_if_broken() -> Iterator[None]:
    """A broken ring is XenError(EIO): an index in it was not written by a store."""
    try:
        yield
    except RingBroken as broken:
        raise XenError(Errno.EIO, f"xenstore ring: {broken}") from None
