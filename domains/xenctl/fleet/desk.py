"""What `xenctl fleet` asks the head, and its answers: how the fleet stands, moves, drains, the end."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any

from domains.control.fleet_link import Peer
from domains.control.fleet_messages import Answer, Order
from domains.control.protocol import ControlError, Exit
from domains.control.records import Record
from domains.fleet.control import Head
from domains.fleet.lease import Held
from domains.fleet.starting import Action, State
from domains.fleet.wanted import NoRoom
from domains.xenctl.fleet.file import Loaded
from domains.xenctl.fleet.hosts import Hosts


class Desk:
    """Of one head. `begun`: all hosts have joined; `trouble`: why nothing came of it; `joined`: what hosts said when they joined;
    `down`: somebody has asked for the end.
    """

    def __init__(
        self,
        loaded: Loaded,
        head: Head,
        hosts: Hosts,
        reply: Callable[[Peer, Record], None],
        perform: Callable[[list[Action]], None],
        begin: Callable[[str], None],
    ) -> None:
        """`begin(host)`: start the agent of a host; raises ControlError."""
        self.begun = self.down = False
        self.trouble = ""
        self.joined: dict[str, dict[str, Any]] = {}
        self._loaded, self._head, self._hosts = loaded, head, hosts
        self._reply, self._perform, self._begin = reply, perform, begin
        self._later: list[Callable[[], bool]] = []
        """Each is called again and again until it says that it is done."""

    def look(self) -> None:
        """Answer what has come to its end meanwhile."""
        self._later = [again for again in self._later if not again()]

    def asked(self, peer: Peer, order: Order) -> None:
        """An order of `xenctl fleet`. What takes longer is answered later."""
        asked: dict[str, Callable[[Peer, int, Any], None]] = {
            "status": self._status,
            "migrate": self._migrate,
            "drain": self._drain,
            "undrain": self._undrain,
            "begin": self._begin_lost,
            "down": self._down,
        }
        try:
            do = asked.get(order.what)
            if do is None:
                raise ControlError(Exit.USAGE, f"the head knows no order '{order.what}'")
            do(peer, order.id, json.loads(order.about))
        except (ControlError, NoRoom) as error:
            self._reply(peer, Answer(order.id, str(error)))
        except (ValueError, KeyError, TypeError):
            self._reply(peer, Answer(order.id, f"the order '{order.what}' is not as it should be"))

    def _answer(self, peer: Peer, number: int, about: Any = None) -> None:
        self._reply(peer, Answer(number, None, json.dumps(about)))

    def _status(self, peer: Peer, number: int, _about: Any) -> None:
        placement = self._head.placement
        there = {host.spec.name: host for host in placement.hosts}
        gone = self._hosts.ended()
        hosts = [
            {
                "name": name,
                "state": self._state_of(name, gone),
                "memory_mib": self._loaded.spec_of(name).memory,
                "free_mib": there[name].free_memory if name in there else None,
                "cpus": about.cpus,
                "domains": len(there[name].domains) if name in there else 0,
                "machine": self._loaded.machine_of(name),
                "pid": self.joined.get(name, {}).get("pid"),
            }
            for name, about in self._loaded.fleet.hosts.items()
        ]
        domains = [
            {
                "name": name,
                "state": str(domain.state),
                "host": domain.host,
                "memory_mib": self._loaded.planned[name].memory,
                "moves": domain.moves,
                "why": domain.why,
            }
            for name, domain in self._head.domains.items()
        ]
        about = {
            "fleet": self._loaded.name,
            "pid": os.getpid(),
            "hosts": hosts,
            "domains": domains,
            "trouble": self.trouble,
            "settled": self.begun and self._head.at_rest(),
        }
        self._answer(peer, number, about)

    def _state_of(self, host: str, gone: Mapping[str, str]) -> str:
        held = self._head.book.state(host)
        if held is Held.WAITING:
            return f"lost: {gone[host]}" if host in gone else "lost" if self.begun else "begins"
        if held is Held.LATE:
            return "late"
        return "up" if self._head.placement.is_open(host) else "closed"

    def _known_host(self, host: str) -> None:
        if host not in self._loaded.fleet.hosts:
            hosts = ", ".join(self._loaded.fleet.hosts)
            raise ControlError(Exit.USAGE, f"the fleet has no host '{host}'; it has {hosts}")
        if self._head.book.state(host) is Held.WAITING:
            raise ControlError(Exit.FAILURE, f"host {host} is lost")

    def _migrate(self, peer: Peer, number: int, about: Any) -> None:
        name, target = str(about["domain"]), about.get("host")
        if name not in self._head.domains:
            raise ControlError(Exit.USAGE, f"the fleet has no domain '{name}'")
        if target is not None:
            self._known_host(target)
            if not self._head.placement.is_open(target):
                raise ControlError(
                    Exit.FAILURE, f"host {target} is closed; open it with 'xenctl fleet undrain'"
                )
        self._perform([self._head.move(name, target)])

        def done() -> bool:
            domain = self._head.domains[name]
            if domain.state in (State.MOVING, State.STARTING, State.WAITING):
                return False
            if domain.why:
                self._reply(peer, Answer(number, f"{name} stays on {domain.host}: {domain.why}"))
            else:
                self._answer(peer, number, {"domain": name, "host": domain.host})
            return True

        self._later.append(done)

    def _drain(self, peer: Peer, number: int, about: Any) -> None:
        host = str(about["host"])
        self._known_host(host)
        tried = {action.domain for action in self._drain_more(host)}

        def done() -> bool:
            there = [self._head.domains.get(one.name) for one in self._head.placement.domains_on(host)]
            left = [domain for domain in there if domain is not None]
            if any(domain.state in (State.MOVING, State.STARTING) for domain in left):
                return False
            stayed = [domain for domain in left if domain.wanted.name in tried]
            try:
                if not stayed and left:
                    tried.update(action.domain for action in self._drain_more(host))
                    return False
            except NoRoom as error:
                self._reply(peer, Answer(number, str(error)))
                return True
            if stayed:
                told = ", ".join(f"{one.wanted.name} ({one.why})" for one in stayed)
                self._reply(peer, Answer(number, f"these stay on {host}: {told}"))
            else:
                self._answer(peer, number, {"host": host, "moved": sorted(tried)})
            return True

        self._later.append(done)

    def _drain_more(self, host: str) -> list[Action]:
        actions = self._head.drain(host)
        self._perform(actions)
        return actions

    def _undrain(self, peer: Peer, number: int, about: Any) -> None:
        host = str(about["host"])
        self._known_host(host)
        self._head.placement.reopen(host)
        self._perform(self._head.start_waiting())
        self._answer(peer, number, {"host": host})

    def _begin_lost(self, peer: Peer, number: int, _about: Any) -> None:
        """Start the agents of hosts that have none any more; whether they join is seen by `status`."""
        lost = [host for host in self._hosts.ended() if self._head.book.state(host) is Held.WAITING]
        for host in lost:
            self._hosts.forget(host)
            self._begin(host)
        self._answer(peer, number, {"hosts": lost})

    def _down(self, peer: Peer, number: int, _about: Any) -> None:
        self._answer(peer, number, {"down": True})
        self.down = True
