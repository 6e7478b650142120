"""Which domain is on which host, and where one more goes.

Memory and vCPUs are never given twice. A domain that can be placed is placed, however many hosts have to be looked at; mostly
it is few: the hosts are kept in order (order.py), and only those with the labels wanted are in the lists that are gone through.

spread looks at the LOOK least loaded hosts on which the domain fits and takes the one with the fewest of its kind; so replicas
are on different hosts, and the choice does not become slower with the number of hosts. pack takes the fullest host on which it
fits (best fit). The same calls in the same order give the same places.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from graphlib import TopologicalSorter
from heapq import merge
from itertools import islice
from typing import Final

from domains.fleet.order import Host, Pool
from domains.fleet.wanted import VCPUS_PER_CPU, HostSpec, NoRoom, Wanted

LOOK: Final = 32
"""Hosts that spread chooses from."""

Labels = frozenset[tuple[str, str]]


class Placement:
    """All hosts of a fleet. `decisions` counts the places looked for."""

    def __init__(self, vcpus_per_cpu: int = VCPUS_PER_CPU) -> None:
        self.decisions = 0
        self._vcpus_per_cpu = vcpus_per_cpu
        self._hosts: dict[str, Host] = {}
        self._pools: dict[Labels, Pool] = {}
        self._matching: dict[Labels, list[Pool]] = {}
        self._places: dict[str, Host] = {}
        self._hosts_of: dict[str, dict[str, Host]] = {}
        """By kind the hosts that have one, in the order in which they got it."""
        self._numbers = 0

    # --- hosts -----------------------------------------------------------------------------------

    def add_host(self, spec: HostSpec) -> None:
        """A new host, empty and open. Raises ValueError if there is one of that name."""
        if spec.name in self._hosts:
            raise ValueError(f"there are two hosts called '{spec.name}'")
        host = Host(self._numbers, spec, spec.cpus * self._vcpus_per_cpu)
        self._numbers += 1
        self._hosts[spec.name] = host
        self._pool(host).add(host)

    def remove_host(self, name: str) -> list[Wanted]:
        """Forget a host; the domains that were placed there, and have no place now."""
        host = self._hosts[name]
        lost = list(host.domains.values())
        for wanted in lost:
            self.release(wanted.name)
        self._pool(host).remove(host)
        del self._hosts[name]
        return lost

    def close(self, name: str) -> None:
        """Place nothing more there. Idempotent."""
        host = self._hosts[name]
        host.open = False
        self._pool(host).remove(host)

    def reopen(self, name: str) -> None:
        """Place domains there again. Idempotent."""
        host = self._hosts[name]
        if not host.open:
            host.open = True
            self._pool(host).add(host)

    def is_open(self, name: str) -> bool:
        """Whether more domains may be placed there."""
        return self._hosts[name].open

    @property
    def hosts(self) -> Sequence[Host]:
        """All, in the order in which they came; to be read only."""
        return list(self._hosts.values())

    def domains_on(self, name: str) -> list[Wanted]:
        """In the order in which they came."""
        return list(self._hosts[name].domains.values())

    def host_of(self, domain: str) -> str | None:
        """Where it is placed; None: nowhere."""
        host = self._places.get(domain)
        return None if host is None else host.spec.name

    # --- domains ---------------------------------------------------------------------------------

    def place(self, wanted: Wanted) -> str:
        """Choose a host for a domain, and give it its share of it. Raises NoRoom."""
        self.decisions += 1
        host = self._choice(wanted)
        if host is None:
            raise NoRoom(wanted.name, self.why_not(wanted))
        self._put(wanted, host)
        return host.spec.name

    def try_place(self, wanted: Wanted) -> str | None:
        """The same; None if there is no room, without looking for the reason, which takes a look at every host."""
        self.decisions += 1
        host = self._choice(wanted)
        if host is None:
            return None
        self._put(wanted, host)
        return host.spec.name

    def place_all(self, wanted: Iterable[Wanted]) -> dict[str, str]:
        """Choose hosts for many domains: those that others want to be beside first, then the large ones. All or none: raises
        NoRoom, and nothing is changed then.
        """
        placed: dict[str, str] = {}
        try:
            for one in in_order(list(wanted)):
                placed[one.name] = self.place(one)
        except NoRoom:
            for name in placed:
                self.release(name)
            raise
        return placed

    def put(self, wanted: Wanted, name: str) -> None:
        """Place a domain on this host, whether it is open or not. Raises NoRoom if it has no room or other labels."""
        host = self._hosts[name]
        reason = self._reason(host, wanted)
        if reason is not None and (host.open or reason != CLOSED):
            raise NoRoom(wanted.name, f"host {name} {reason}")
        self._put(wanted, host)

    def release(self, domain: str) -> None:
        """The domain has no place any more. Raises KeyError if it had none."""
        host = self._places.pop(domain)
        wanted = host.domains[domain]
        self._pool(host).change(host, wanted, -1)
        if wanted.kind not in host.kinds:
            of_kind = self._hosts_of[wanted.kind]
            del of_kind[host.spec.name]
            if not of_kind:
                del self._hosts_of[wanted.kind]

    def why_not(self, wanted: Wanted) -> str:
        """Why no host takes this domain, in few words: what each of the hosts lacks."""
        reasons = Counter(self._reason(host, wanted) or "could take it" for host in self._hosts.values())
        what = f"{wanted.memory} MiB and {wanted.vcpus} vCPU{'s' * (wanted.vcpus > 1)}"
        told = ", ".join(
            f"{count} {'host' if count == 1 else 'hosts'} {why}" for why, count in reasons.most_common()
        )
        return f"no host has room for {what}: {told or 'there is none'}"

    # --- choosing --------------------------------------------------------------------------------

    def _put(self, wanted: Wanted, host: Host) -> None:
        if wanted.name in self._places:
            raise ValueError(f"domain '{wanted.name}' has a place already")
        self._pool(host).change(host, wanted, 1)
        self._places[wanted.name] = host
        self._hosts_of.setdefault(wanted.kind, {})[host.spec.name] = host

    def _choice(self, wanted: Wanted) -> Host | None:
        near = self._beside(wanted)
        if near is not None:
            ordered: Iterator[Host] = iter(
                sorted(near, key=fullest if wanted.strategy == "pack" else least_loaded)
            )
        else:
            pools = [pool for pool in self._pools_with(wanted.labels) if pool.has_memory(wanted.memory)]
            if wanted.strategy == "pack":
                ordered = (host for *_, host in merge(*(pool.fullest(wanted.memory) for pool in pools)))
            else:
                ordered = (host for *_, host in merge(*(pool.least_loaded() for pool in pools)))
        fitting = (host for host in ordered if host.fits(wanted))
        if wanted.strategy == "pack":
            return next(fitting, None)
        kind = wanted.kind
        return min(islice(fitting, LOOK), key=lambda host: host.kinds.get(kind, 0), default=None)

    def _beside(self, wanted: Wanted) -> list[Host] | None:
        """The hosts with one of each kind that it is to be beside; None: it may be anywhere."""
        kinds = [kind for kind in wanted.beside if kind != wanted.kind or kind in self._hosts_of]
        if not kinds:
            return None
        rarest = min((self._hosts_of.get(kind, {}) for kind in kinds), key=len)
        return [
            host
            for host in rarest.values()
            if all(kind in host.kinds for kind in kinds) and has_labels(host, wanted.labels)
        ]

    def _reason(self, host: Host, wanted: Wanted) -> str | None:
        """What stands against a domain on this host; None: nothing."""
        if not has_labels(host, wanted.labels):
            return f"without the label {', '.join(f'{key}={value}' for key, value in wanted.labels.items())}"
        if host.free_memory < wanted.memory:
            return "with too little memory"
        if host.free_vcpus < wanted.vcpus:
            return "with too few CPUs"
        if wanted.kind in host.refused or any(kind in host.kinds for kind in wanted.apart):
            return "with a domain that it is to be apart from"
        missing = [
            k for k in wanted.beside if k not in host.kinds and (k != wanted.kind or k in self._hosts_of)
        ]
        if missing:
            return f"without the {missing[0]} that it is to be beside"
        return None if host.open else CLOSED

    def _pool(self, host: Host) -> Pool:
        labels = frozenset(host.spec.labels.items())
        if labels not in self._pools:
            self._pools[labels] = Pool()
            self._matching.clear()
        return self._pools[labels]

    def _pools_with(self, wanted: Mapping[str, str]) -> list[Pool]:
        labels = frozenset(wanted.items())
        found = self._matching.get(labels)
        if found is None:
            found = [pool for has, pool in self._pools.items() if labels <= has]
            self._matching[labels] = found
        return found


CLOSED: Final = "closed to more domains"


def has_labels(host: Host, wanted: Mapping[str, str]) -> bool:
    """Whether the host has all of these."""
    return all(host.spec.labels.get(key) == value for key, value in wanted.items())


def fullest(host: Host) -> tuple[int, int]:
    """The order of pack."""
    return host.free_memory, host.number


def least_loaded(host: Host) -> tuple[float, int]:
    """The order of spread."""
    return host.load, host.number


def in_order(wanted: Sequence[Wanted]) -> list[Wanted]:
    """What others want to be beside comes before them, then what is large before what is small. Raises graphlib.CycleError, a
    ValueError, if kinds want to be beside each other in a circle.
    """
    by_kind: dict[str, list[Wanted]] = {}
    for one in sorted(wanted, key=lambda one: -one.memory):
        by_kind.setdefault(one.kind, []).append(one)
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for kind, ones in by_kind.items():
        sorter.add(kind, *(k for one in ones for k in one.beside if k in by_kind and k != kind))
    sorter.prepare()
    rows: list[Wanted] = []
    while sorter.is_active():
        ready = sorter.get_ready()
        rows += sorted((one for kind in ready for one in by_kind[kind]), key=lambda one: -one.memory)
        sorter.done(*ready)
    return rows
