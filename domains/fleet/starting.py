"""How domains come up: each when those are ready that it comes after, on the host that has room for it, and again if that fails.

    waiting ──all it comes after are ready, and a host has room──► starting ──► ready ──ended as it should──► done
     ▲  ▲                                                           │    │
     │  └────────────── could not be started: tried again ──────────┘    │
     │                                       for the third time: failed ◄┘
     └──────── its host is lost ◄─

What has done its work is not started again. The rest of a domain's life, moves and the loss of hosts, is control.py's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from domains.fleet.placement import Placement
from domains.fleet.wanted import Wanted

ATTEMPTS: Final = 3
"""How often a domain is started, at most, before it counts as failed."""
NO_ROOM: Final = "no host has room"
"""Why a domain waits that could start but for that."""
ARRIVING: Final = " arriving"
"""Behind the name of a domain that moves: its share at the target. No domain's name has a blank."""


class State(StrEnum):
    """How a domain stands."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    MOVING = "moving"
    DONE = "done"
    FAILED = "failed"


class Do(StrEnum):
    """What the head asks of hosts."""

    START = "start"
    MOVE = "move"


class Action(NamedTuple):
    """`do`: what; `host`: who; `target`: of MOVE, where to."""

    do: Do
    domain: str
    host: str
    target: str | None = None


@dataclass
class Domain:
    """A domain of the fleet. `host`: where it is placed; `moves`: how often it has changed its host; `why`: it failed, or
    waits.
    """

    wanted: Wanted
    after: frozenset[str]
    state: State = State.WAITING
    host: str | None = None
    target: str | None = None
    attempts: int = 0
    moves: int = 0
    why: str = ""


class Starting:
    """The domains of a fleet, and where they are placed."""

    def __init__(self, placement: Placement) -> None:
        self.placement = placement
        self.domains: dict[str, Domain] = {}
        self._comes_after: dict[str, list[str]] = {}
        self._waiting: dict[str, None] = {}
        """Names of all that wait, in the order in which they began to."""
        self._last_host: dict[str, str] = {}

    def want(self, wanted: Sequence[Wanted], after: Mapping[str, Iterable[str]]) -> list[Action]:
        """Have these domains, each when those are ready that it comes after. All get their places at once, or none: raises
        NoRoom, and nothing is changed then.
        """
        new = [one for one in wanted if one.name not in self.domains]
        places = self.placement.place_all(new)
        for one in new:
            domain = Domain(one, frozenset(after.get(one.name, ())), host=places[one.name])
            self.domains[one.name] = domain
            self._waiting[one.name] = None
            for before in domain.after:
                self._comes_after.setdefault(before, []).append(one.name)
        return self.start_waiting()

    def start_waiting(self) -> list[Action]:
        """Start what waits, and may, and has a place or gets one now."""
        actions = []
        for name in list(self._waiting):
            domain = self.domains[name]
            if not all(self._is_ready(before) for before in domain.after):
                continue
            if domain.host is None:
                domain.host = self.placement.try_place(domain.wanted)
                if domain.host is None:
                    domain.why = domain.why or NO_ROOM
                    continue
                domain.moves += domain.host != self._last_host.pop(name, domain.host)
            del self._waiting[name]
            domain.state, domain.why = State.STARTING, ""
            domain.attempts += 1
            actions.append(Action(Do.START, name, domain.host))
        return actions

    def _is_ready(self, name: str) -> bool:
        return name not in self.domains or self.domains[name].state in (State.READY, State.MOVING, State.DONE)

    def ready(self, name: str, host: str, *, done: bool = False) -> list[Action]:
        """A host says that a domain is ready there, or has `done` its work. One that was placed elsewhere meanwhile is heard no
        more.
        """
        domain = self.domains.get(name)
        if domain is None or domain.host != host or domain.state not in (State.STARTING, State.READY):
            return []
        domain.state, domain.attempts = (State.DONE if done else State.READY), 0
        if done:
            self.placement.release(name)
            domain.host = None
        if done or self._comes_after.get(name):
            return self.start_waiting()
        return []

    def failed(self, name: str, host: str, why: str) -> list[Action]:
        """A host could not start a domain. After a while it is tried again, which is up to whoever calls `start_waiting`."""
        domain = self.domains.get(name)
        if domain is None or domain.host != host or domain.state is not State.STARTING:
            return []
        self.placement.release(name)
        if domain.attempts >= ATTEMPTS:
            domain.state, domain.host, domain.why = State.FAILED, None, why
            self._leave_out(name)
        else:
            self._wait_again(domain, why)
        return []

    def _leave_out(self, failed: str) -> None:
        """What waits for a domain that failed fails, too; a list, and no recursion, for the row of those may be long."""
        rest = [failed]
        while rest:
            before = rest.pop()
            for name in self._comes_after.get(before, ()):
                domain = self.domains.get(name)
                if domain is not None and domain.state is State.WAITING:
                    if domain.host is not None:
                        self.placement.release(name)
                    del self._waiting[name]
                    domain.state, domain.host = State.FAILED, None
                    domain.why = f"left out, for {before} did not come up"
                    rest.append(name)

    def forget(self, name: str) -> None:
        """The domain is not wanted any more, and runs nowhere. Raises KeyError."""
        self.domains.pop(name)
        self._waiting.pop(name, None)
        self._last_host.pop(name, None)
        for place in (name, name + ARRIVING):
            if self.placement.host_of(place) is not None:
                self.placement.release(place)

    def _wait_again(self, domain: Domain, why: str = "") -> None:
        """It has no place any more; the placement has forgotten it."""
        if domain.host is not None:
            self._last_host[domain.wanted.name] = domain.host
        domain.host, domain.state, domain.why = None, State.WAITING, why
        self._waiting[domain.wanted.name] = None

    def waiting(self) -> Iterable[str]:
        """Names of the domains that wait, for others or for room."""
        return iter(self._waiting)

    def at_rest(self) -> bool:
        """Whether nothing will become ready by itself: all is settled, or waits for room, or for what does."""
        stuck: set[str] = set()
        for name in self._waiting:
            domain = self.domains[name]
            if domain.why == NO_ROOM or any(before in self._waiting for before in domain.after):
                stuck.add(name)
        busy = (State.STARTING, State.MOVING)
        return stuck == self._waiting.keys() and not any(one.state in busy for one in self.domains.values())

    def settled(self) -> bool:
        """Whether nothing waits, starts or moves."""
        return not self._waiting and all(
            domain.state in (State.READY, State.DONE, State.FAILED) for domain in self.domains.values()
        )
