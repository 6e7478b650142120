"""What the tests talk through: a client of a connection, a guest's side of a ring, a toolstack with real
pages."""

from collections.abc import Callable
from typing import Any, NamedTuple

import msgpack

from domains.dom0.xenstore.connection import Connection
from domains.dom0.xenstore.ring import Ring
from domains.dom0.xenstore.server import Xenstored
from domains.dom0.xenstore.snapshot import restore, snapshot
from hypervisor.public.io import xs_wire
from hypervisor.public.io.xs_wire import XS_ERROR, XS_WATCH_EVENT, xenstore_domain_interface, xsd_sockmsg
from hypervisor.public.types import DomId

OK = b"OK\0"


class Message(NamedTuple):
    """A message as it came over the wire."""

    kind: int
    req_id: int
    tx_id: int
    payload: bytes


def encode(kind: int, payload: bytes, tx_id: int = 0, req_id: int = 0) -> bytes:
    return xsd_sockmsg(type=kind, req_id=req_id, tx_id=tx_id, len=len(payload)).pack() + payload


def decode(data: bytes) -> tuple[list[Message], bytes]:
    """The whole messages in `data`, and what is left of it."""
    messages = []
    while len(data) >= xsd_sockmsg.sizeof:
        header = xsd_sockmsg.unpack(data)
        end = xsd_sockmsg.sizeof + header.len
        if len(data) < end:
            break
        messages.append(Message(header.type, header.req_id, header.tx_id, data[xsd_sockmsg.sizeof : end]))
        data = data[end:]
    return messages, data


def outcome(message: Message) -> bytes | str:
    """The payload of a reply, or the errno's name."""
    return message.payload[:-1].decode() if message.kind == XS_ERROR else message.payload


class Client:
    """Asks one request at a time over a connection of the store, and keeps the events."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.events: list[tuple[bytes, bytes]] = []

    def ask(self, kind: int, *fields: bytes, tx: int = 0) -> bytes | str:
        """The reply to the strings `fields`, each sent with its nul; an error as the errno's name."""
        return self.ask_raw(kind, b"".join(field + b"\0" for field in fields), tx)

    def need(self, kind: int, *fields: bytes) -> bytes:
        """As `ask`, of a request that must not fail."""
        reply = self.ask(kind, *fields)
        assert isinstance(reply, bytes), reply
        return reply

    def ask_raw(self, kind: int, payload: bytes, tx: int = 0) -> bytes | str:
        self.connection.feed(encode(kind, payload, tx, req_id=77))
        replies = self.collect()
        assert len(replies) == 1, "a request has exactly one reply"
        assert (replies[0].req_id, replies[0].tx_id) == (77, tx)
        assert replies[0].kind in (kind, XS_ERROR)
        return outcome(replies[0])

    def collect(self) -> list[Message]:
        """Take what waits: the replies; events go to `events`."""
        messages, rest = decode(self.connection.outgoing.take())
        assert not rest
        self.events += [self._event(m) for m in messages if m.kind == XS_WATCH_EVENT]
        return [m for m in messages if m.kind != XS_WATCH_EVENT]

    @staticmethod
    def _event(message: Message) -> tuple[bytes, bytes]:
        assert (message.req_id, message.tx_id) == (0, 0)
        path, token, rest = message.payload.split(b"\0")
        assert not rest
        return path, token

    def take_events(self) -> list[tuple[bytes, bytes]]:
        assert not self.collect()
        events, self.events = self.events, []
        return events

    def read(self, path: bytes, tx: int = 0) -> bytes | str:
        return self.ask(xs_wire.XS_READ, path, tx=tx)

    def write(self, path: bytes, value: bytes, tx: int = 0) -> bytes | str:
        return self.ask_raw(xs_wire.XS_WRITE, path + b"\0" + value, tx)

    def mkdir(self, path: bytes, tx: int = 0) -> bytes | str:
        return self.ask(xs_wire.XS_MKDIR, path, tx=tx)

    def rm(self, path: bytes, tx: int = 0) -> bytes | str:
        return self.ask(xs_wire.XS_RM, path, tx=tx)

    def ls(self, path: bytes, tx: int = 0) -> list[bytes] | str:
        reply = self.ask(xs_wire.XS_DIRECTORY, path, tx=tx)
        return reply if isinstance(reply, str) else reply.split(b"\0")[:-1]

    def chmod(self, path: bytes, *entries: bytes, tx: int = 0) -> bytes | str:
        return self.ask(xs_wire.XS_SET_PERMS, path, *entries, tx=tx)

    def perms(self, path: bytes) -> bytes | str:
        return self.ask(xs_wire.XS_GET_PERMS, path)

    def watch(self, path: bytes, token: bytes = b"token") -> bytes | str:
        return self.ask(xs_wire.XS_WATCH, path, token)

    def unwatch(self, path: bytes, token: bytes = b"token") -> bytes | str:
        return self.ask(xs_wire.XS_UNWATCH, path, token)

    def begin(self) -> int:
        return int(self.need(xs_wire.XS_TRANSACTION_START, b"")[:-1])

    def end(self, tx: int, verdict: bytes = b"T") -> bytes | str:
        return self.ask(xs_wire.XS_TRANSACTION_END, verdict, tx=tx)


class Guest:
    """The guest's side of a ring, as honest as the test makes it."""

    def __init__(self) -> None:
        self.page = bytearray(4096)
        self.words = xenstore_domain_interface.array(self.page, 1)[0]
        self.notified = 0
        self.ring: Ring | None = None
        self.soon: list[Callable[[], None]] = []

    def notify(self) -> None:
        self.notified += 1

    def send(self, data: bytes) -> int:
        """As much of `data` as there is room for, without telling the store."""
        producer, consumer = int(self.words["req_prod"]), int(self.words["req_cons"])
        count = min(len(data), 1024 - ((producer - consumer) & 0xFFFFFFFF))
        for index in range(count):
            self.page[(producer + index) % 1024] = data[index]
        self.words["req_prod"] = (producer + count) & 0xFFFFFFFF
        return count

    def receive(self) -> bytes:
        producer, consumer = int(self.words["rsp_prod"]), int(self.words["rsp_cons"])
        count = (producer - consumer) & 0xFFFFFFFF
        assert count <= 1024
        data = bytes(self.page[1024 + (consumer + index) % 1024] for index in range(count))
        self.words["rsp_cons"] = producer
        return data

    def poll(self) -> None:
        assert self.ring
        self.ring.poll()
        self.run_soon()

    def run_soon(self) -> None:
        """The store's loop: what the ring has put off until everybody else had a turn."""
        while self.soon:
            self.soon.pop(0)()

    def converse(self, data: bytes) -> bytes:
        """Send all of it and take everything that comes back."""
        answer = b""
        for _turn in range(10_000):
            data = data[self.send(data) :]
            self.poll()
            received = self.receive()
            answer += received
            if not data and not received:
                return answer
        raise AssertionError("the ring does not come to rest")


class Rings:
    """A toolstack: which domains exist, and the page of each that is connected."""

    def __init__(self, *domids: int) -> None:
        self.existing = set(domids)
        self.guests: dict[int, Guest] = {}
        self.introductions: list[tuple[int, int, int]] = []

    def exists(self, domid: DomId) -> bool:
        return domid in self.existing

    def connect(self, connection: Connection, gfn: int, port: int) -> None:
        domid = connection.domain.domid
        self.introductions.append((domid, gfn, port))
        guest = self.guests.setdefault(domid, Guest())
        guest.ring = Ring(connection, memoryview(guest.page), guest.notify, guest.soon.append)

    def disconnect(self, domid: DomId) -> None:
        del self.guests[domid]


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def snapshot_of_copy(data: dict[str, Any], bench: "Bench") -> dict[str, Any]:
    """What a store says of itself that was made of `data`."""
    copy = Xenstored(bench.toolstack, bench.clock)
    restore(copy, data)
    return msgpack.unpackb(msgpack.packb(snapshot(copy)))  # type: ignore[no-any-return]


class Bench:
    """A store, its domains 0 to 4, and a client that acts for each. Domain 9 exists but is not introduced."""

    def __init__(self) -> None:
        self.toolstack = Rings(1, 2, 3, 4, 9)
        self.clock = Clock()
        self.lines: list[str] = []
        self.xenstored = Xenstored(self.toolstack, self.clock, self.lines.append)
        self.dom0 = Client(self.xenstored.open())
        self.domains = [self.dom0, *(self.introduced(domid) for domid in (1, 2, 3, 4))]

    def introduced(self, domid: int) -> Client:
        """A client without a ring: the connection is what is tested."""
        connection = self.xenstored.introduce(DomId(domid), gfn=1, port=1)
        connection.transport = None
        return Client(connection)

    def take_over(self) -> None:
        """Another store goes on with what this one has been; the control domain's clients connect anew."""
        data = msgpack.unpackb(msgpack.packb(snapshot(self.xenstored)))
        assert snapshot_of_copy(data, self) == data, "what was restored is what was written down"
        self.xenstored = Xenstored(self.toolstack, self.clock, self.lines.append)
        connections = restore(self.xenstored, data)
        self.dom0 = Client(self.xenstored.open())
        self.domains = [self.dom0, *self.domains[1:]]
        for domid, connection in connections.items():
            self.domains[domid].connection = connection

    def home(self, domid: int) -> bytes:
        """The domain's home, made and handed over as the toolstack does."""
        path = b"/local/domain/%d" % domid
        assert self.dom0.mkdir(path) == OK
        assert self.dom0.chmod(path, b"n%d" % domid) == OK
        return path

    def check(self) -> None:
        """The store is sound, and every counter is what a recount says."""
        assert self.xenstored.check() == []
