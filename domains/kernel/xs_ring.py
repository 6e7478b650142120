"""The xenstore ring: two streams of bytes in the page that a domain shares with the store.

Single writers: the guest writes req, req_prod, rsp_cons; the store rsp, rsp_prod, req_cons. Whole messages
are queued here and copied as room appears, so that messages of nested callers never mix. Source: Xen
public/io/xs_wire.h.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from domains.cpu.python_cpu import PythonCpu
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.io.xs_wire import XENSTORE_RING_SIZE, xenstore_domain_interface
from hypervisor.public.types import PAGE_SIZE, VAddr

_U32: Final = (1 << 32) - 1
_REQ: Final = xenstore_domain_interface.offsetof("req")
_RSP: Final = xenstore_domain_interface.offsetof("rsp")
_REQ_CONS, _REQ_PROD, _RSP_CONS, _RSP_PROD = (
    xenstore_domain_interface.offsetof(name) // 4 for name in ("req_cons", "req_prod", "rsp_cons", "rsp_prod")
)


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
        self._octets = cpu.view(va, PAGE_SIZE, write=True)
        self._words = self._octets.cast("I")
        self._notify = notify
        self._out = bytearray()

    def send(self, message: bytes) -> None:
        """Queues a message and puts as much of the queue into the ring as fits."""
        self._out += message
        if self._push():
            self._notify()

    def receive(self) -> bytes:
        """The bytes of answers and events that have come; puts more of the queue into the ring."""
        moved = self._push()
        data = self._take()
        if moved or data:
            self._notify()
        return data

    def _push(self) -> bool:
        """Copy what has room: the bytes, then the index."""
        prod = self._words[_REQ_PROD]
        used = self._words_between(self._words[_REQ_CONS], prod)
        count = min(len(self._out), XENSTORE_RING_SIZE - used)
        if not count:
            return False
        at = prod % XENSTORE_RING_SIZE
        first = min(count, XENSTORE_RING_SIZE - at)
        self._octets[_REQ + at : _REQ + at + first] = self._out[:first]
        self._octets[_REQ : _REQ + count - first] = self._out[first:count]
        self._words[_REQ_PROD] = prod + count & _U32
        del self._out[:count]
        return True

    def _take(self) -> bytes:
        cons, prod = self._words[_RSP_CONS], self._words[_RSP_PROD]
        count = self._words_between(cons, prod)
        at = cons % XENSTORE_RING_SIZE
        first = min(count, XENSTORE_RING_SIZE - at)
        data = bytes(self._octets[_RSP + at : _RSP + at + first])
        data += bytes(self._octets[_RSP : _RSP + count - first])
        self._words[_RSP_CONS] = prod
        return data

    def _words_between(self, cons: int, prod: int) -> int:
        """Bytes in a ring; an index that claims more than fits was not written by a store."""
        count = prod - cons & _U32
        if count > XENSTORE_RING_SIZE:
            raise XenError(Errno.EIO, f"xenstore ring with {count} bytes in it")
        return count
