"""The xenstore client of a Python kernel.

Paths are str; relative ones start at the domain's own directory. Values are str (UTF-8) or bytes. Errors are
XenError with the store's errno. Requests are matched to replies by req_id, so that a handler may use the
store while other code waits for it.

    with kernel.xenbus.transaction() as t:          all of it or, with XenError(EAGAIN), nothing
        t.write("device/vbd/51712/state", "3")
    token = kernel.xenbus.watch(path, changed)      changed(path) is called at once and after each change
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Final, TypeVar

from domains.kernel.loop import Loop, Source
from domains.kernel.xs_ring import Wire
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.io.xs_wire import (
    XENSTORE_PAYLOAD_MAX,
    XS_DIRECTORY,
    XS_DIRECTORY_PART,
    XS_ERROR,
    XS_GET_DOMAIN_PATH,
    XS_GET_PERMS,
    XS_INTRODUCE,
    XS_MKDIR,
    XS_READ,
    XS_RELEASE,
    XS_RESET_WATCHES,
    XS_RM,
    XS_SET_PERMS,
    XS_TRANSACTION_END,
    XS_TRANSACTION_START,
    XS_UNWATCH,
    XS_WATCH,
    XS_WATCH_EVENT,
    XS_WRITE,
    XenstoreMessage,
    xsd_sockmsg,
)
from hypervisor.public.types import DomId, Mfn, Port

T = TypeVar("T")
Wait = Callable[[Callable[[], bool], float | None], bool]
MAX_TRANSACTION_TRIES: Final = 100


def as_bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


def strings(payload: bytes) -> list[str]:
    """NUL-terminated strings."""
    return [part.decode("utf-8", "replace") for part in payload.split(b"\0")[:-1]]


class StoreCalls:
    """What can be asked inside a transaction and outside; `tx_id` 0 is outside."""

    tx_id = 0

    def request(self, kind: XenstoreMessage, *parts: str | bytes) -> bytes:
        """Send one message, its parts NUL-terminated (the last as it is if bytes), and wait for its answer."""
        raise NotImplementedError

    def read(self, path: str) -> str:
        """The node's value; XenError(ENOENT)."""
        return self.read_bytes(path).decode("utf-8", "replace")

    def read_bytes(self, path: str) -> bytes:
        """The node's value as it lies in the store."""
        return self.request(XS_READ, path)

    def write(self, path: str, value: str | bytes) -> None:
        """Set the node's value; missing parents are made."""
        self.request(XS_WRITE, path, as_bytes(value))

    def mkdir(self, path: str) -> None:
        """Make the node if it does not exist."""
        self.request(XS_MKDIR, path)

    def rm(self, path: str) -> None:
        """Remove the node and what is below it; XenError(ENOENT) only if its parent does not exist."""
        self.request(XS_RM, path)

    def exists(self, path: str) -> bool:
        """Whether the node is there for this domain to read."""
        try:
            self.request(XS_READ, path)
        except XenError as error:
            if error.errno not in (Errno.ENOENT, Errno.EACCES):
                raise
            return False
        return True

    def directory(self, path: str) -> list[str]:
        """Names of the node's children; a list too long for one message is fetched in parts."""
        try:
            return strings(self.request(XS_DIRECTORY, path))
        except XenError as error:
            if error.errno != Errno.E2BIG:
                raise
        return self._directory_parts(path)

    def _directory_parts(self, path: str) -> list[str]:
        """Each part begins with the node's generation: if that changes in between, from the start again."""
        names, generation = b"", b""
        while True:
            part = self.request(XS_DIRECTORY_PART, path, str(len(names)))
            seen, _, chunk = part.partition(b"\0")
            if names and seen != generation:
                names = b""
                continue
            generation = seen
            if chunk.endswith(b"\0\0") or chunk in (b"", b"\0"):
                return [name for name in strings(names + chunk) if name]
            names += chunk

    def get_permissions(self, path: str) -> list[str]:
        """Entries such as "n0", "r5": owner and default first."""
        return strings(self.request(XS_GET_PERMS, path))

    def set_permissions(self, path: str, permissions: list[str]) -> None:
        """Replace the node's permissions."""
        self.request(XS_SET_PERMS, path, *permissions)


class Transaction(StoreCalls):
    """The same calls as Xenbus, seen and done all at once at the end."""

    def __init__(self, bus: Xenbus, tx_id: int) -> None:
        self._bus = bus
        self.tx_id = tx_id

    def request(self, kind: XenstoreMessage, *parts: str | bytes) -> bytes:
        return self._bus.exchange(kind, parts, self.tx_id)


class Watch:
    """One watch: the paths that changed and were not told yet."""

    def __init__(self, path: str, callback: Callable[[str], None], loop: Loop) -> None:
        self.path = path
        self.callback = callback
        self.changed: deque[str] = deque()
        self.source: Source = loop.source(self._tell)

    def _tell(self) -> None:
        while self.changed:
            self.callback(self.changed.popleft())


class Xenbus(StoreCalls):
    """The domain's connection to xenstore. `receive` is to be called whenever the wire may have something."""

    def __init__(self, wire: Wire, loop: Loop, wait: Wait) -> None:
        self._wire = wire
        self._loop = loop
        self._wait = wait
        self._in = bytearray()
        self._next_id = count(1)
        self._replies: dict[int, tuple[int, bytes] | None] = {}
        self._watches: dict[str, Watch] = {}

    # --- messages --------------------------------------------------------------------------------

    def request(self, kind: XenstoreMessage, *parts: str | bytes) -> bytes:
        return self.exchange(kind, parts, 0)

    def exchange(self, kind: int, parts: tuple[str | bytes, ...], tx_id: int) -> bytes:
        """One request and its answer. XenError: the store's error; E2BIG before anything is sent."""
        payload = b"".join(as_bytes(part) + b"\0" if isinstance(part, str) else part for part in parts)
        if len(payload) > XENSTORE_PAYLOAD_MAX:
            raise XenError(Errno.E2BIG, f"xenstore payload of {len(payload)} bytes")
        req_id = next(self._next_id) & 0xFFFF_FFFF
        self._replies[req_id] = None
        header = xsd_sockmsg(type=kind, req_id=req_id, tx_id=tx_id, len=len(payload))
        self._wire.send(header.pack() + payload)
        self._wait(lambda: self._replies[req_id] is not None, None)
        reply = self._replies.pop(req_id)
        assert reply is not None
        answered, answer = reply
        if answered == XS_ERROR:
            name = answer.rstrip(b"\0").decode("ascii", "replace")
            raise XenError(Errno.__members__.get(name, Errno.EINVAL), f"xenstore {kind!r} {parts[:1]!r}")
        return answer

    def receive(self) -> None:
        """Take what the wire has: answers to whoever waits, watch events to their handlers."""
        self._in += self._wire.receive()
        while len(self._in) >= xsd_sockmsg.sizeof:
            header = xsd_sockmsg.unpack(self._in)
            end = xsd_sockmsg.sizeof + header.len
            if len(self._in) < end:
                return
            payload = bytes(self._in[xsd_sockmsg.sizeof : end])
            del self._in[:end]
            if header.type == XS_WATCH_EVENT:
                self._on_watch_event(payload)
            elif header.req_id in self._replies:
                self._replies[header.req_id] = (header.type, payload)

    def _on_watch_event(self, payload: bytes) -> None:
        path, token = strings(payload)[:2]
        watch = self._watches.get(token)
        if watch is not None:
            watch.changed.append(path)
            watch.source.trigger()

    # --- transactions ----------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """All or nothing: ends when the block ends, is dropped when it raises; XenError(EAGAIN) on a
        conflict.
        """
        tx_id = int(self.request(XS_TRANSACTION_START, "").rstrip(b"\0"))
        transaction = Transaction(self, tx_id)
        try:
            yield transaction
        except BaseException:
            transaction.request(XS_TRANSACTION_END, "F")
            raise
        transaction.request(XS_TRANSACTION_END, "T")

    def in_transaction(self, body: Callable[[Transaction], T]) -> T:
        """Run `body` in a transaction, again for as long as others interfere; XenError(EAGAIN) if they never
        stop.
        """
        for _ in range(MAX_TRANSACTION_TRIES):
            try:
                with self.transaction() as transaction:
                    return body(transaction)
            except XenError as error:
                if error.errno != Errno.EAGAIN:
                    raise
        raise XenError(Errno.EAGAIN, "a transaction meets a conflict every time")

    # --- watches ---------------------------------------------------------------------------------

    def watch(self, path: str, callback: Callable[[str], None]) -> str:
        """Call `callback(changed path)` from the loop at once and for each change at or below `path`; the
        token.
        """
        token = f"{next(self._next_id):x}"
        self._watches[token] = Watch(path, callback, self._loop)
        try:
            self.request(XS_WATCH, path, token)
        except XenError:
            del self._watches[token]
            raise
        return token

    def unwatch(self, token: str) -> None:
        """End the watch: its handler is not called any more."""
        watch = self._watches.pop(token)
        watch.source.callback = None
        self.request(XS_UNWATCH, watch.path, token)

    def reset_watches(self) -> None:
        """End all watches and transactions of this domain, those of an earlier kernel included."""
        self._watches.clear()
        self.request(XS_RESET_WATCHES, "")

    # --- for the control domain ------------------------------------------------------------------

    def get_domain_path(self, domid: DomId) -> str:
        """The directory of a domain: /local/domain/<domid>."""
        return self.request(XS_GET_DOMAIN_PATH, str(domid)).rstrip(b"\0").decode()

    def introduce(self, domid: DomId, ring: Mfn, port: Port) -> None:
        """Have the store serve a new domain at its ring (control domain)."""
        self.request(XS_INTRODUCE, str(domid), str(ring), str(port))

    def release(self, domid: DomId) -> None:
        """Have the store forget a domain (control domain)."""
        self.request(XS_RELEASE, str(domid))
