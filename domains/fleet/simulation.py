"""The fleet's head and its hosts in virtual time: the head and the leases are those of a fleet (control.py, lease.py,
placement.py), the hosts, their clocks and the network are played.

A host's clock shows another time than the head's, and runs up to DRIFT faster or slower. Messages take a random time. What a seed
gives, it gives each time.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from heapq import heappop, heappush
from itertools import count
from typing import Final, Literal

from domains.fleet.control import Head
from domains.fleet.lease import NS_PER_S, Held, Tenant, Terms
from domains.fleet.placement import Placement
from domains.fleet.starting import Action, Do, State
from domains.fleet.wanted import HostSpec, NoRoom, Wanted

DRIFT: Final = 200e-6
"""How much faster or slower than the head's a host's clock may run: what NTP leaves of a bad crystal, twice."""
TICK: Final = NS_PER_S // 4
"""How often the head looks at its leases."""


@dataclass(frozen=True)
class Event:
    """At `at` ns so many hosts are killed, are cut off (for `lasts` ns), or are drained."""

    at: int
    what: Literal["kill", "cut", "drain"]
    hosts: int
    lasts: int | None = None


@dataclass(frozen=True)
class Play:
    """What is simulated. `delay`: of a message, on average; `start`: until a domain is ready; `stop`: until a host has stopped
    all it ran; `move`: of one domain. `at_once`: how many domains a host starts at once. All times in ns.
    """

    hosts: Sequence[HostSpec]
    domains: Sequence[Wanted]
    events: Sequence[Event]
    time: int
    terms: Terms = field(default_factory=Terms)
    vcpus_per_cpu: int = 8
    seed: int = 1
    delay: int = 2_000_000
    start: int = NS_PER_S
    stop: int = NS_PER_S
    move: int = 3 * NS_PER_S
    at_once: int = 4


@dataclass(frozen=True)
class Balance:
    """Shares of hosts' memory in use, percent, of the hosts that the head counts as there: least, mean, most, standard
    deviation.
    """

    least: float
    mean: float
    most: float
    deviation: float


@dataclass
class Happened:
    """What came of one event. Times in seconds from it on; None: it did not come to that in the time simulated. `gap`: the
    least time between the end of a domain on its old host and its beginning on another, for hosts that were lost. `waiting`:
    domains that are not back. `balance`: when all were back, or at the end.
    """

    what: str
    at: float
    hosts: int
    domains: int = 0
    moves: int = 0
    first_again: float | None = None
    all_again: float | None = None
    gap: float | None = None
    waiting: int = 0
    refused: str = ""
    balance: Balance | None = None


@dataclass
class Outcome:
    """What came of it all. `per_second`: places found in a second of this computer's CPU time, which no seed fixes."""

    hosts: int
    domains: int
    decisions: int
    per_second: float
    decided_s: float
    balance_begun: Balance
    balance: Balance
    ready_after: float | None
    unplaced: int
    events: list[Happened]
    twice: int
    renewals: int


class PlayedHost:
    """A host: its clock, its lease, and what runs there."""

    def __init__(self, spec: HostSpec, draw: random.Random) -> None:
        self.spec = spec
        self.lives = True
        self.reachable = True
        self.rate = 1 + draw.uniform(-DRIFT, DRIFT)
        self.offset = draw.randrange(1 << 40)
        self.tenant = Tenant(1)
        self.running: set[str] = set()
        self.busy = 0
        self.queue: list[str] = []

    def clock(self, now: int) -> int:
        """What its clock shows."""
        return self.offset + int(now * self.rate)

    def when(self, shown: int) -> int:
        """The instant at which its clock has passed that reading."""
        return int((shown - self.offset) / self.rate) + 1


class Simulation:
    """One play."""

    def __init__(self, play: Play) -> None:
        self._play = play
        self._draw = random.Random(play.seed)
        self._now = 0
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._numbers = count()
        self.head = Head(play.terms, Placement(play.vcpus_per_cpu))
        self._hosts = {spec.name: PlayedHost(spec, self._draw) for spec in play.hosts}
        self._ended: dict[str, int] = {}
        """When a domain ended on a host that was lost, and is not back yet."""
        self._runs_on: dict[str, set[str]] = {}
        self._lost_by: dict[str, Happened] = {}
        self._happened: list[Happened] = []
        self._decided = 0.0
        self._ready_after: float | None = None
        self._balance_begun = Balance(0, 0, 0, 0)
        self._pending = len(play.domains)
        self._twice = 0
        self._renewals = 0

    def run(self) -> Outcome:
        """Play it. Raises NoRoom if the domains do not find room at all."""
        play = self._play
        for host in self._hosts.values():
            self._decide(partial(self.head.join, host.spec, 1, 0))
            self._at(self._draw.randrange(play.terms.renew), partial(self._renew, host))
        self._at(play.terms.renew * 2, self._begin)
        for event in play.events:
            self._at(event.at, partial(self._happens, event))
        self._at(TICK, self._tick)
        while self._events and self._events[0][0] <= play.time:
            self._now, _, what = heappop(self._events)
            what()
        return self._outcome()

    def _at(self, when: int, what: Callable[[], None]) -> None:
        heappush(self._events, (when, next(self._numbers), what))

    def _later(self, what: Callable[[], None]) -> None:
        """When a message has arrived."""
        self._at(self._now + int(self._draw.expovariate(1 / self._play.delay)), what)

    def _decide(self, what: Callable[[], Iterable[Action]]) -> None:
        """Let the head decide something, with the time it takes counted, and do what it says."""
        begun = time.process_time()
        actions = what()
        self._decided += time.process_time() - begun
        for action in actions:
            if action.do is Do.START:
                self._later(partial(self._start, self._hosts[action.host], action.domain))
            else:
                self._at(self._now + self._play.move, partial(self._moved, action))

    def _begin(self) -> None:
        self._decide(partial(self.head.want, self._play.domains, {}))
        self._balance_begun = balance_of(self.head.placement)

    def _tick(self) -> None:
        self._decide(partial(self.head.tick, self._now))
        self._at(self._now + TICK, self._tick)

    # --- leases ----------------------------------------------------------------------------------

    def _renew(self, host: PlayedHost) -> None:
        if not host.lives:
            return
        stamp, incarnation = host.clock(self._now), host.tenant.incarnation
        if host.reachable:
            self._later(partial(self._renewed, host, incarnation, stamp))
        self._at(self._now + self._play.terms.renew, partial(self._renew, host))

    def _renewed(self, host: PlayedHost, incarnation: int, stamp: int) -> None:
        self._renewals += 1
        until = self.head.renew(host.spec.name, incarnation, stamp, self._now)
        if not host.reachable:
            return
        if until is None:
            self._later(partial(self._refused, host, incarnation))
        else:
            self._later(partial(self._granted, host, incarnation, until))

    def _granted(self, host: PlayedHost, incarnation: int, until: int) -> None:
        if not host.lives:
            return
        host.tenant.granted(incarnation, until, host.clock(self._now))
        if host.tenant.state is Held.HELD:
            self._at(max(host.when(host.tenant.until), self._now), partial(self._look, host, incarnation))

    def _look(self, host: PlayedHost, incarnation: int) -> None:
        if not host.lives or host.tenant.incarnation != incarnation or host.busy < 0:
            return
        if host.tenant.look(host.clock(self._now)) is Held.OVER:
            self._stop(host)

    def _refused(self, host: PlayedHost, incarnation: int) -> None:
        if host.lives and host.tenant.incarnation == incarnation and host.busy >= 0:
            host.tenant.refused(incarnation)
            self._stop(host)

    def _stop(self, host: PlayedHost) -> None:
        """Its lease is over: stop everything, then join anew as soon as the head can be reached."""
        host.busy = -1
        host.queue.clear()
        self._at(self._now + self._play.stop, partial(self._stopped, host))

    def _stopped(self, host: PlayedHost) -> None:
        if not host.lives:
            return
        for domain in list(host.running):
            self._end(host, domain)
        host.tenant = Tenant(host.tenant.incarnation + 1)
        host.busy = 0
        self._join(host)

    def _join(self, host: PlayedHost) -> None:
        if host.reachable:
            self._later(partial(self._joined, host, host.tenant.incarnation))
        else:
            self._at(self._now + self._play.terms.renew, partial(self._join, host))

    def _joined(self, host: PlayedHost, incarnation: int) -> None:
        self._decide(partial(self.head.join, host.spec, incarnation, self._now))

    # --- domains ---------------------------------------------------------------------------------

    def _start(self, host: PlayedHost, domain: str) -> None:
        if not host.lives or not host.reachable or host.busy < 0:
            return
        if host.busy >= self._play.at_once:
            host.queue.append(domain)
            return
        host.busy += 1
        incarnation = host.tenant.incarnation
        self._at(self._now + self._play.start, partial(self._started, host, incarnation, domain))

    def _started(self, host: PlayedHost, incarnation: int, domain: str) -> None:
        if not host.lives or host.tenant.incarnation != incarnation or host.busy < 0:
            return
        host.busy -= 1
        if host.queue:
            self._start(host, host.queue.pop(0))
        self._run(host, domain)
        if host.reachable:
            self._later(partial(self._decide, partial(self.head.ready, domain, host.spec.name)))

    def _run(self, host: PlayedHost, domain: str) -> None:
        """It runs from now on; what was found before is counted."""
        host.running.add(domain)
        on = self._runs_on.setdefault(domain, set())
        on.add(host.spec.name)
        self._twice += len(on) > 1
        seconds = self._now / NS_PER_S
        lost = self._lost_by.pop(domain, None)
        if lost is not None:
            lost.moves += 1
            after = seconds - lost.at
            lost.first_again = after if lost.first_again is None else lost.first_again
            if lost.moves == lost.domains:
                lost.all_again, lost.balance = after, balance_of(self.head.placement)
            ended = self._ended.pop(domain, None)
            if ended is not None:
                gap = (self._now - ended) / NS_PER_S
                lost.gap = gap if lost.gap is None else min(lost.gap, gap)
        elif self._ready_after is None:
            self._pending -= 1
            if not self._pending:
                self._ready_after = seconds

    def _end(self, host: PlayedHost, domain: str) -> None:
        host.running.discard(domain)
        self._runs_on[domain].discard(host.spec.name)
        self._ended[domain] = self._now

    def _moved(self, action: Action) -> None:
        source, target = self._hosts[action.host], self._hosts[action.target or ""]
        if not source.lives or source.busy < 0 or action.domain not in source.running:
            return
        arrives = target.lives and target.reachable and source.reachable and target.busy >= 0
        if arrives:
            self._end(source, action.domain)
            self._ended.pop(action.domain)
            self._run(target, action.domain)
        if source.reachable:
            why = "" if arrives else "the target is lost"
            report = (action.domain, action.host, action.target or "")
            self._later(partial(self._decide, partial(self.head.moved, *report, why=why)))

    # --- events ----------------------------------------------------------------------------------

    def _happens(self, event: Event) -> None:
        there = [host for host in self._hosts.values() if host.lives and host.reachable and host.busy >= 0]
        chosen = self._draw.sample(there, min(event.hosts, len(there)))
        happened = Happened(event.what, self._now / NS_PER_S, len(chosen))
        self._happened.append(happened)
        if event.what == "drain":
            for host in chosen:
                self._drain(host, happened)
            return
        for host in chosen:
            for domain in host.running:
                self._lost_by[domain] = happened
            happened.domains += len(host.running)
            if event.what == "cut":
                host.reachable = False
                if event.lasts is not None:
                    self._at(self._now + event.lasts, partial(self._reached, host))
            else:
                host.lives = False
                for domain in list(host.running):
                    self._end(host, domain)

    def _reached(self, host: PlayedHost) -> None:
        host.reachable = True

    def _drain(self, host: PlayedHost, happened: Happened) -> None:
        names = set(host.running)
        self._lost_by |= dict.fromkeys(names, happened)
        happened.domains += len(names)
        try:
            self._decide(partial(self.head.drain, host.spec.name))
        except NoRoom as error:
            happened.refused = str(error)
            for name in names:
                self._lost_by.pop(name, None)
            happened.domains -= len(names)

    # --- what came of it -------------------------------------------------------------------------

    def _outcome(self) -> Outcome:
        placement = self.head.placement
        for happened in self._happened:
            happened.waiting = happened.domains - happened.moves
            happened.balance = happened.balance or balance_of(placement)
        return Outcome(
            len(self._play.hosts),
            len(self._play.domains),
            placement.decisions,
            placement.decisions / self._decided if self._decided else 0.0,
            self._decided,
            self._balance_begun,
            balance_of(placement),
            self._ready_after,
            sum(domain.state is State.WAITING for domain in self.head.domains.values()),
            self._happened,
            self._twice,
            self._renewals,
        )


def balance_of(placement: Placement) -> Balance:
    """How the memory in use is shared out."""
    shares = [100 * (1 - host.free_memory / host.spec.memory) for host in placement.hosts] or [0.0]
    mean = sum(shares) / len(shares)
    deviation = (sum((share - mean) ** 2 for share in shares) / len(shares)) ** 0.5
    return Balance(min(shares), mean, max(shares), deviation)


def simulate(play: Play) -> Outcome:
    """What comes of a play. Raises NoRoom if its domains do not find room at all."""
    return Simulation(play).run()
