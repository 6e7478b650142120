"""A domain's client of the real store, for drivers in one process: what `kernel.xenbus` is to them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from domains.dom0.xenstore.server import Xenstored
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.io import xs_wire
from hypervisor.public.types import DomId
from tests.domains.dom0.xenstore.client import OK, Client


class StoreOwner(Protocol):
    """What the client needs of the machine."""

    store: Xenstored
    stores: list[StoreClient]
    queue: deque[Callable[[], None]]


@dataclass
class StoreTransaction:
    """One transaction of a client."""

    client: StoreClient
    id: int
    done: list[str] = field(default_factory=list)

    def read(self, path: str) -> str:
        return self.client.read(path, self.id)

    def write(self, path: str, value: str) -> None:
        self.client.write(path, value, self.id)

    def set_permissions(self, path: str, permissions: list[str]) -> None:
        self.client.set_permissions(path, permissions, self.id)


class StoreClient:
    """A connection to the real store, served at once; its events are callbacks of the machine's queue."""

    def __init__(self, machine: StoreOwner, domid: int) -> None:
        self._machine = machine
        connection = (
            machine.store.open() if domid == 0 else machine.store.introduce(DomId(domid), gfn=1, port=1)
        )
        connection.transport = None
        self._client = Client(connection)
        self.callbacks: dict[str, tuple[str, Callable[[str], None]]] = {}
        self._next = 0
        machine.stores.append(self)

    def deliver(self) -> None:
        """Queue the callbacks of events that have come."""
        for path, token in self._client.take_events():
            self._machine.queue.append(partial(self._event, path.decode(), token.decode()))

    def _event(self, path: str, token: str) -> None:
        if token in self.callbacks:
            self.callbacks[token][1](path)

    @staticmethod
    def _result(reply: Any) -> Any:
        if isinstance(reply, str):
            raise XenError(Errno[reply])
        return reply

    def read(self, path: str, tx: int = 0) -> str:
        return str(self._result(self._client.read(path.encode(), tx)), "utf-8")

    def write(self, path: str, value: str, tx: int = 0) -> None:
        self._result(self._client.write(path.encode(), value.encode(), tx))

    def rm(self, path: str) -> None:
        self._result(self._client.rm(path.encode()))

    def directory(self, path: str) -> list[str]:
        return [name.decode() for name in self._ls(path)]

    def _ls(self, path: str) -> list[bytes]:
        reply = self._client.ask(xs_wire.XS_DIRECTORY, path.encode())
        return bytes(self._result(reply)).split(b"\0")[:-1]

    def set_permissions(self, path: str, permissions: list[str], tx: int = 0) -> None:
        entries = [entry.encode() for entry in permissions]
        self._result(self._client.chmod(path.encode(), *entries, tx=tx))

    @contextmanager
    def transaction(self) -> Iterator[StoreTransaction]:
        transaction = StoreTransaction(self, self._client.begin())
        try:
            yield transaction
        except BaseException:
            self._client.end(transaction.id, b"F")
            raise
        self._result(self._client.end(transaction.id))

    def watch(self, path: str, callback: Callable[[str], None]) -> str:
        self._next += 1
        token = f"{self._next}"
        self.callbacks[token] = (path, callback)
        assert self._client.watch(path.encode(), token.encode()) == OK
        return token

    def unwatch(self, token: str) -> None:
        path, _ = self.callbacks.pop(token)
        assert self._client.unwatch(path.encode(), token.encode()) == OK
