"""Hosts with the same labels, in order: so a place is found without looking at every host.

    by_load   ascending share in use, of memory or of vCPUs, whichever is higher    spread begins at its front
    by_free   ascending free memory                                                 pack begins where it fits, by bisection

Both are sorted lists. A change of a host takes it out and puts it in again: two bisections, and a move of the pointers behind
it, which for 10,000 hosts is 80 KB at most and takes a few microseconds.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

from domains.fleet.wanted import HostSpec, Wanted


class Host:
    """A host and what is on it. Its figures are changed by Pool.change alone, which keeps the order.

    `kinds`: how many domains of each kind are here. `refused`: how many domains here are to be apart from each kind.
    `open`: it takes more domains.
    """

    __slots__ = (
        "domains", "free_memory", "free_vcpus", "kinds", "load", "number", "open", "refused", "spec", "vcpus",
    )  # fmt: skip

    def __init__(self, number: int, spec: HostSpec, vcpus: int) -> None:
        self.number = number
        self.spec = spec
        self.vcpus = vcpus
        self.free_memory, self.free_vcpus = spec.memory, vcpus
        self.load = 0.0
        self.open = True
        self.domains: dict[str, Wanted] = {}
        self.kinds: dict[str, int] = {}
        self.refused: dict[str, int] = {}

    def take(self, wanted: Wanted, sign: int) -> None:
        """Count a domain in (`sign` 1) or out (-1)."""
        self.free_memory -= sign * wanted.memory
        self.free_vcpus -= sign * wanted.vcpus
        self.load = max(1 - self.free_memory / self.spec.memory, 1 - self.free_vcpus / self.vcpus)
        if sign > 0:
            self.domains[wanted.name] = wanted
        else:
            del self.domains[wanted.name]
        count(self.kinds, wanted.kind, sign)
        for kind in wanted.apart:
            count(self.refused, kind, sign)

    def fits(self, wanted: Wanted) -> bool:
        """Whether the domain may run here; its labels were looked at before."""
        if self.free_memory < wanted.memory or self.free_vcpus < wanted.vcpus or not self.open:
            return False
        return wanted.kind not in self.refused and not any(kind in self.kinds for kind in wanted.apart)


def count(counts: dict[str, int], key: str, by: int) -> None:
    """Add to a count; what is 0 is not kept."""
    left = counts.get(key, 0) + by
    if left:
        counts[key] = left
    else:
        counts.pop(key, None)


class Pool:
    """Open hosts with the same labels."""

    def __init__(self) -> None:
        self._hosts: dict[int, Host] = {}
        self._by_load: list[tuple[float, int]] = []
        self._by_free: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._hosts)

    def add(self, host: Host) -> None:
        """From now on it is looked at."""
        self._hosts[host.number] = host
        insort(self._by_load, (host.load, host.number))
        insort(self._by_free, (host.free_memory, host.number))

    def remove(self, host: Host) -> None:
        """It is looked at no more. Idempotent."""
        if self._hosts.pop(host.number, None) is not None:
            del self._by_load[bisect_left(self._by_load, (host.load, host.number))]
            del self._by_free[bisect_left(self._by_free, (host.free_memory, host.number))]

    def change(self, host: Host, wanted: Wanted, sign: int) -> None:
        """Count a domain in or out, whether the host is open or not."""
        listed = host.number in self._hosts
        self.remove(host)
        host.take(wanted, sign)
        if listed:
            self.add(host)

    def least_loaded(self) -> Iterator[tuple[float, int, Host]]:
        """(load, number, host), ascending."""
        return ((load, number, self._hosts[number]) for load, number in self._by_load)

    def fullest(self, memory: int) -> Iterator[tuple[int, int, Host]]:
        """(free MiB, number, host) of those with so much free memory, ascending."""
        for at in range(bisect_left(self._by_free, (memory, -1)), len(self._by_free)):
            free, number = self._by_free[at]
            yield free, number, self._hosts[number]

    def has_memory(self, memory: int) -> bool:
        """Whether any has so much free."""
        return bool(self._by_free) and self._by_free[-1][0] >= memory
