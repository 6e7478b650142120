"""Xenstored: the store, its clients and its domains, as one object that is fed with bytes.

    xenstored = Xenstored(toolstack)
    client = xenstored.open()                 a client of the control domain, such as a socket's
    client.feed(request)                      served at once, as far as fairness and quotas allow
    client.outgoing.take()                    replies and events

    xenstored.introduce(domid, gfn, port)     a guest: `toolstack.connect` attaches its ring
    xenstored.shutdown(domid)                 it has shut down: @releaseDomain fires
    xenstored.release(domid)                  it is gone: so are its nodes, rights, watches, transactions

    delay = xenstored.run()                   what had to wait; once per turn of the caller's loop

The control domain (0) is privileged: no permission and no quota holds for it, and only it manages domains.
The domid of a client is a property of its connection, never of a message (rule V2).
"""

import time
from collections.abc import Callable, Iterator
from typing import Protocol

from domains.dom0.xenstore.connection import Connection, Death, Shared, Transport
from domains.dom0.xenstore.dispatch import dispatch
from domains.dom0.xenstore.domain import Domain, Domains
from domains.dom0.xenstore.errors import InvalidRequest, NoSuchDomain, StoreError
from domains.dom0.xenstore.outgoing import Outstanding
from domains.dom0.xenstore.path import INTRODUCE_DOMAIN, RELEASE_DOMAIN, ROOT, Path, is_special
from domains.dom0.xenstore.perms import owner_of
from domains.dom0.xenstore.quota import Limits, Quota
from domains.dom0.xenstore.store import CONTROL_DOMAIN, Charge, Match, Plan, Store
from domains.dom0.xenstore.tree import plan_removal
from domains.dom0.xenstore.watch import Watches
from hypervisor.public.io.xs_wire import xsd_sockmsg
from hypervisor.public.types import DomId
from hypervisor.public.xen import DOMID_FIRST_RESERVED


class Toolstack(Protocol):
    """What the store must ask of whoever creates domains and maps their rings."""

    def exists(self, domid: DomId) -> bool:
        """Whether there is such a domain now, introduced or not."""
        ...

    def connect(self, connection: Connection, gfn: int, port: int) -> None:
        """Map the domain's ring, bind its event channel, and set `connection.transport`; if the domain was
        connected before, drop that ring first. Raises errors.CannotConnect."""
        ...

    def disconnect(self, domid: DomId) -> None:
        """Unmap the ring and close the channel."""
        ...


class Xenstored:
    """`clock` gives seconds and never goes back; `log` takes lines for the operator."""

    def __init__(
        self,
        toolstack: Toolstack,
        clock: Callable[[], float] = time.monotonic,
        log: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self.toolstack = toolstack
        self.log = log
        self.limits = Limits()
        self.domains = Domains(clock)
        self.domains.get(CONTROL_DOMAIN)
        self.store = Store(self.domains.usage_of)
        self.watches = Watches()
        self._clock = clock
        self._shared = Shared(self.limits, self.watches, self._handle, clock)
        self._connections: dict[Connection, None] = {}

    def _handle(
        self, connection: Connection, header: xsd_sockmsg, payload: bytes, cause: Outstanding
    ) -> None:
        dispatch(self, connection, header, payload, cause)

    # Clients

    def open(self, domid: DomId = CONTROL_DOMAIN, transport: Transport | None = None) -> Connection:
        """A new connection that acts for `domid`."""
        connection = Connection(self.domains.get(domid), self._shared)
        connection.transport = transport
        self._connections[connection] = None
        return connection

    def close(self, connection: Connection) -> None:
        """The client has gone. May be called again."""
        self._connections.pop(connection, None)
        connection.transport = None
        connection.kill(Death.CLOSED)

    def run(self) -> float | None:
        """Serve what had to wait, drop events whose time is over.

        Returns in how many seconds it must be called again: 0 for "there is more", None for "when bytes have
        moved".
        """
        if not self._shared.expiring and not self._shared.waiting:
            return None
        return min(self._delays(), default=None)

    def _delays(self) -> Iterator[float]:
        now = self._clock()
        for connection in list(self._shared.expiring):
            deadline = connection.outgoing.next_deadline()
            if deadline is not None and deadline <= now:
                connection.outgoing.expire(now)
                deadline = connection.outgoing.next_deadline()
            if deadline is None:
                del self._shared.expiring[connection]
            else:
                yield deadline - now
        for connection in list(self._shared.waiting):
            served = connection.serve()
            if not connection.has_request:
                self._shared.waiting.pop(connection, None)
            if served and connection.transport and connection.room:
                connection.transport.input_wanted()
            wait = connection.wait()
            if connection in self._shared.waiting and wait is not None:
                yield wait

    # Domains

    def exists(self, domid: DomId) -> bool:
        """Whether there is such a domain."""
        return domid == CONTROL_DOMAIN or self.toolstack.exists(domid)

    def introduce(self, domid: DomId, gfn: int = 0, port: int = 0) -> Connection:
        """Talk to this domain from now on. Again for the same domain: its connection starts anew.

        Raises InvalidRequest for the control domain and reserved ids, NoSuchDomain, CannotConnect.
        """
        if not CONTROL_DOMAIN < domid < DOMID_FIRST_RESERVED:
            raise InvalidRequest(domid)
        if not self.toolstack.exists(domid):
            raise NoSuchDomain(domid)
        domain = self.domains.get(domid)
        known = domain.introduced
        if domain.connection:
            self.close(domain.connection)
        domain.connection = self.open(domid)
        try:
            self.toolstack.connect(domain.connection, gfn, port)
        except StoreError:
            self.close(domain.connection)
            domain.connection = None
            raise
        if not known:
            domain.shutdown = False
            self._fire_special(INTRODUCE_DOMAIN)
        return domain.connection

    def is_introduced(self, domid: DomId) -> bool:
        """Whether the store talks to this domain."""
        domain = self.domains.find(domid)
        return domain is not None and domain.introduced

    def shutdown(self, domid: DomId) -> None:
        """The domain has shut down or crashed, but still exists: @releaseDomain, once (until RESUME)."""
        domain = self.domains.find(domid)
        if domain and domain.introduced and not domain.shutdown:
            domain.shutdown = True
            self._fire_special(RELEASE_DOMAIN)

    def resume(self, domid: DomId) -> None:
        """The domain runs again after it was shut down."""
        domain = self.domains.find(domid)
        if domain is not None:
            domain.shutdown = False

    def release(self, domid: DomId) -> None:
        """Let go of a domain, introduced or not: to be called for every domain that ceases to exist.

        Nothing remains that the next bearer of the domid could inherit (rules S1, S2 and K5; XSA-322, 417,
        419).
        """
        domain = self.domains.find(domid)
        if domain is None or domain.privileged:
            return
        introduced = domain.introduced
        for connection in [c for c in self._connections if c.domain is domain]:
            self.close(connection)
        if introduced:
            self.toolstack.disconnect(domid)
        self._forget_permissions(domid)
        self.domains.forget(domid)
        if introduced:
            self._fire_special(RELEASE_DOMAIN)

    def _forget_permissions(self, domid: DomId) -> None:
        """Remove what the domain owned, with all below it, and its entries in other nodes' permissions."""
        for path in self.store.paths_naming(domid):
            node = self.store.get(path)
            if node is None:  # it was below another one
                continue
            if owner_of(node.perms) != domid or path == ROOT or is_special(path):
                self.store.forget(path, domid)
            else:
                self.apply(plan_removal(self.store, path), None)
        for connection in self._connections:
            for transaction in connection.transactions.values():
                transaction.forget(domid)

    # Changes

    def apply(self, plan: Plan, cause: Outstanding | None) -> None:
        """Do all of a plan, which has been checked, and tell the watches."""
        before = self.store.apply(plan.changes)
        for path, match in plan.events.items():
            for watch in self.watches.told(path, match, before, self.store):
                watch.watcher.send_event(watch, path, cause)

    def charge_write(self, connection: Connection) -> None:
        """A write that may have disturbed somebody's open transaction costs credit (rule S3)."""
        if self.store.open_transactions and not connection.domain.privileged:
            connection.domain.credit.spend(self._clock())

    def _fire_special(self, path: Path) -> None:
        self.apply(Plan({}, {path: Match.EXACT}), None)

    # Recount

    def check(self, in_hand: Outstanding | None = None) -> list[str]:
        """Recount the tree and what every domain uses; what does not hold, in words. Empty for a sound store.

        `in_hand`: the request that asks for it, if one does; it is not over yet.
        """
        owned = self.store.owned()
        causes = {cause for connection in self._connections for cause in connection.outgoing.causes()}
        if in_hand:
            causes.add(in_hand)
        wrong = self.store.check()
        for domain in self.domains:
            outstanding = sum(cause.usage is domain.usage for cause in causes)
            actual = self._recount(domain, owned.get(domain.domid, Charge(0, 0)), outstanding)
            wrong += [
                f"domain {domain.domid}: {quota.value} {domain.usage[quota]}, really {amount}"
                for quota, amount in actual.items()
                if domain.usage[quota] != amount
            ]
        return wrong

    def _recount(self, domain: Domain, owned: Charge, outstanding: int) -> dict[Quota, int]:
        mine = [connection for connection in self._connections if connection.domain is domain]
        watches = [watch.footprint for connection in mine for watch in connection.watches.values()]
        transactions = [t.footprint for connection in mine for t in connection.transactions.values()]
        messages = [connection.outgoing.footprint for connection in mine]
        return {
            Quota.NODES: owned.nodes,
            Quota.WATCHES: len(watches),
            Quota.OUTSTANDING: outstanding,
            Quota.MEMORY: owned.memory + sum(watches) + sum(transactions) + sum(messages),
            Quota.TRANSACTIONS: len(transactions),
        }
