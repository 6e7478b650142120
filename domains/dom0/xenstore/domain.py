"""What the store knows about one domid: what it uses, whether it is introduced, how it is connected.

A record lives from the first time the domain matters (it is introduced, or given a node) to its release, and
nothing of it is left for the next bearer of the same domid (XSA-417, 419: quota starts at 0, rights are
gone).
"""

from collections.abc import Callable, Iterator

from domains.dom0.xenstore.connection import Connection
from domains.dom0.xenstore.quota import Usage
from domains.dom0.xenstore.ratelimit import Credit, Reserve
from domains.dom0.xenstore.store import CONTROL_DOMAIN
from hypervisor.public.types import DomId


class Domain:
    """`target` is the domain that this one may act for (SET_TARGET); `connection` is its ring's."""

    def __init__(self, domid: DomId, credit: Credit) -> None:
        self.domid = domid
        self.usage = Usage()
        self.credit = credit
        self.target: DomId | None = None
        self.shutdown = False
        self.connection: Connection | None = None

    @property
    def privileged(self) -> bool:
        """Whether it is the control domain."""
        return self.domid == CONTROL_DOMAIN

    @property
    def introduced(self) -> bool:
        """Whether the toolstack has introduced it, so that it has a connection."""
        return self.privileged or self.connection is not None


class Domains:
    """All records, by domid."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._reserve = Reserve()
        self._domains: dict[DomId, Domain] = {}

    def __iter__(self) -> Iterator[Domain]:
        return iter(self._domains.values())

    def find(self, domid: DomId) -> Domain | None:
        """What is known of the domain; None: nothing."""
        return self._domains.get(domid)

    def get(self, domid: DomId) -> Domain:
        """The record, which is made if there is none."""
        domain = self._domains.get(domid)
        if domain is None:
            domain = Domain(domid, Credit(self._reserve, self._clock()))
            self._domains[domid] = domain
        return domain

    def usage_of(self, domid: DomId) -> Usage:
        """What the domain uses; a record is made for it."""
        return self.get(domid).usage

    def forget(self, domid: DomId) -> None:
        """The domain is gone. Nobody may act for it any more."""
        domain = self._domains.pop(domid, None)
        if domain:
            domain.credit.close()
        for other in self._domains.values():
            if other.target == domid:
                other.target = None
