"""The ring of one guest: the page `struct xenstore_domain_interface` as the transport of a connection.

       0  req[1024]   guest -> store       req_prod is the guest's word, req_cons ours
    1024  rsp[1024]   store -> guest       rsp_prod is ours, rsp_cons the guest's word
    2048  req_cons  req_prod  rsp_cons  rsp_prod  server_features  connection  error

Everything in the page can be changed by the guest at any moment (byte_ring.py). An index that lies, or a message
that is too long, sets `error` and ends this connection, and nothing else (rule S4, XSA-325). (Xen
public/io/xs_wire.h, docs/misc/xenstore-ring.txt)

A guest need not send an event for bytes that it adds while others are still waiting, nor for room that it makes in a
ring that is not full: Linux does not. So after each turn both of its indices are looked at once more.

Difference from Xen's C xenstored, as in its OCaml one: a guest may ask for a fresh start
(XENSTORE_RECONNECT).
"""

from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

from domains.dom0.xenstore.connection import Connection, Death
from domains.kernel.byte_ring import ByteRingReader, ByteRingWriter, RingBroken
from domains.kernel.xs_ring import REPLIES, REQUESTS
from hypervisor.machine.barrier import full_barrier
from hypervisor.public.io.xs_wire import (
    XENSTORE_CONNECTED,
    XENSTORE_ERROR_COMM,
    XENSTORE_ERROR_NONE,
    XENSTORE_ERROR_PROTO,
    XENSTORE_ERROR_RINGIDX,
    XENSTORE_RECONNECT,
    XENSTORE_RING_SIZE,
    XENSTORE_SERVER_FEATURE_ERROR,
    XENSTORE_SERVER_FEATURE_RECONNECTION,
    xenstore_domain_interface,
)

_FEATURES: Final = int(XENSTORE_SERVER_FEATURE_ERROR) | int(XENSTORE_SERVER_FEATURE_RECONNECTION)
_ERROR_OF: Final = {
    Death.PROTOCOL: XENSTORE_ERROR_PROTO,
    Death.RING_INDEX: XENSTORE_ERROR_RINGIDX,
    Death.OVERFLOW: XENSTORE_ERROR_COMM,
    Death.CLOSED: XENSTORE_ERROR_NONE,
}

T = TypeVar("T")


class Ring:
    """Attaches itself to `connection`. `page`: 4096 writable bytes (a numpy array's `.data`);
    `notify` sends the guest an event, `soon` has a function called after everybody else's turn.

    Call `poll` when the guest has sent an event.
    """

    def __init__(
        self,
        connection: Connection,
        page: memoryview,
        notify: Callable[[], None],
        soon: Callable[[Callable[[], None]], object],
    ) -> None:
        self._connection = connection
        octets = memoryview(page).cast("B")
        self._words = xenstore_domain_interface.array(octets, 1)[0]
        self._requests = ByteRingReader(octets, REQUESTS)
        self._replies = ByteRingWriter(octets, REPLIES)
        self._notify = notify
        self._soon = soon
        self._polling = False
        self._again = False
        connection.transport = self
        self._start()

    def poll(self) -> None:
        """Take what the guest has sent and may send, and give it what there is room for."""
        if self._connection.dead:
            return
        if int(self._words["connection"]) == XENSTORE_RECONNECT:
            self._connection.reset()
            self._start()
            return
        self._polling = True
        moved = self._read()
        self._polling = False
        self._flush(moved)

    def output_ready(self) -> None:
        """Called by the connection: something waits to be sent."""
        if not self._polling:  # else `poll` will write at its end
            self._flush(False)

    def input_wanted(self) -> None:
        """Called by the connection: it takes input again."""
        self.poll()

    def _flush(self, moved: bool) -> None:
        """Write what there is room for, and tell the guest of it, or of what was `moved` from the other half."""
        if self._write() or moved:
            self._notify()
        if not self._again and self._is_behind():
            self._again = True
            self._soon(self._poll_again)

    def _poll_again(self) -> None:
        self._again = False
        self.poll()

    def _is_behind(self) -> bool:
        """Whether the guest has gone on meanwhile, which it may not tell."""
        full_barrier()
        if self._unless_broken(self._requests.waiting, 0) and self._connection.room:
            return True
        return self._unless_broken(self._replies.room, 0) > 0 and bool(self._connection.outgoing)

    def _start(self) -> None:
        """An empty ring: all words, then the state, then the event."""
        self._requests.restart()
        self._replies.restart()
        self._words["error"] = XENSTORE_ERROR_NONE
        self._words["server_features"] = _FEATURES
        self._words["connection"] = XENSTORE_CONNECTED
        self._notify()

    def _read(self) -> bool:
        """Feed at most what was in the ring on entry. Returns whether anything was taken."""
        available = self._unless_broken(self._requests.waiting, 0)
        moved = False
        while available and (room := self._connection.room):
            data = self._unless_broken(partial(self._requests.take, min(available, room)), b"")
            if not data:
                break
            available -= len(data)
            self._connection.feed(data)
            moved = True
        return moved

    def _write(self) -> bool:
        """Returns whether the guest has anything to look at."""
        count = 0
        if not self._connection.dead:
            data = self._connection.outgoing.peek(XENSTORE_RING_SIZE)
            count = self._unless_broken(partial(self._replies.put, data), 0)
        if self._connection.dead:
            self._words["error"] = _ERROR_OF[self._connection.dead]
            return True
        self._connection.outgoing.advance(count)
        return count > 0

    def _unless_broken(self, look: Callable[[], T], otherwise: T) -> T:
        """What `look` gives. An index of the guest's that cannot be ends the connection; then `otherwise`."""
        try:
            return look()
        except RingBroken:
            self._connection.kill(Death.RING_INDEX)
            return otherwise
