"""One client of the store: what it has sent and not finished, what waits for it, its transactions and
watches.

    feed(bytes) -> [ header | payload ] -> one request at a time -> handler -> outgoing

A request is taken up only while the client may have another one outstanding (rule S2); what it sends beyond
that stays in the input buffer, for which `room` tells the transport how much more it may read. A message that
announces more than XENSTORE_PAYLOAD_MAX bytes ends this connection and nothing else (rule S4).

The connection knows no socket and no ring: those are a `Transport`, which reads `outgoing`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Protocol

from domains.dom0.xenstore.outgoing import EVENT_TIMEOUT, Message, Outgoing, Outstanding
from domains.dom0.xenstore.path import Path, home
from domains.dom0.xenstore.perms import Who
from domains.dom0.xenstore.quota import Limits, Quota, Usage
from domains.dom0.xenstore.ratelimit import Credit
from domains.dom0.xenstore.transaction import Transaction
from domains.dom0.xenstore.watch import Watch, Watches
from hypervisor.public.io.xs_wire import XENSTORE_PAYLOAD_MAX, XS_WATCH_EVENT, xsd_sockmsg
from hypervisor.public.types import DomId

HEADER_SIZE: Final = xsd_sockmsg.sizeof
MESSAGE_MAX: Final = HEADER_SIZE + XENSTORE_PAYLOAD_MAX
REQUESTS_PER_TURN: Final = 32
"""After so many requests it is the others' turn (rule S3)."""
BACKLOG: Final = 64 * 1024
"""A privileged client with so many bytes not taken is not served until it takes some."""
OUTGOING_MAX: Final = 1024 * 1024
"""A privileged client with so many bytes not taken is given up. Unprivileged ones have the memory quota."""


class Bearer(Protocol):
    """The domain that a connection belongs to, and whose account it is charged to: a record of domain.py."""

    domid: DomId
    usage: Usage
    credit: Credit
    target: DomId | None

    @property
    def privileged(self) -> bool:
        """Whether it is the control domain."""


class Death(Enum):
    """Why a connection is no more."""

    CLOSED = "closed"
    PROTOCOL = "a message longer than XENSTORE_PAYLOAD_MAX"
    OVERFLOW = "too much left unread"
    RING_INDEX = "impossible ring index"


class Transport(Protocol):
    """What carries a connection's bytes. Both may be called while another client is being served."""

    def output_ready(self) -> None:
        """There is something to take from `outgoing`, or the connection has died. Must not feed."""
        ...

    def input_wanted(self) -> None:
        """There is `room` again. Called only from `Xenstored.run`, and may feed."""
        ...


Handler = Callable[["Connection", xsd_sockmsg, bytes, Outstanding], None]


@dataclass(eq=False)
class Shared:
    """What all connections of one store have in common.

    `waiting`: connections with a whole request that could not be served yet. `expiring`: those with events
    that will be dropped if nobody takes them.
    """

    limits: Limits
    watches: Watches
    handler: Handler
    clock: Callable[[], float]
    waiting: "dict[Connection, None]" = field(default_factory=dict)
    expiring: "dict[Connection, None]" = field(default_factory=dict)


class Connection:
    """Made by `Xenstored.open` and `Xenstored.introduce`."""

    def __init__(self, domain: Bearer, shared: Shared) -> None:
        self.domain = domain
        self.outgoing = Outgoing(domain.usage)
        self.transactions: dict[int, Transaction] = {}
        self.watches: dict[tuple[Path, bytes], Watch] = {}
        self.dead: Death | None = None
        self.transport: Transport | None = None
        self._shared = shared
        self._input = bytearray()
        self._next_transaction = 1

    @property
    def who(self) -> Who:
        """For whom permissions are checked."""
        return Who(self.domain.domid, self.domain.privileged, self.domain.target)

    @property
    def limits(self) -> Limits | None:
        """The limits that hold for this client: none for a privileged one."""
        return None if self.domain.privileged else self._shared.limits

    @property
    def base(self) -> Path:
        """Where relative paths start."""
        return home(self.domain.domid)

    # Input

    @property
    def room(self) -> int:
        """How many bytes the transport may feed now."""
        return 0 if self.dead else max(0, MESSAGE_MAX - len(self._input))

    @property
    def has_request(self) -> bool:
        """Whether a whole request waits to be served."""
        return self._complete() is not None

    def wait(self) -> float | None:
        """Seconds until the next request may be served: 0 for now, None for "when others have read"."""
        if self.domain.privileged:
            return None if len(self.outgoing) >= BACKLOG else 0.0
        if self._shared.limits.exceeded(Quota.OUTSTANDING, self.domain.usage[Quota.OUTSTANDING] + 1):
            return None
        return self.domain.credit.wait(self._shared.clock())

    def feed(self, data: bytes) -> None:
        """What the client has sent, in pieces of any size. Serves as many requests as it may."""
        if self.dead:
            return
        self._input += data
        self.serve()
        if self.has_request:
            self._shared.waiting[self] = None

    def serve(self) -> bool:
        """Up to REQUESTS_PER_TURN of the waiting requests. Returns whether there were any."""
        for served in range(REQUESTS_PER_TURN):
            header = self._complete()
            if header is None or self.wait() != 0.0:
                return served > 0
            payload = bytes(self._input[HEADER_SIZE : HEADER_SIZE + header.len])
            del self._input[: HEADER_SIZE + header.len]
            self._shared.handler(self, header, payload, Outstanding(self.domain.usage))
        return True

    def _complete(self) -> xsd_sockmsg | None:
        """The header of the first request, if all of it has come."""
        if self.dead or len(self._input) < HEADER_SIZE:
            return None
        header = xsd_sockmsg.unpack(self._input)
        if header.len > XENSTORE_PAYLOAD_MAX:
            self.kill(Death.PROTOCOL)
            return None
        return header if len(self._input) >= HEADER_SIZE + header.len else None

    # Output

    def send_reply(self, header: xsd_sockmsg, kind: int, payload: bytes, cause: Outstanding) -> None:
        """Queues the answer to the request with this header, which becomes the answer's."""
        header.type, header.len = kind, len(payload)
        self._send(Message(header.pack() + payload, cause, is_event=False))

    def send_event(self, watch: Watch, path: Path, cause: Outstanding | None) -> None:
        """Tell of a change at `path`. An event that would be too long (rule S4, XSA-324), that waits already,
        or for which an unprivileged client has no memory left (rule S2), is dropped."""
        payload = watch.payload(path)
        data = xsd_sockmsg(type=XS_WATCH_EVENT, len=len(payload)).pack() + payload
        if self.dead or len(payload) > XENSTORE_PAYLOAD_MAX:
            return
        if path[0] != "@" and self.outgoing.holds_event(data):
            return
        used = self.domain.usage[Quota.MEMORY] + len(data)
        if self.limits and self.limits.exceeded(Quota.MEMORY, used):
            return
        deadline = None
        if self.limits:
            deadline = self._shared.clock() + EVENT_TIMEOUT
            self._shared.expiring[self] = None
        self._send(Message(data, cause, is_event=True, deadline=deadline))

    def _send(self, message: Message) -> None:
        if self.dead:
            return
        self.outgoing.append(message)
        if self.domain.privileged and len(self.outgoing) > OUTGOING_MAX:
            self.kill(Death.OVERFLOW)
        elif self.transport:
            self.transport.output_ready()

    # Transactions and watches

    def open_transaction(self, transaction: Transaction) -> int:
        """Its id: 32 bits, never 0, not one that is in use."""
        while self._next_transaction in self.transactions or self._next_transaction == 0:
            self._next_transaction = (self._next_transaction + 1) & 0xFFFFFFFF
        number = self._next_transaction
        self._next_transaction = (number + 1) & 0xFFFFFFFF
        self.transactions[number] = transaction
        return number

    def add_watch(self, watch: Watch) -> None:
        """Registers a watch and charges the domain for it."""
        self.watches[watch.path, watch.token] = watch
        self._shared.watches.add(watch)
        self.domain.usage.add(Quota.WATCHES, 1)
        self.domain.usage.add(Quota.MEMORY, watch.footprint)

    def remove_watch(self, watch: Watch) -> None:
        """Forgets a watch."""
        del self.watches[watch.path, watch.token]
        self._shared.watches.remove(watch)
        self.domain.usage.add(Quota.WATCHES, -1)
        self.domain.usage.add(Quota.MEMORY, -watch.footprint)

    def drop_watches_and_transactions(self) -> None:
        """Forgets all watches and open transactions, as XS_RESET_WATCHES asks."""
        for watch in list(self.watches.values()):
            self.remove_watch(watch)
        for transaction in self.transactions.values():
            transaction.close()
        self.transactions.clear()

    # Another store takes over

    def unfinished(self) -> tuple[bytes, list[tuple[bytes, bool]]]:
        """What the client has sent of its next requests, and the messages that it has not taken (and whether each is an
        event); of one that it has begun to take only the rest.
        """
        return bytes(self._input), self.outgoing.waiting()

    def take_over(self, sent: bytes, waiting: list[Message]) -> None:
        """Go on where another store's connection with the client was."""
        for message in waiting:
            self.outgoing.append(message)
        self.feed(sent)

    # The end

    def reset(self) -> None:
        """As if it had just been opened: no watch, transaction or byte is left."""
        self.drop_watches_and_transactions()
        self._input.clear()
        self.outgoing.clear()
        self._shared.waiting.pop(self, None)
        self._shared.expiring.pop(self, None)

    def kill(self, death: Death) -> None:
        """End this connection, and nothing else. Its transport sees `dead`."""
        if self.dead:
            return
        self.reset()
        self.dead = death
        if self.transport:
            self.transport.output_ready()
