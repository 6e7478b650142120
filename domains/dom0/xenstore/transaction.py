"""A transaction: an overlay over the store, and the record of what it has looked at.

    first get of a path     the node (or its absence) is remembered in `seen`: later gets see the same
    changes                 go to the overlay
    commit                  everything in `seen` must still be there, of the same generation; else Conflict

"Changed by someone else" is another generation: the same rule as that of Xen's C xenstored. A node is
read before it is written, and creating or removing a child changes the
parent, so every conflict shows in `seen`; changes elsewhere in the tree do not disturb (rule S3).

Starting costs nothing, and a transaction holds only what it touches: counted as memory of its domain, and
limited in the number of nodes (rule S2). A change that is refused for a quota breaks the transaction: its end
commits nothing, or else half of what the client meant would be done (rule S3; `fail_transaction` in Xen's
tools/xenstored). A refusal for lack of rights, or of a node, does not.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from domains.dom0.xenstore.errors import Conflict, MemoryExceeded, QuotaExceeded, TransactionFailed
from domains.dom0.xenstore.node import Node
from domains.dom0.xenstore.path import Path
from domains.dom0.xenstore.perms import names, without
from domains.dom0.xenstore.quota import Limits, Quota, Usage
from domains.dom0.xenstore.store import CONTROL_DOMAIN, Changes, Charge, Match, Plan, Store, cost, footprint
from hypervisor.public.types import DomId

_ENTRY_SIZE: Final = 64  # what remembering one node costs, besides its path


class Transaction:
    """`limits` is None for the control domain."""

    def __init__(self, store: Store, usage: Usage, limits: Limits | None) -> None:
        self._store = store
        self._usage = usage
        self._limits = limits
        self._seen: Changes = {}
        self._overlay: Changes = {}
        self._memory = 0
        self._failed = False
        self._spoilt = False
        self.events: dict[Path, Match] = {}
        self.charges: dict[DomId, Charge] = {}
        usage.add(Quota.TRANSACTIONS, 1)
        store.open_transactions += 1

    def get(self, path: Path) -> Node | None:
        """The node as this transaction sees it. Raises QuotaExceeded or MemoryExceeded (rule S2)."""
        if path in self._overlay:
            return self._overlay[path]
        if path not in self._seen:
            if self._limits and self._limits.exceeded(Quota.TRANSACTION_NODES, len(self._seen) + 1):
                self._failed = True  # of a lookup, too
                raise QuotaExceeded(Quota.TRANSACTION_NODES)
            self._hold(_ENTRY_SIZE + len(path))
            self._seen[path] = self._store.get(path)
        return self._seen[path]

    def cost(self, plan: Plan) -> dict[DomId, Charge]:
        """What the commit would cost each domain, if `plan` were applied now."""
        total = dict(self.charges)
        for domid, charge in cost(plan.changes, self.get).items():
            nodes, memory = total.get(domid, (0, 0))
            total[domid] = Charge(nodes + charge.nodes, memory + charge.memory)
        return total

    def apply(self, plan: Plan) -> None:
        """Do it within the transaction. Events wait for the commit. Raises MemoryExceeded, having done
        nothing."""
        charges = self.cost(plan)
        growth = 0
        for path, node in plan.changes.items():
            old = self._overlay.get(path)
            growth += (footprint(path, node) if node else 0) - (footprint(path, old) if old else 0)
        self._hold(growth)
        self.charges = charges
        for path, node in plan.changes.items():
            self._overlay[path] = node and node.stamped(self._store.next_generation())
        for path, match in plan.events.items():
            if self.events.get(path) is not Match.SUBTREE:
                self.events[path] = match

    def _hold(self, amount: int) -> None:
        limits = self._limits
        if limits and amount > 0 and limits.exceeded(Quota.MEMORY, self._usage[Quota.MEMORY] + amount):
            self._failed = True
            raise MemoryExceeded("transaction")
        self._memory += amount
        self._usage.add(Quota.MEMORY, amount)

    def changes(self) -> Changes:
        """All that a commit changes. Raises TransactionFailed, or Conflict when it must be tried again."""
        if self._failed:
            raise TransactionFailed
        if self._spoilt:
            raise Conflict("domain")
        for path, node in self._seen.items():
            now = self._store.get(path)
            if (now and now.generation) != (node and node.generation):
                raise Conflict(path)
        return {
            path: node
            for path, node in self._overlay.items()
            if node is not None or self._store.get(path) is not None
        }

    @contextmanager
    def failing(self) -> Iterator[None]:
        """A quota that refuses what the block does breaks the transaction."""
        try:
            yield
        except (QuotaExceeded, MemoryExceeded):
            self._failed = True
            raise

    def forget(self, domid: DomId) -> None:
        """A domain is gone: what this transaction creates from now on takes over no rights of it. If a node that it
        wrote already names the domain, the commit will be a Conflict.
        """
        for path, node in self._seen.items():
            if node and names(node.perms, domid):
                self._seen[path] = node.with_perms(without(node.perms, domid, CONTROL_DOMAIN))
        if any(node and names(node.perms, domid) for node in self._overlay.values()):
            self._spoilt = True

    @property
    def footprint(self) -> int:
        """Bytes of `Quota.MEMORY`, counted afresh."""
        seen = sum(_ENTRY_SIZE + len(path) for path in self._seen)
        return seen + sum(footprint(path, node) for path, node in self._overlay.items() if node)

    def close(self) -> None:
        """Give back what it holds. To be called once, whether it was committed or not."""
        self._usage.add(Quota.MEMORY, -self._memory)
        self._usage.add(Quota.TRANSACTIONS, -1)
        self._store.open_transactions -= 1
        self._memory = 0
