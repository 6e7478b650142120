"""What runs on one machine of a fleet, for one incarnation of its host: domains are brought up, ended and listed here.

The machine that comes after this one has the same name. So whoever connects looks, once it is connected, whether these runs are
abandoned: they were before the next machine began, and then nothing is done there.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from domains.control.client import ControlClient
from domains.control.migration_operations import Migrate, Migrated
from domains.control.operations import Destroy, List, Listed
from domains.control.protocol import ControlError, Exit
from domains.control.records import decode
from domains.xenctl import machine as machines
from domains.xenctl.fleet.doors import write_authorized_keys
from domains.xenctl.fleet.hosts import Introduction
from domains.xenctl.fleet.journal import note
from domains.xenctl.fleet.networks import connect_lans
from domains.xenctl.fleet.portable import Missing, Portable, planned_here
from domains.xenctl.fleet.store import Store
from domains.xenctl.private_machine import PrivateMachine
from domains.xenctl.topology.bring_up import BringUp
from domains.xenctl.topology.state import State

LOOK_AGAIN: Final = 0.5
"""Seconds."""


class WrongOrder(Exception):
    """An order that is none. `str()` is one line."""


class Runs:
    """The domains of a machine, made by orders of the head. Its methods are called by many threads."""

    def __init__(self, machine: PrivateMachine, about: Introduction) -> None:
        """Of a machine that has just begun; its bridges are joined with the other hosts'. Raises ControlError."""
        self._machine, self._host, self._about = machine, about.host, about
        self._abandoned = False
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._ready: set[str] = set()
        self.know(about.peers, ())

    def know(self, peers: Sequence[str], keys: Sequence[str]) -> dict[str, Any]:
        """Join the bridges with those of the hosts at these addresses, and of no others; machines with these keys may send
        domains here. Raises ControlError, OSError.
        """
        with self._locks[""], self._client() as client:
            write_authorized_keys(self._machine.name, keys)
            connect_lans(client, self._about.lans, self._about.address, peers)
        return {}

    def names(self) -> list[str]:
        """Of the domains that were brought up here and have not ended by an order."""
        return sorted(self._ready)

    def abandon(self) -> None:
        """The machine is about to be ended: nothing is done any more. Called before another machine begins."""
        self._abandoned = True

    def work(self, what: str, about: Any, store: Store) -> Callable[[], Any]:
        """What carries out an order, to be called in a thread; raises ControlError and OSError there. Raises WrongOrder, and
        pydantic's ValidationError, KeyError and TypeError for an order that is not as it should be.
        """
        if what == "start":
            domain = Portable.model_validate(about["domain"])
            return lambda: self.start(domain, store)
        if what == "stop":
            name = str(about["name"])
            return lambda: self.stop(name)
        if what == "peers":
            peers, keys = ([str(one) for one in about[what]] for what in ("peers", "keys"))
            return lambda: self.know(peers, keys)
        if what == "list":
            after = min(max(int(about["after"]), 0), 5)
            return lambda: self.listed(after)
        if what == "migrate":
            wanted = wanted_move(about)
            return lambda: self.migrate(wanted)
        if what == "arrived":
            came = Portable.model_validate(about["domain"])
            return lambda: self.arrived(came, store)
        if what == "runs":
            name = str(about["name"])
            return lambda: self.runs(name)
        raise WrongOrder(f"there is no order '{what}'")

    def start(self, domain: Portable, store: Store) -> dict[str, Any]:
        """Bring a domain up, and wait until it is ready; one that is there as it should be stays. Raises
        ControlError, OSError.
        """
        with self._locks[domain.name]:
            with self._client() as client, State(self._machine.folder, domain.name).locked() as state:
                try:
                    plan = planned_here(domain, store.stored(domain.files), state.folder)
                except Missing as error:
                    raise ControlError(Exit.FAILURE, f"{domain.name}: {error}") from None
                BringUp(client, plan, state, state.folder, self._tell).run([domain.name])
                done = state.was_ready(plan.domains[domain.name], None)
            if not done:
                self._ready.add(domain.name)
            return {"done": done}

    def stop(self, name: str) -> dict[str, Any]:
        """End a domain, if it is there, and take away what was made for it. Raises ControlError."""
        with self._locks[name], self._client() as client:
            state = State(self._machine.folder, name)
            for about in client.call(List()):
                if about.name == name and state.owns(about):
                    with suppress_gone():
                        client.call(Destroy(str(about.domid)))
            state.remove()
            self._ready.discard(name)
            note(f"{self._host}: {name} is stopped")
        return {}

    def migrate(self, wanted: Migrate) -> dict[str, Any]:
        """Move a domain to another machine while it runs; how long it stood still. Raises ControlError; then `runs` tells what
        became of it, here and there.
        """
        name = wanted.domain
        with self._locks[name], self._client() as client:
            request = client.post(wanted)
            result: Any = None
            while not isinstance(result, Migrated):
                reply = client.receive(None)
                if reply is not None and reply.id == request:
                    result = reply.result()
            State(self._machine.folder, name).remove()
            self._ready.discard(name)
        return {
            "downtime_ms": round(result.downtime_seconds * 1000),
            "seconds": round(result.total_seconds, 3),
        }

    def arrived(self, domain: Portable, store: Store) -> dict[str, Any]:
        """A domain has come here while it ran: it is one of those that were brought up here. Raises ControlError."""
        with self._locks[domain.name], self._client() as client:
            state = State(self._machine.folder, domain.name)
            with state.locked():
                plan = planned_here(domain, store.stored(domain.files), state.folder)
                for about in client.call(List()):
                    if about.name == domain.name:
                        state.note_ready(plan.domains[domain.name], about.domid)
            self._ready.add(domain.name)
        return {}

    def runs(self, name: str) -> bool:
        """Whether a domain of this name is here and has not ended; after a moment, for it is asked again and again. Raises
        ControlError.
        """
        time.sleep(LOOK_AGAIN)
        with self._client() as client:
            return any(about.name == name and about.shutdown is None for about in client.call(List()))

    def listed(self, after: int) -> list[dict[str, Any]]:
        """The domains of the machine but Dom0, after so many seconds. Raises ControlError."""
        time.sleep(after)
        with self._client() as client:
            return [row_of(about) for about in client.call(List()) if about.domid != 0]

    @contextmanager
    def _client(self) -> Iterator[ControlClient]:
        if self._abandoned:
            raise self._gone()
        with machines.connect(self._machine.name) as client:
            if self._abandoned:  # it may be a client of the next machine
                raise self._gone()
            yield client

    def _gone(self) -> ControlError:
        return ControlError(Exit.FAILURE, f"host {self._host} has begun anew")

    def _tell(self, name: str, became: str) -> None:
        note(f"{self._host}: {name} {became}")


@contextmanager
def suppress_gone() -> Iterator[None]:
    """A domain that has just ended by itself is nobody's error."""
    try:
        yield
    except ControlError as error:
        if error.code != Exit.NO_SUCH_DOMAIN:
            raise


def wanted_move(about: Any) -> Migrate:
    """A migration that the head orders. Raises KeyError, TypeError, ValueError."""
    where = about["where"]
    wanted: Migrate = decode(
        Migrate,
        {
            "domain": about["name"],
            "folder": where.get("folder"),
            "place": where.get("place"),
            "key": where.get("key"),
            "copy_disks": bool(about["copy_disks"]),
        },
    )
    return wanted


def row_of(about: Listed) -> dict[str, Any]:
    """A domain, as the head tells of it."""
    return {
        "name": about.name,
        "domid": about.domid,
        "memory_mib": about.memory_kib // 1024,
        "ended": about.shutdown,
    }
