"""The xenstore client of a Python kernel.

Paths are str; relative ones start at the domain's own directory. Values are str (UTF-8) or bytes. Errors are
XenError with the store's errno. Requests are matched to replies by req_id, so that a handler may use the
store while other code waits for it.

    value = kernel.xenbus.read(path)                straight-line code: waits
    value = yield from kernel.xenbus.tasks.read(path)     a handler's task: the loop goes on meanwhile
    with kernel.xenbus.transaction() as t:          all of it or, with XenError(EAGAIN), nothing
        t.write("device/vbd/51712/state", "3")
    token = kernel.xenbus.watch(path, changed)      changed(path) is called at once and after each change
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from types import GeneratorType
from typing import Final, TypeVar

from domains.kernel.loop import Loop, Source
from domains.kernel.store_calls import Run, StoreCalls
from domains.kernel.store_tasks import StoreTasks, strings
from domains.kernel.tasks import Pause, Signal, Task
from domains.kernel.xs_ring import Wire
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.io.xs_wire import (
    XENSTORE_PAYLOAD_MAX,
    XS_ERROR,
    XS_GET_DOMAIN_PATH,
    XS_INTRODUCE,
    XS_RELEASE,
    XS_RESET_WATCHES,
    XS_TRANSACTION_END,
    XS_TRANSACTION_START,
    XS_UNWATCH,
    XS_WATCH,
    XS_WATCH_EVENT,
    XenstoreMessage,
    xsd_sockmsg,
)
from hypervisor.public.types import DomId, Mfn, Port

T = TypeVar("T")
Changed = Callable[[str], None] | Callable[[str], Task[None] | None]
"""A handler of watch events: it gets the path that changed."""
MAX_TRANSACTION_TRIES: Final = 100


class Watch:
    """One watch: the paths that changed and were not told yet."""

    def __init__(self, path: str, callback: Changed, loop: Loop) -> None:
        self.path = path
        self.callback = callback
        self.changed: deque[str] = deque()
        self.source: Source = loop.source(self._tell)

    def _tell(self) -> Task[None]:
        while self.changed and self.source.callback is not None:
            task = self.callback(self.changed.popleft())
            if isinstance(task, GeneratorType):
                yield from task


class Reply:
    """The answer to one request, once it is there."""

    __slots__ = ("answer", "arrived")

    def __init__(self) -> None:
        self.answer: tuple[int, bytes] | None = None
        self.arrived = Signal()


class XenbusTasks(StoreTasks):
    """One connection's requests, transactions and watches, as tasks. `receive` is to be called whenever the wire may
    have something.
    """

    def __init__(self, wire: Wire, loop: Loop) -> None:
        super().__init__(self._ask)
        self._wire = wire
        self._loop = loop
        self._in = bytearray()
        self._next_id = count(1)
        self._replies: dict[int, Reply] = {}
        self._watches: dict[str, Watch] = {}

    # --- messages --------------------------------------------------------------------------------

    def _ask(self, kind: XenstoreMessage, parts: tuple[str | bytes, ...], tx_id: int) -> Task[bytes]:
        payload = b"".join(part.encode() + b"\0" if isinstance(part, str) else part for part in parts)
        if len(payload) > XENSTORE_PAYLOAD_MAX:
            raise XenError(Errno.E2BIG, f"xenstore payload of {len(payload)} bytes")
        req_id = next(self._next_id) & 0xFFFF_FFFF
        reply = self._replies[req_id] = Reply()
        header = xsd_sockmsg(type=kind, req_id=req_id, tx_id=tx_id, len=len(payload))
        try:
            self._wire.send(header.pack() + payload)
            while reply.answer is None:
                yield Pause((reply.arrived,))
        finally:
            del self._replies[req_id]
        answered, answer = reply.answer
        if answered == XS_ERROR:
            name = answer.rstrip(b"\0").decode("ascii", "replace")
            subject = parts[0] if parts and isinstance(parts[0], str) else ""
            raise XenError(Errno.__members__.get(name, Errno.EINVAL), f"{kind.name} {subject}".rstrip())
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
                reply = self._replies[header.req_id]
                reply.answer = (header.type, payload)
                reply.arrived.send()

    def _on_watch_event(self, payload: bytes) -> None:
        path, token = strings(payload)[:2]
        watch = self._watches.get(token)
        if watch is not None:
            watch.changed.append(path)
            watch.source.trigger()

    # --- transactions ----------------------------------------------------------------------------

    def start(self) -> Task[StoreTasks]:
        """Begin a transaction: what is asked of the result is seen and done all at once, at `end`."""
        answer = yield from self.request(XS_TRANSACTION_START, "")
        return StoreTasks(self._ask, int(answer.rstrip(b"\0")))

    def end(self, transaction: StoreTasks, commit: bool) -> Task[None]:
        """Do it all, or drop it; XenError(EAGAIN) on a conflict."""
        yield from transaction.request(XS_TRANSACTION_END, "T" if commit else "F")

    def in_transaction(self, body: Callable[[StoreTasks], Task[T]]) -> Task[T]:
        """Run `body` in a transaction, again for as long as others interfere; XenError(EAGAIN) if they never
        stop.
        """
        for _ in range(MAX_TRANSACTION_TRIES):
            transaction = yield from self.start()
            try:
                result = yield from body(transaction)
            except GeneratorExit:  # whoever drove this task has dropped it: there is nobody to ask the store
                raise
            except BaseException:
                yield from self.end(transaction, commit=False)
                raise
            try:
                yield from self.end(transaction, commit=True)
            except XenError as error:
                if error.errno != Errno.EAGAIN:
                    raise
            else:
                return result
        raise XenError(Errno.EAGAIN, "a transaction meets a conflict every time")

    # --- watches ---------------------------------------------------------------------------------

    def watch(self, path: str, callback: Changed) -> Task[str]:
        """Call `callback(changed path)` from the loop at once and for each change at or below `path`; the
        token.
        """
        token = f"{next(self._next_id):x}"
        self._watches[token] = Watch(path, callback, self._loop)
        try:
            yield from self.request(XS_WATCH, path, token)
        except XenError:
            del self._watches[token]
            raise
        return token

    def unwatch(self, token: str) -> Task[None]:
        """End the watch: its handler is not called any more."""
        watch = self._watches.pop(token)
        watch.source.callback = None
        yield from self.request(XS_UNWATCH, watch.path, token)

    def reset_watches(self) -> Task[None]:
        """End all watches and transactions of this domain, those of an earlier kernel included."""
        self._watches.clear()
        yield from self.request(XS_RESET_WATCHES, "")


class Xenbus(StoreCalls):
    """The domain's connection to xenstore, for straight-line code; `tasks` is the same for handlers."""

    def __init__(self, wire: Wire, loop: Loop, run: Run) -> None:
        self.tasks = XenbusTasks(wire, loop)
        super().__init__(self.tasks, run)

    def receive(self) -> None:
        """Take what the wire has; to be called whenever it may have something."""
        self.tasks.receive()

    @contextmanager
    def transaction(self) -> Iterator[StoreCalls]:
        """The same calls, seen and done all at once: when the block ends. Dropped when it raises;
        XenError(EAGAIN) on a conflict.
        """
        transaction = self._run(self.tasks.start())
        try:
            yield StoreCalls(transaction, self._run)
        except BaseException:
            self._run(self.tasks.end(transaction, commit=False))
            raise
        self._run(self.tasks.end(transaction, commit=True))

    def in_transaction(self, body: Callable[[StoreCalls], T]) -> T:
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

    def watch(self, path: str, callback: Changed) -> str:
        """Call `callback(changed path)` from the loop at once and for each change at or below `path`; the
        token.
        """
        return self._run(self.tasks.watch(path, callback))

    def unwatch(self, token: str) -> None:
        """End the watch: its handler is not called any more."""
        self._run(self.tasks.unwatch(token))

    def reset_watches(self) -> None:
        """End all watches and transactions of this domain, those of an earlier kernel included."""
        self._run(self.tasks.reset_watches())

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
