"""The fleet's head as a state machine: what happens goes in with its time, what is to be done comes out.

A domain's life:

    waiting ──all it comes after are ready, and a host has room──► starting ──► ready ──ended as it should──► done
     ▲  ▲                                                           │    │      ▲   │
     │  └────────────── could not be started: tried again ──────────┘    │      │   ▼
     │                                       for the third time: failed ◄┘    moving: it runs at the source, and has its share
     └──────── from starting, ready or moving: its host is lost ◄─                     at the target, too

A domain whose source is lost while it is moved starts at the target, and only there: it may have arrived.

A host joins, is closed when it is drained (it takes no more domains) and may be opened again. When its lease is over, or when
it joins anew, all that it ran waits.

What has done its work is not started again when its host is lost.
"""

from __future__ import annotations

from domains.fleet.lease import Book, Held, Terms
from domains.fleet.placement import Placement
from domains.fleet.starting import ARRIVING, Action, Do, Domain, Starting, State
from domains.fleet.wanted import HostSpec, NoRoom, Wanted


class Head(Starting):
    """Everything that the fleet's head knows. Times are ns of the head's own clock."""

    def __init__(self, terms: Terms, placement: Placement) -> None:
        super().__init__(placement)
        self.terms = terms
        self.book = Book(terms)
        self.overdue: list[tuple[str, Held]] = []
        """What the last `tick` found out about hosts."""

    # --- hosts -----------------------------------------------------------------------------------

    def join(self, spec: HostSpec, incarnation: int, now: int) -> list[Action]:
        """A host has begun, with nothing running; what it ran before, as another incarnation, starts anew. A host that was
        closed is open then.
        """
        actions = self._lose(spec.name) if self.book.incarnation(spec.name) is not None else []
        self.placement.add_host(spec)
        self.book.join(spec.name, incarnation, now)
        return actions + self.start_waiting()

    def renew(self, host: str, incarnation: int, stamp: int, now: int) -> int | None:
        """As Book.renew."""
        return self.book.renew(host, incarnation, stamp, now)

    def tick(self, now: int) -> list[Action]:
        """Time has passed: what hosts ran whose leases are over starts elsewhere."""
        self.overdue = self.book.due(now)
        lost = [host for host, held in self.overdue if held is Held.OVER]
        actions = [action for host in lost for action in self.leave(host)]
        return actions + self.start_waiting() if lost else []

    def leave(self, host: str) -> list[Action]:
        """A host runs nothing any more, and is no part of the fleet; what it ran waits, or starts where it was to be moved."""
        if self.book.incarnation(host) is None:
            return []
        self.book.leave(host)
        return self._lose(host)

    def _lose(self, host: str) -> list[Action]:
        actions = []
        for wanted in self.placement.remove_host(host):
            name = wanted.name.removesuffix(ARRIVING)
            domain = self.domains[name]
            if wanted.name != name:  # it was on its way here, and its source says what becomes of it
                domain.target = None
            elif domain.target is None:
                self._wait_again(domain)
            else:
                actions.append(self._start_at_target(domain, domain.target))
        return actions

    def _start_at_target(self, domain: Domain, target: str) -> Action:
        """Its source was lost while it was being moved: whether it has arrived, the target alone knows, and so it starts nowhere
        else. A host that is told to start what runs there already says that it is ready.
        """
        name = domain.wanted.name
        self.placement.release(name + ARRIVING)
        self.placement.put(domain.wanted, target)
        domain.host, domain.target, domain.state = target, None, State.STARTING
        domain.moves += 1
        return Action(Do.START, name, target)

    # --- moving ----------------------------------------------------------------------------------

    def move(self, name: str, target: str | None) -> Action:
        """Move a domain that is ready to this host, or to the best one but its own. Raises NoRoom, and nothing is
        changed then.
        """
        domain = self.domains[name]
        source = domain.host
        if domain.state is not State.READY or source is None:
            raise NoRoom(name, f"is {domain.state}, and only what is ready is moved")
        if target == source:
            raise NoRoom(name, f"runs on {source} already")
        try:
            target = self._place_arriving(domain.wanted, source, target)
        except NoRoom as error:
            raise NoRoom(name, error.why) from None
        domain.state, domain.target = State.MOVING, target
        return Action(Do.MOVE, name, source, target)

    def _place_arriving(self, wanted: Wanted, source: str, target: str | None) -> str:
        """Keep room for a domain that moves, at this target or at the best one; where. Raises NoRoom."""
        share = arriving(wanted)
        if target is not None:
            self.placement.put(share, target)
            return target
        was_open = self.placement.is_open(source)
        self.placement.close(source)
        try:
            return self.placement.place(share)
        finally:
            if was_open:
                self.placement.reopen(source)

    def moved(self, name: str, source: str, target: str, *, why: str = "") -> list[Action]:
        """A move has ended: the domain runs at the target; or, if `why` says so, still at the source."""
        domain = self.domains.get(name)
        if domain is None or domain.state is not State.MOVING or domain.host != source:
            return []
        if domain.target is not None:
            self.placement.release(name + ARRIVING)
        lost_target = domain.target != target
        domain.target = None
        if why:
            domain.state, domain.why = State.READY, why
            return self.start_waiting()
        self.placement.release(name)
        if lost_target:  # it arrived, and then its host was lost
            self._wait_again(domain)
            return self.start_waiting()
        self.placement.put(domain.wanted, target)
        domain.state, domain.host, domain.why = State.READY, target, ""
        domain.moves += 1
        return self.start_waiting()

    def fell(self, name: str, source: str, why: str) -> list[Action]:
        """A move has ended, and the domain runs nowhere: it starts where there is room."""
        domain = self.domains.get(name)
        if domain is None or domain.state is not State.MOVING or domain.host != source:
            return []
        if domain.target is not None:
            self.placement.release(name + ARRIVING)
            domain.target = None
        self.placement.release(name)
        self._wait_again(domain, why)
        return self.start_waiting()

    def drain(self, host: str) -> list[Action]:
        """Close a host and move what is ready there elsewhere. Raises NoRoom, and nothing is changed then. What is only
        starting is moved by another `drain`, once it is ready.
        """
        was_open = self.placement.is_open(host)
        self.placement.close(host)
        actions: list[Action] = []
        try:
            for wanted in self.placement.domains_on(host):
                domain = self.domains.get(wanted.name)
                if domain is not None and domain.state is State.READY:
                    actions.append(self.move(wanted.name, None))
        except NoRoom:
            for action in actions:
                self._call_off(action.domain)
            if was_open:
                self.placement.reopen(host)
            raise
        return actions

    def _call_off(self, name: str) -> None:
        self.placement.release(name + ARRIVING)
        self.domains[name].state, self.domains[name].target = State.READY, None


def arriving(wanted: Wanted) -> Wanted:
    """The share of a domain at the host that it moves to. It keeps its kind, so that what is to be apart stays apart."""
    return Wanted(
        wanted.name + ARRIVING,
        wanted.kind,
        wanted.memory,
        wanted.vcpus,
        wanted.strategy,
        wanted.labels,
        wanted.beside,
        wanted.apart,
    )
