"""The handlers: one `do_<operation>` per request type, from payload to reply payload.

A handler decodes the whole payload first, then plans, then checks quotas, then performs; it raises a
StoreError as long as nothing has been changed. Payloads are described in docs/misc/xenstore.txt: mostly
nul-terminated strings.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from domains.dom0.xenstore import path as paths
from domains.dom0.xenstore import perms, tree
from domains.dom0.xenstore.connection import Connection
from domains.dom0.xenstore.domain import Domain, Domains
from domains.dom0.xenstore.errors import (
    AlreadyWatched,
    InvalidRequest,
    MemoryExceeded,
    NestedTransaction,
    NoSuchDomain,
    NoSuchTransaction,
    NoSuchWatch,
    QuotaExceeded,
)
from domains.dom0.xenstore.node import Node
from domains.dom0.xenstore.outgoing import Outstanding
from domains.dom0.xenstore.path import Path, home
from domains.dom0.xenstore.perms import Access, Perms
from domains.dom0.xenstore.quota import Limits, Quota
from domains.dom0.xenstore.store import CONTROL_DOMAIN, Charge, Plan, Store, View, cost
from domains.dom0.xenstore.transaction import Transaction
from domains.dom0.xenstore.watch import Watch
from hypervisor.public.io.xs_wire import XENSTORE_PAYLOAD_MAX
from hypervisor.public.types import DomId
from hypervisor.public.xen import DOMID_SELF

OK: Final = b"OK\0"
_DOMID_MAX: Final = 0xFFFF


class StoreServer(Protocol):
    """What handlers use of the store's server (server.py), which dispatches to them."""

    store: Store
    domains: Domains
    limits: Limits
    log: Callable[[str], None]

    def exists(self, domid: DomId) -> bool:
        """Whether there is such a domain."""

    def introduce(self, domid: DomId, gfn: int, port: int) -> Connection:
        """Talk to this domain from now on."""

    def release(self, domid: DomId) -> None:
        """Let go of a domain."""

    def apply(self, plan: Plan, cause: Outstanding | None) -> None:
        """Do all of a plan, and tell the watches."""

    def charge_write(self, connection: Connection) -> None:
        """Charge a write that may have disturbed a transaction."""

    def check(self, in_hand: Outstanding | None) -> list[str]:
        """Recount; what is wrong, in words."""


@dataclass(slots=True)
class Request:
    """One request of one client. `first_event`: a watch that is to fire once, after the reply."""

    xenstored: StoreServer
    connection: Connection
    payload: bytes
    transaction: Transaction | None
    transaction_id: int
    cause: Outstanding
    first_event: Watch | None = None

    @property
    def view(self) -> View:
        """What the request reads: its transaction, or the store."""
        return self.transaction or self.xenstored.store

    # Decoding

    def strings(self) -> list[bytes]:
        """The nul-terminated strings; what follows the last nul does not count."""
        return self.payload.split(b"\0")[:-1]

    def only_string(self) -> bytes:
        """The one string that this payload is. Raises InvalidRequest if it is anything else."""
        if self.payload.find(b"\0") != len(self.payload) - 1 or not self.payload:
            raise InvalidRequest("one string expected")
        return self.payload[:-1]

    def path(self, raw: bytes, allow_special: bool = False) -> Path:
        """The path that the client named. InvalidRequest: it is no valid path, or too long."""
        path = paths.parse(raw, self.connection.base, allow_special)
        limits = self.connection.limits
        if limits and limits.exceeded(Quota.PATH_MAX, paths.quota_length(path)):
            raise InvalidRequest("path quota")
        return path

    def node(self, path: Path, access: Access) -> Node:
        """The node at `path`. StoreError: it is not there, or may not be used so."""
        return tree.lookup(self.view, self.connection.who, path, access)

    # Performing

    def perform(self, plan: Plan) -> None:
        """Check the quotas, then do it all: in the transaction, or in the store with events to the
        watches."""
        if not plan.changes:
            return
        if self.transaction:
            with self.transaction.failing():
                self._check_limits(plan)
                self.transaction.apply(plan)
            return
        self._check_limits(plan)
        self.xenstored.apply(plan, self.cause)
        self.xenstored.charge_write(self.connection)

    def _check_limits(self, plan: Plan) -> None:
        """Whether the domain, if limits hold for it, may do this. A node must stay below `node-size`, as in Xen."""
        limits = self.connection.limits
        if limits is None:
            return
        for path, node in plan.changes.items():
            old = self.view.get(path)
            grows = node and (old is None or node.size > old.size)
            if node and grows and limits.exceeded(Quota.NODE_SIZE, node.size + 1):
                raise QuotaExceeded(Quota.NODE_SIZE)
        planned = self.transaction.charges if self.transaction else {}
        for domid, charge in cost(plan.changes, self.view.get).items():
            nodes, memory = planned.get(domid, (0, 0))
            total = Charge(
                nodes + charge.nodes if charge.nodes > 0 else 0,
                memory + charge.memory if charge.memory > 0 else 0,
            )
            self.check_charge(domid, total, limits)

    def check_charge(self, domid: DomId, charge: Charge, limits: Limits) -> None:
        """Whether `domid`, who will own the nodes, can bear it (rule S2). The control domain always can."""
        usage = self.xenstored.domains.usage_of(domid)
        if domid == CONTROL_DOMAIN:
            return
        if charge.nodes > 0 and limits.exceeded(Quota.NODES, usage[Quota.NODES] + charge.nodes):
            raise QuotaExceeded(Quota.NODES)
        if charge.memory > 0 and limits.exceeded(Quota.MEMORY, usage[Quota.MEMORY] + charge.memory):
            raise MemoryExceeded(Quota.MEMORY)

    def check_count(self, quota: Quota) -> None:
        """Whether this client's domain may have one more (rule S2)."""
        limits = self.connection.limits
        if limits and limits.exceeded(quota, self.connection.domain.usage[quota] + 1):
            raise QuotaExceeded(quota)


def parse_domid(raw: bytes) -> DomId:
    """A domain id in decimal. InvalidRequest."""
    if not raw.isdigit() or len(raw) > 5 or int(raw) > _DOMID_MAX:
        raise InvalidRequest("domid")
    return DomId(int(raw))


def parse_number(raw: bytes) -> int:
    """A decimal number, which may be negative."""
    digits = raw[1:] if raw[:1] == b"-" else raw
    if not digits.isdigit() or len(digits) > 20:
        raise InvalidRequest("number")
    return int(raw)


# Nodes


def do_directory(request: Request) -> bytes:
    """XS_DIRECTORY: the names of a node's children."""
    return request.node(request.path(request.only_string()), Access.READ).children


def do_directory_part(request: Request) -> bytes:
    """As many names as fit, from a byte offset on. An empty string after them says that these were the
    last."""
    if len(request.strings()) != 2:
        raise InvalidRequest("path and offset expected")
    raw, offset = request.strings()
    start = parse_number(offset)
    node = request.node(request.path(raw), Access.READ)
    if start < 0:
        raise InvalidRequest("offset")
    reply = b"%d\0" % node.generation
    rest = node.children[start:]
    room = XENSTORE_PAYLOAD_MAX - len(reply) - 1
    if len(rest) <= room:
        return reply + rest + b"\0"
    return reply + rest[: rest.rfind(b"\0", 0, room) + 1]


def do_read(request: Request) -> bytes:
    """XS_READ: a node's value."""
    return request.node(request.path(request.only_string()), Access.READ).value


def do_write(request: Request) -> bytes:
    """XS_WRITE: sets a value; makes the node, and its parents, if need be."""
    raw, nul, value = request.payload.partition(b"\0")
    if not nul:
        raise InvalidRequest("no path")
    request.perform(tree.plan_write(request.view, request.connection.who, request.path(raw), value))
    return OK


def do_mkdir(request: Request) -> bytes:
    """XS_MKDIR: makes a node unless it is there."""
    path = request.path(request.only_string())
    request.perform(tree.plan_mkdir(request.view, request.connection.who, path))
    return OK


def do_rm(request: Request) -> bytes:
    """XS_RM: removes a node and all below it."""
    path = request.path(request.only_string())
    request.perform(tree.plan_rm(request.view, request.connection.who, path))
    return OK


def do_get_perms(request: Request) -> bytes:
    """XS_GET_PERMS: a node's permissions."""
    path = request.path(request.only_string(), allow_special=True)
    return perms.format_perms(request.node(path, Access.READ).perms)


def do_set_perms(request: Request) -> bytes:
    """XS_SET_PERMS: sets a node's permissions, and so its owner."""
    raw, *entries = request.strings() or [b""]
    wanted = perms.parse(entries)
    path = request.path(raw, allow_special=True)
    limits = request.connection.limits
    if limits and limits.exceeded(Quota.NODE_PERMISSIONS, len(wanted)):
        raise QuotaExceeded(Quota.NODE_PERMISSIONS)
    plan = tree.plan_set_perms(request.view, request.connection.who, path, _known(request, wanted))
    if not request.xenstored.exists(wanted[0].domid):
        raise NoSuchDomain(wanted[0].domid)
    request.perform(plan)
    return OK


def _known(request: Request, wanted: Perms) -> Perms:
    """Entries for domains that do not exist are kept, without effect for ever (rule S1)."""
    return tuple(perm._replace(ignored=not request.xenstored.exists(perm.domid)) for perm in wanted)


# Watches


def do_watch(request: Request) -> bytes:
    """XS_WATCH: registers a watch, whose first event comes at once."""
    if len(request.strings()) != 2:
        raise InvalidRequest("path and token expected")
    raw, token = request.strings()
    connection = request.connection
    path = request.path(raw, allow_special=True)
    if (path, token) in connection.watches:
        raise AlreadyWatched(path)
    request.check_count(Quota.WATCHES)
    hidden = len(connection.base) + 1 if paths.is_relative(raw) else 0
    watch = Watch(connection, path, token, hidden)
    memory = connection.domain.usage[Quota.MEMORY] + watch.footprint
    if connection.limits and connection.limits.exceeded(Quota.MEMORY, memory):
        raise MemoryExceeded("watch")
    connection.add_watch(watch)
    request.first_event = watch
    return OK


def do_unwatch(request: Request) -> bytes:
    """XS_UNWATCH: forgets a watch."""
    if len(request.strings()) != 2:
        raise InvalidRequest("path and token expected")
    raw, token = request.strings()
    watch = request.connection.watches.get((request.path(raw, allow_special=True), token))
    if watch is None:
        raise NoSuchWatch
    request.connection.remove_watch(watch)
    return OK


def do_reset_watches(request: Request) -> bytes:
    """Also ends all transactions, the one that this request may be in among them."""
    request.connection.drop_watches_and_transactions()
    return OK


# Transactions


def do_transaction_start(request: Request) -> bytes:
    """XS_TRANSACTION_START: opens a transaction; its id."""
    if request.transaction:
        raise NestedTransaction
    request.check_count(Quota.TRANSACTIONS)
    connection = request.connection
    transaction = Transaction(request.xenstored.store, connection.domain.usage, connection.limits)
    return b"%d\0" % connection.open_transaction(transaction)


def do_transaction_end(request: Request) -> bytes:
    """Whatever comes of the commit, the transaction is over."""
    verdict = request.only_string()
    if verdict not in (b"T", b"F"):
        raise InvalidRequest("T or F expected")
    transaction = request.transaction
    if transaction is None:
        raise NoSuchTransaction
    del request.connection.transactions[request.transaction_id]
    transaction.close()
    if verdict == b"T":
        _commit(request, transaction)
    return OK


def _commit(request: Request, transaction: Transaction) -> None:
    """All or nothing (rule S3): what can be refused is refused before the first change."""
    changes = transaction.changes()
    limits = request.connection.limits
    if limits:
        for domid, charge in cost(changes, request.xenstored.store.get).items():
            request.check_charge(domid, charge, limits)
    request.xenstored.apply(Plan(changes, transaction.events), request.cause)
    if changes:
        request.xenstored.charge_write(request.connection)


# Domains


def _introduced(request: Request) -> "Domain":
    """The introduced domain that the payload names: neither the control domain nor the caller's own."""
    domid = parse_domid(request.only_string())
    if domid == CONTROL_DOMAIN:
        raise InvalidRequest("the control domain")
    domain = request.xenstored.domains.find(domid)
    if domain is None or not domain.introduced:
        raise NoSuchDomain(domid)
    return domain


def do_introduce(request: Request) -> bytes:
    """XS_INTRODUCE: connects a domain by its ring, for the toolstack."""
    arguments = request.strings()
    if len(arguments) < 3:
        raise InvalidRequest("domid, frame and port expected")
    domid, gfn, port = parse_domid(arguments[0]), parse_number(arguments[1]), parse_number(arguments[2])
    if port <= 0:
        raise InvalidRequest("port")
    request.xenstored.introduce(domid, gfn, port)
    return OK


def do_release(request: Request) -> bytes:
    """XS_RELEASE: disconnects a domain, for the toolstack."""
    request.xenstored.release(_introduced(request).domid)
    return OK


def do_resume(request: Request) -> bytes:
    """XS_RESUME: the domain runs again after it was shut down."""
    _introduced(request).shutdown = False
    return OK


def do_set_target(request: Request) -> bytes:
    """XS_SET_TARGET: lets a domain act for another."""
    arguments = request.strings()
    if len(arguments) < 2:
        raise InvalidRequest("two domids expected")
    domains = [request.xenstored.domains.find(parse_domid(raw)) for raw in arguments[:2]]
    domain, target = domains
    if not domain or not target or not domain.introduced or not target.introduced:
        raise NoSuchDomain
    domain.target = target.domid
    return OK


def do_get_domain_path(request: Request) -> bytes:
    """XS_GET_DOMAIN_PATH: a domain's own directory."""
    return home(parse_domid(request.only_string())).encode("ascii") + b"\0"


def do_is_domain_introduced(request: Request) -> bytes:
    """XS_IS_DOMAIN_INTRODUCED: T or F."""
    domid = parse_domid(request.only_string())
    domain = request.xenstored.domains.find(domid)
    return b"T\0" if domid == DOMID_SELF or (domain and domain.introduced) else b"F\0"
