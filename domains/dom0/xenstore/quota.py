"""What one domain may use up in the store, and what it does use (rule S2).

The limits are those of Xen's C xenstored. A limit of N allows N; 0 means no limit. The control domain has
none. Difference from Xen: nodes and memory are checked for the whole request (or commit) before anything is
changed, so a request is either done or refused, never half done.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class Quota(StrEnum):
    """The limits, by the names that `xenstore-control quota` uses."""

    NODES = "nodes"
    WATCHES = "watches"
    OUTSTANDING = "outstanding"
    MEMORY = "memory"
    TRANSACTIONS = "transactions"
    TRANSACTION_NODES = "transaction-nodes"
    NODE_PERMISSIONS = "node-permissions"
    PATH_MAX = "path-max"
    NODE_SIZE = "node-size"


DEFAULTS: Final[Mapping[Quota, int]] = {
    Quota.NODES: 1000,
    Quota.WATCHES: 128,
    Quota.OUTSTANDING: 20,
    Quota.MEMORY: 2 * 1024 * 1024 + 512 * 1024,
    Quota.TRANSACTIONS: 10,
    Quota.TRANSACTION_NODES: 1024,
    Quota.NODE_PERMISSIONS: 5,
    Quota.PATH_MAX: 2048,
    Quota.NODE_SIZE: 2048,
}

DESCRIPTIONS: Final[Mapping[Quota, str]] = {
    Quota.NODES: "nodes a domain owns",
    Quota.WATCHES: "watches a domain has set",
    Quota.OUTSTANDING: "requests of a domain whose replies or events are not yet taken",
    Quota.MEMORY: "bytes a domain occupies: nodes, watches, transactions, messages",
    Quota.TRANSACTIONS: "transactions a domain has open",
    Quota.TRANSACTION_NODES: "nodes one transaction may touch",
    Quota.NODE_PERMISSIONS: "permission entries of one node",
    Quota.PATH_MAX: "length of a path, without /local/domain/<domid>/",
    Quota.NODE_SIZE: "bytes in one node: value, permissions, names of children",
}

# What is counted while it exists; the other limits are checked against one request alone.
COUNTED: Final = (Quota.NODES, Quota.WATCHES, Quota.OUTSTANDING, Quota.MEMORY, Quota.TRANSACTIONS)


class Limits:
    """The limits in force for every domain. The control domain changes them (CONTROL quota set)."""

    def __init__(self, limits: Mapping[Quota, int] = DEFAULTS) -> None:
        self._limits = dict(limits)

    def __getitem__(self, quota: Quota) -> int:
        return self._limits[quota]

    def __setitem__(self, quota: Quota, limit: int) -> None:
        self._limits[quota] = limit

    def exceeded(self, quota: Quota, value: int) -> bool:
        """Whether `value` is more than the limit allows."""
        limit = self._limits[quota]
        return limit != 0 and value > limit


class Usage:
    """What one domain uses now, and the most it ever used."""

    def __init__(self) -> None:
        self._now = dict.fromkeys(COUNTED, 0)
        self._most = dict.fromkeys(COUNTED, 0)

    def __getitem__(self, quota: Quota) -> int:
        return self._now[quota]

    def most(self, quota: Quota) -> int:
        """The most that it ever used."""
        return self._most[quota]

    def forget_most(self) -> None:
        """Begin anew with what is used now."""
        self._most = dict(self._now)

    def add(self, quota: Quota, amount: int) -> None:
        """Count `amount` more (or, below zero, less). A caller that is limited checks the limit before."""
        now = self._now[quota] + amount
        self._now[quota] = now
        if now > self._most[quota]:
            self._most[quota] = now

    def snapshot(self) -> dict[Quota, int]:
        """What it uses now."""
        return dict(self._now)
