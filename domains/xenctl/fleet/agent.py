"""The agent of a host: it owns the host's machine, renews the host's lease, and does what the head orders.

One loop in the main thread renews and watches the lease; whatever takes time (bringing a domain up, ending one) goes to
threads. When the lease is over, the machine is killed with all its domains, a new one is started, and the host joins again, as
another incarnation. The machine is the agent's child and ends with it (private_machine.py), however the agent ends.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final

from pydantic import ValidationError

from domains.control.fleet_link import Keys, Link
from domains.control.fleet_messages import Answer, Goodbye, Granted, Join, Order, Refused, Renew
from domains.control.protocol import ControlError
from domains.control.records import Record
from domains.fleet.lease import NS_PER_S, Held, Tenant
from domains.xenctl.fleet import doors
from domains.xenctl.fleet.hosts import Introduction
from domains.xenctl.fleet.journal import boottime, note
from domains.xenctl.fleet.runs import Runs, WrongOrder
from domains.xenctl.fleet.store import Refused as NotKept
from domains.xenctl.fleet.store import Store, default_store
from domains.xenctl.launch import Hardware
from domains.xenctl.private_machine import PrivateMachine

JOIN_AGAIN: Final = NS_PER_S
"""ns between two tries to join."""
KILL_AFTER: Final = 0.5
"""Seconds that a machine has to end by itself when its host's lease is over. The margin of leases must cover it."""
THREADS: Final = 16
"""Orders that are carried out side by side."""
REMEMBERED: Final = 1000
"""Orders whose answers are kept; the head has fewer under way."""


class Agent:
    """One host's."""

    def __init__(self, introduction: Introduction) -> None:
        """Starts the machine. Raises ControlError."""
        self._about = introduction
        os.environ["XDG_CONFIG_HOME"] = str(doors.folder_of_doors(introduction.machine))
        self._key = doors.public_key(introduction.machine)
        self._machine = self._new_machine()
        self._machine.start()
        self._store = Store(
            default_store() if introduction.store is None else Path(introduction.store).expanduser()
        )
        self._tenant = Tenant(time.time_ns())
        try:
            self._runs = Runs(self._machine, introduction)
        except ControlError:
            self._machine.end(KILL_AFTER)
            raise
        self._joined = False
        self._next = 0
        self._ends = self._orphaned = False
        self._answers: SimpleQueue[Answer] = SimpleQueue()
        self._orders: OrderedDict[int, Answer | None] = OrderedDict()
        """The last orders, by their ids; None: the answer is not known yet."""
        self._awake, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        self._threads = ThreadPoolExecutor(THREADS)
        keys = Keys(introduction.public_key, introduction.secret_key)
        self._link = Link(introduction.endpoint, keys, introduction.head_key)
        for fd in (self._awake, self._machine.ended, sys.stdin.fileno()):
            self._link.watch(fd)

    def run(self) -> None:
        """Until the head says goodbye, or nobody can be reached any more: the head is gone, and the lease is over."""
        note(f"{self._about.host}: machine {self._about.machine} runs")
        try:
            while not self._ends:
                self._renew()
                self._link.wait(max(self._until_next() / NS_PER_S, 0))
                self._look_at_stdin()
                self._look()
                for message in self._link.receive():
                    self._heard(message)
                self._look()
                self._send_answers()
        finally:
            self._machine.end(KILL_AFTER)
            doors.forget(self._about.machine)
            self._store.close()
            self._link.close()
            note(f"{self._about.host}: has ended")

    def stop(self) -> None:
        """Let `run` return."""
        self._ends = True
        self._rouse()

    def _look_at_stdin(self) -> None:
        """Its end is the end of whoever started this agent; then nobody is served once the lease is over."""
        stdin = sys.stdin.fileno()
        if not self._orphaned and readable(stdin) and not os.read(stdin, 4096):
            self._orphaned = True
            self._link.unwatch(stdin)
            note(f"{self._about.host}: whoever started it is gone")
        self._ends = self._ends or (self._orphaned and self._tenant.state is not Held.HELD)

    # --- the lease -------------------------------------------------------------------------------

    def _until_next(self) -> int:
        now, tenant = boottime(), self._tenant
        return min(self._next, tenant.until if tenant.state is Held.HELD else self._next) - now

    def _renew(self) -> None:
        now = boottime()
        if now < self._next:
            return
        incarnation = self._tenant.incarnation
        if self._tenant.state is Held.WAITING and not self._joined:
            about = {"pid": os.getpid(), **doors.described(self._machine, self._key)}
            self._joined = self._link.send(Join(incarnation, json.dumps(about)))
        if self._joined:
            self._link.send(Renew(incarnation, now))
        self._next = now + (
            self._about.renew if self._tenant.state is Held.HELD else min(JOIN_AGAIN, self._about.renew)
        )

    def _look(self) -> None:
        """Whether the lease is over, or the machine has died of itself."""
        now = boottime()
        if self._ends:
            return
        if self._tenant.look(now) is Held.OVER:
            self._begin_anew(f"the lease is over since {(now - self._tenant.until) / 1e6:.0f} ms")
        elif self._machine.has_died():
            self._begin_anew(f"the machine has died: {self._machine.why()}")

    def _begin_anew(self, why: str) -> None:
        """Stop everything that runs, and only then be another incarnation."""
        host, names = self._about.host, self._runs.names()
        note(f"{host}: {why}; stops {len(names)} domains: {' '.join(names)}")
        self._link.unwatch(self._machine.ended)
        self._runs.abandon()
        self._machine.end(KILL_AFTER)
        note(f"{host}: has stopped {len(names)} domains: {' '.join(names)}")
        if self._orphaned:
            self._ends = True
            return
        self._machine = self._new_machine()
        self._machine.start()
        self._link.watch(self._machine.ended)
        self._runs = Runs(self._machine, self._about)
        self._tenant, self._joined, self._next = Tenant(time.time_ns()), False, 0

    def _new_machine(self) -> PrivateMachine:
        about = self._about
        listen = doors.listening_at(about.address) if about.listens else None
        hardware = Hardware(about.memory, about.cpus, (), about.sched, about.slice_ns, listen=listen)
        return PrivateMachine(about.machine, hardware, exactly=True)

    # --- messages --------------------------------------------------------------------------------

    def _heard(self, message: Record) -> None:
        if isinstance(message, Granted):
            was = self._tenant.state
            self._tenant.granted(message.incarnation, message.until, boottime())
            if was is Held.WAITING and self._tenant.state is Held.HELD:
                note(f"{self._about.host}: has a lease")
        elif isinstance(message, Refused):
            if message.incarnation == self._tenant.incarnation and self._tenant.state is Held.WAITING:
                self._joined = False  # it runs nothing: the head has not heard that it joined
            else:
                self._tenant.refused(message.incarnation)
        elif isinstance(message, Goodbye):
            self._ends = True
        elif isinstance(message, Order):
            self._ordered(message)

    def _answer(self, answer: Answer) -> None:
        self._orders[answer.id] = answer
        self._link.send(answer)

    def _ordered(self, order: Order) -> None:
        """Carry an order out, once: it comes again until it is answered, and its answer may have been lost. One that comes before
        the lease does, which the head has granted already, is left to come again.
        """
        if order.id in self._orders:
            if (answer := self._orders[order.id]) is not None:
                self._link.send(answer)
            return
        if self._tenant.look(boottime()) is not Held.HELD:
            return
        self._orders[order.id] = None
        while len(self._orders) > REMEMBERED:
            self._orders.popitem(last=False)
        try:
            about = json.loads(order.about)
            if order.what == "missing":
                self._link.send(
                    Answer(order.id, None, json.dumps(self._store.missing(list(about["digests"]))))
                )
            elif order.what == "put":
                self._store.put(
                    str(about["digest"]),
                    str(about["name"]),
                    int(about["offset"]),
                    order.data,
                    last=bool(about["last"]),
                )
                self._answer(Answer(order.id))
            else:
                work = self._runs.work(order.what, about, self._store)
                self._threads.submit(self._carry_out, order.id, work)
        except (NotKept, WrongOrder) as error:
            self._answer(Answer(order.id, str(error)))
        except OSError as error:
            self._answer(Answer(order.id, f"{error.filename or 'the host'}: {error.strerror}"))
        except (ValueError, KeyError, TypeError, ValidationError):
            self._answer(Answer(order.id, f"the order '{order.what}' is not as it should be"))

    def _carry_out(self, number: int, work: Callable[[], Any]) -> None:
        """In a thread."""
        try:
            answer = Answer(number, None, json.dumps(work()))
        except ControlError as error:
            answer = Answer(number, error.message)
        except OSError as error:
            answer = Answer(number, f"{error.filename or 'the host'}: {error.strerror}")
        except Exception as error:  # noqa: BLE001 - the outermost frame of a thread: the head is told
            answer = Answer(number, f"a mistake of the agent's own: {type(error).__name__}: {error}")
        self._answers.put(answer)
        self._rouse()

    def _rouse(self) -> None:
        try:
            os.write(self._wake, b"\0")
        except BlockingIOError:  # it is awake already
            return

    def _send_answers(self) -> None:
        while readable(self._awake):
            os.read(self._awake, 4096)
        try:
            while True:
                self._answer(self._answers.get_nowait())
        except Empty:
            return


def readable(fd: int) -> bool:
    """Whether something is to be read there."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def main() -> int:
    """The process of an agent; what goes wrong is its last line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        introduction = Introduction.model_validate_json(sys.stdin.readline())
    except ValidationError:
        note("an agent is started by a fleet, with an introduction on its standard input")
        return 2
    try:
        agent = Agent(introduction)
    except ControlError as error:
        note(f"{introduction.host}: {error.message}")
        return 1
    signal.signal(signal.SIGTERM, lambda *_: agent.stop())
    try:
        agent.run()
    except ControlError as error:
        note(f"{introduction.host}: {error.message}")
        return 1
    return 0


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # threads may still wait for a machine that there is no more
