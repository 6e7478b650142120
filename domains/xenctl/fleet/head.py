"""The head of a fleet: one process with one loop. Decisions are domains/fleet/control.py's; here agents, clients and files are
reached.

    begins ──all hosts have joined──► runs ──`down`──► ends
       └──one cannot be begun, or does not join──► in trouble: ends what has begun, tells whoever asks, ends
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, Final

from domains.control.fleet_link import HeadLink, Peer, new_keys
from domains.control.fleet_messages import Answer, Goodbye, Granted, Join, Order, Refused, Renew
from domains.control.protocol import ControlError, Exit
from domains.control.records import Record
from domains.fleet.control import Head
from domains.fleet.lease import NS_PER_S, Held
from domains.fleet.placement import Placement
from domains.fleet.starting import Action, Do
from domains.fleet.wanted import NoRoom
from domains.xenctl.fleet.desk import Desk
from domains.xenctl.fleet.doors import forget
from domains.xenctl.fleet.file import Loaded
from domains.xenctl.fleet.flows import Flows
from domains.xenctl.fleet.hosts import Hosts, Introduction
from domains.xenctl.fleet.journal import boottime, note
from domains.xenctl.fleet.networks import lans_of
from domains.xenctl.fleet.orders import Orders
from domains.xenctl.fleet.place import SOCKET
from domains.xenctl.fleet.portable import Files, Portable, portable

JOIN_TIMEOUT: Final = 30.0
JOIN_TIMEOUT_RAY: Final = 90.0
"""Seconds: Ray starts a process of its own before each agent, which takes ten seconds on a busy host."""
TICK: Final = 0.1
"""Seconds between two looks at leases and agents."""
RETRY: Final = NS_PER_S
"""ns until what could not be started is tried again."""
LIST: Final = 5 * NS_PER_S
"""ns between two looks at which domains have ended by themselves."""
LAST_WORDS: Final = 5.0
"""Seconds in which a head in trouble tells why to whoever asks."""


class HeadProcess:
    """One fleet's."""

    def __init__(
        self, loaded: Loaded, folder: Path, hosts: Hosts, join_timeout: float = JOIN_TIMEOUT
    ) -> None:
        """`join_timeout`: seconds in which every host must have joined. Raises OSError if a file cannot be read, or
        the head cannot listen.
        """
        self._loaded, self._hosts = loaded, hosts
        self._join_timeout = JOIN_TIMEOUT_RAY if loaded.fleet.engine == "ray" else join_timeout
        self._files = Files(loaded.project.folder)
        self._portable: dict[str, Portable] = {
            name: portable(planned, self._files) for name, planned in loaded.planned.items()
        }
        self.head = Head(loaded.fleet.lease.terms(), Placement(loaded.fleet.vcpus_per_cpu))
        self._keys = new_keys()
        self._link = HeadLink(loaded.fleet.address, self._keys, folder / SOCKET)
        self._orders = Orders(self._link.tell)
        self._flows = Flows(self.head, self._files, self._portable, self.perform, self._where)
        self._ends_at: float | None = None
        self._next_retry = self._next_list = 0
        self._desk = Desk(loaded, self.head, hosts, self._link.answer, self.perform, self._begin)

    def run(self) -> None:
        """Until the fleet is down."""
        note(f"head of {self._loaded.name} at {self._link.endpoint}, pid {os.getpid()}")
        try:
            self._begin_all()
            while not self._desk.down and (self._ends_at is None or time.monotonic() < self._ends_at):
                self._link.wait(TICK)
                for peer, message in self._link.receive():
                    self._heard(peer, message)
                self._look()
        finally:
            self._end()

    # --- hosts -----------------------------------------------------------------------------------

    def _begin_all(self) -> None:
        self._deadline = time.monotonic() + self._join_timeout
        try:
            for host in self._loaded.fleet.hosts:
                self._begin(host)
        except ControlError as error:
            self._in_trouble(error.message)

    def _begin(self, host: str) -> None:
        """Start the agent of a host."""
        fleet, machine = self._loaded.fleet, self._loaded.project.topology.machine
        keys, about, terms = new_keys(), fleet.hosts[host], fleet.lease.terms()
        self._link.allow(host, keys.public)
        self._hosts.begin(
            Introduction(
                fleet=self._loaded.name,
                host=host,
                endpoint=self._link.endpoint,
                head_key=self._keys.public,
                public_key=keys.public,
                secret_key=keys.secret,
                machine=self._loaded.machine_of(host),
                memory=about.memory,
                cpus=about.cpus,
                sched=machine.sched,
                slice_ns=None if machine.slice_ms is None else round(machine.slice_ms * 1e6),
                lasts=terms.lasts,
                renew=terms.renew,
                margin=terms.margin,
                address=self._loaded.address_of(host),
                listens=not self._loaded.on_loopback,
                lans=lans_of(
                    self._loaded.project.topology, self._loaded.name, loopback=self._loaded.on_loopback
                ),
                peers=[self._loaded.address_of(one) for one in fleet.hosts],
                store=about.store,
            )
        )

    def _look(self) -> None:
        """What time brings: leases that end, agents that end, what is tried again."""
        now = boottime()
        actions = self.head.tick(now)
        for host, held in self.head.overdue:
            note(f"host {host} is {held}", now)
            if held is Held.OVER:
                self._orders.lost(host)
                self._tell_peers()
        self.perform(actions)
        self._orders.send_again()
        if not self._desk.begun:
            self._gather()
        elif now >= self._next_retry:
            self._next_retry = now + RETRY
            self.perform(self.head.start_waiting())
        if now >= self._next_list:
            self._next_list = now + LIST
            for one in self.head.placement.hosts:
                self._orders.start(self._flows.looking(one.spec.name))
        self._desk.look()

    def _gather(self) -> None:
        """While the fleet begins: once all hosts have joined, the domains start."""
        if self._desk.trouble:
            return
        missing = [host for host in self._loaded.fleet.hosts if self.head.book.state(host) is not Held.HELD]
        for host, why in self._hosts.ended().items():
            self._in_trouble(f"host {host}: {why}")
            return
        if not missing:
            self._desk.begun = True
            self._tell_peers()
            try:
                self.perform(self._want(self._loaded))
            except NoRoom as error:
                self._in_trouble(str(error))
        elif time.monotonic() > self._deadline:
            what = (
                f"its agent has not reached the head at {self._link.endpoint} within {self._join_timeout:g} s"
            )
            self._in_trouble(f"host {missing[0]}: {what}, so it has no lease")

    def _want(self, loaded: Loaded) -> list[Action]:
        after = {name: planned.after for name, planned in loaded.planned.items()}
        return self.head.want(list(loaded.wanted.values()), after)

    def _in_trouble(self, why: str) -> None:
        """Nothing is left half begun: all agents end, and whoever asks is told."""
        if not self._desk.trouble:
            note(f"in trouble: {why}")
            self._desk.trouble = why
            self._ends_at = time.monotonic() + LAST_WORDS
            self._part()

    def _part(self) -> None:
        for host in self._loaded.fleet.hosts:
            self._link.tell(host, Goodbye())

    def _end(self) -> None:
        self._part()
        self._hosts.end()
        for host in self._loaded.fleet.hosts:  # of this computer: an agent that was killed has left something
            forget(self._loaded.machine_of(host))
        self._link.close()
        note("the fleet is down")

    # --- messages --------------------------------------------------------------------------------

    def _heard(self, peer: Peer, message: Record) -> None:
        if peer.host is None:
            if isinstance(message, Order):
                self._desk.asked(peer, message)
        elif isinstance(message, Renew):
            until = self.head.renew(peer.host, message.incarnation, message.stamp, boottime())
            incarnation = message.incarnation
            self._link.answer(peer, Refused(incarnation) if until is None else Granted(incarnation, until))
        elif isinstance(message, Join):
            self._joins(peer.host, message)
        elif isinstance(message, Answer):
            self._orders.answered(peer.host, message)

    def _joins(self, host: str, message: Join) -> None:
        now = boottime()
        if self.head.book.incarnation(host) == message.incarnation or host not in self._loaded.fleet.hosts:
            return
        try:
            self._desk.joined[host] = dict(json.loads(message.about))
        except (ValueError, TypeError):
            self._desk.joined[host] = {}
        self._orders.lost(host)
        if self._desk.begun:
            self._tell_peers(host)
        actions = self.head.join(self._loaded.spec_of(host), message.incarnation, now)
        note(f"host {host} has joined; {len(actions)} domains start", now)
        self.perform(actions)

    def _tell_peers(self, *come: str) -> None:
        """Tell all hosts which there are, so that nothing is sent to one that is lost, and what was learned of it is
        forgotten.
        """
        there = [host.spec.name for host in self.head.placement.hosts if host.spec.name not in come]
        peers = [self._loaded.address_of(host) for host in (*there, *come)]
        keys = [str(self._desk.joined.get(host, {}).get("key", "")) for host in (*there, *come)]
        for host in there:
            self._orders.start(self._flows.knowing(host, peers, keys))

    def _where(self, source: str, target: str) -> dict[str, Any]:
        """How the machine of one host names that of another, to which a domain moves while it runs. Raises ControlError."""
        here, there = (self._desk.joined.get(host, {}) for host in (source, target))
        if here.get("computer") and here.get("computer") == there.get("computer"):
            return {"folder": there.get("folder")}
        if there.get("listens") is None:
            raise ControlError(Exit.FAILURE, f"the machine of {target} does not listen")
        return {"place": there.get("listens"), "key": there.get("key")}

    def perform(self, actions: list[Action]) -> None:
        """Do what the head has decided."""
        for action in actions:
            if action.do is Do.START:
                note(f"{action.domain} starts on {action.host}")
                self._orders.start(self._flows.starting(action.domain, action.host))
            else:
                note(f"{action.domain} moves from {action.host} to {action.target}")
                self._orders.start(self._flows.moving(action.domain, action.host, action.target or ""))
