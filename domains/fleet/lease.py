"""Leases: a host runs domains only while it is certain that nobody else does. Both ends, with clocks as data.

The agent of a host sends the reading of its own clock, its *stamp*, with every renewal. The head answers with that stamp; the
agent may run its domains until stamp + T of its own clock. The head has heard the stamp at some later instant of its own clock,
and counts T and a margin from there. So the agent's lease always ends before the head's patience does, however long messages
take, whether they come twice or in another order, and though the two clocks show different times: only their rates are
compared, and the margin pays for the difference, and for the time that the agent takes to stop its domains.

    agent                                                        head, of each host
      │ joins: a new incarnation, which runs nothing               │ hears of a new incarnation
      ▼                                                            ▼
    waiting ──the first grant──► held ◄──┐ a grant               held ◄──┐ a renewal
                                  │ ─────┘                         │ ────┘
                 its clock passes │ stamp + T                      │ its clock passes heard + T
                                  ▼                                ▼
                                over: stops all it runs          late: is told to nobody; a renewal makes it held again
                                  │ all is stopped                 │ its clock passes heard + T + margin
                                  ▼                                ▼
                                joins again, as the next         over: what it ran starts elsewhere; this incarnation
                                incarnation                            is never granted anything again
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from heapq import heappop, heappush
from typing import Final

NS_PER_S: Final = 1_000_000_000


@dataclass(frozen=True)
class Terms:
    """Of all leases of a fleet, in ns. `lasts`: T. `renew`: between two renewals. `margin`: what the head waits beyond T; it must
    cover the time in which an agent stops its domains, and how far two clocks drift apart in T.
    """

    lasts: int = 5 * NS_PER_S
    renew: int = NS_PER_S
    margin: int = 2 * NS_PER_S

    def __post_init__(self) -> None:
        if min(self.lasts, self.renew, self.margin) <= 0:
            raise ValueError("all times of a lease are above 0")
        if self.lasts < 2 * self.renew:
            raise ValueError("a lease lasts for two renewals at least, or one that is late would end it")


class Held(StrEnum):
    """How a lease stands, at either end."""

    WAITING = "waiting"
    HELD = "held"
    LATE = "late"
    OVER = "over"


class Tenant:
    """The agent's end. `incarnation`: any number that this host has not had before; a new one for each time it begins with
    nothing running.
    """

    def __init__(self, incarnation: int) -> None:
        self.incarnation = incarnation
        self.state = Held.WAITING
        self.until = 0
        """On the agent's own clock, ns; 0: nothing was granted yet."""

    def granted(self, incarnation: int, until: int, now: int) -> None:
        """The head's answer to a renewal. One for another incarnation, one that is older than another, and one that comes when
        the lease is over change nothing.
        """
        if incarnation != self.incarnation or self.look(now) is Held.OVER or until <= now:
            return
        self.until = max(self.until, until)
        self.state = Held.HELD

    def look(self, now: int) -> Held:
        """How it stands now. OVER is for good: everything must be stopped, and only then a new incarnation joins."""
        if self.state is Held.HELD and now >= self.until:
            self.state = Held.OVER
        return self.state

    def refused(self, incarnation: int) -> None:
        """The head says that this incarnation will never be granted anything."""
        if incarnation == self.incarnation:
            self.state = Held.OVER


@dataclass
class Lease:
    """What the head knows of a host's: `heard`: when, on the head's clock, the last renewal came."""

    incarnation: int
    heard: int
    state: Held = Held.HELD


class Book:
    """The head's end, of all hosts. `due` costs nothing for hosts that renew in time: each has one entry in a heap, which is
    put off when it comes up.
    """

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self._leases: dict[str, Lease] = {}
        self._deadlines: list[tuple[int, str, int]] = []
        """(when, host, incarnation)"""

    def join(self, host: str, incarnation: int, now: int) -> None:
        """A new incarnation, which says that nothing runs there; the one before is forgotten."""
        self._leases[host] = Lease(incarnation, now)
        heappush(self._deadlines, (now + self.terms.lasts, host, incarnation))

    def leave(self, host: str) -> None:
        """It is no host of the fleet any more, and runs nothing. Idempotent."""
        self._leases.pop(host, None)

    def renew(self, host: str, incarnation: int, stamp: int, now: int) -> int | None:
        """A renewal with this stamp has come: until when, on the agent's clock, its lease lasts; None: never again."""
        lease = self._leases.get(host)
        if lease is None or lease.incarnation != incarnation or lease.state is Held.OVER:
            return None
        lease.heard = max(lease.heard, now)
        lease.state = Held.HELD
        return stamp + self.terms.lasts

    def state(self, host: str) -> Held:
        """As `due` found it last."""
        lease = self._leases.get(host)
        return Held.WAITING if lease is None else lease.state

    def incarnation(self, host: str) -> int | None:
        """The one that was heard of last."""
        lease = self._leases.get(host)
        return None if lease is None else lease.incarnation

    def due(self, now: int) -> list[tuple[str, Held]]:
        """The hosts that have become LATE or OVER until now, in order of time."""
        found = []
        while self._deadlines and self._deadlines[0][0] <= now:
            _, host, incarnation = heappop(self._deadlines)
            lease = self._leases.get(host)
            if lease is None or lease.incarnation != incarnation:
                continue
            late, over = lease.heard + self.terms.lasts, lease.heard + self.terms.lasts + self.terms.margin
            if now >= over:
                lease.state = Held.OVER
            elif now >= late:
                lease.state = Held.LATE
                heappush(self._deadlines, (over, host, incarnation))
            else:
                heappush(self._deadlines, (late, host, incarnation))
                continue
            found.append((host, lease.state))
        return found

    @property
    def next_due(self) -> int | None:
        """The instant before which `due` finds nothing; None: there is no host."""
        return self._deadlines[0][0] if self._deadlines else None
