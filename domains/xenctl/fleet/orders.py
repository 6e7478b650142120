"""Orders to agents, and flows of them: a flow is a generator that yields an Ask and is sent what came of it;
meanwhile others go on.
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from itertools import count
from typing import Any, Final, NamedTuple

from domains.control.fleet_messages import Answer, Order
from domains.control.protocol import ControlError, Exit

AT_ONCE: Final = 16
"""Orders that a host has at most; each may hold a thread there, and a piece of a file."""
AGAIN: Final = 2.0
"""Seconds without an answer until an order is sent again."""


class Ask(NamedTuple):
    """An order to a host; the flow goes on with what the agent answers, or ControlError is thrown into it, HostLost if there
    will be no answer.
    """

    host: str
    what: str
    about: dict[str, Any] = {}
    data: bytes = b""


Flow = Generator[Ask, Any, None]


class HostLost(ControlError):
    """The host has been lost, or has begun anew, before it answered."""

    def __init__(self, host: str) -> None:
        super().__init__(Exit.FAILURE, f"host {host} was lost")


@dataclass
class Waiting:
    """A flow that waits for an answer; `sent`: when its order went out last, s of the monotonic clock."""

    flow: Flow
    host: str
    order: Order
    sent: float = -math.inf


class Orders:
    """All flows. `tell(host, order)` sends one, or says that it cannot now.

    An order is sent again until it is answered: messages are lost when a connection breaks. Agents carry out each once, by its id
    (agent.py). A host has AT_ONCE orders at most; what is more waits here.
    """

    def __init__(self, tell: Callable[[str, Order], bool]) -> None:
        self._tell = tell
        self._waiting: dict[int, Waiting] = {}
        self._queued: dict[str, deque[Waiting]] = {}
        self._numbers = count(1)

    def start(self, flow: Flow) -> None:
        """Begin a flow."""
        self._go_on(lambda: next(flow), flow)

    def answered(self, host: str, answer: Answer) -> None:
        """An agent's answer; one that nobody waits for is dropped."""
        waiting = self._waiting.get(answer.id)
        if waiting is None or waiting.host != host:
            return
        del self._waiting[answer.id]
        flow = waiting.flow
        if answer.error is not None:
            error = ControlError(Exit.FAILURE, answer.error)
            self._go_on(lambda: flow.throw(error), flow)
        else:
            about = plain(answer.about)
            self._go_on(lambda: flow.send(about), flow)
        self._send_queued(host)

    def lost(self, host: str) -> None:
        """There will be no more answers to what this host was asked."""
        gone = [*self._queued.pop(host, ())]
        for number, waiting in list(self._waiting.items()):
            if waiting.host == host:
                del self._waiting[number]
                gone.append(waiting)
        for waiting in gone:
            self._throw_lost(waiting)

    def send_again(self) -> None:
        """What has not been answered for a while."""
        now = time.monotonic()
        for waiting in self._waiting.values():
            if now - waiting.sent >= AGAIN:
                self._send(waiting, now)

    def _throw_lost(self, waiting: Waiting) -> None:
        self._go_on(lambda: waiting.flow.throw(HostLost(waiting.host)), waiting.flow)

    def _go_on(self, step: Callable[[], Ask], flow: Flow) -> None:
        try:
            ask = step()
        except StopIteration:
            return
        order = Order(next(self._numbers), ask.what, json.dumps(ask.about), ask.data)
        self._queued.setdefault(ask.host, deque()).append(Waiting(flow, ask.host, order))
        self._send_queued(ask.host)

    def _send_queued(self, host: str) -> None:
        queue = self._queued.get(host)
        while queue and sum(one.host == host for one in self._waiting.values()) < AT_ONCE:
            waiting = queue.popleft()
            self._waiting[waiting.order.id] = waiting
            self._send(waiting, time.monotonic())

    def _send(self, waiting: Waiting, now: float) -> None:
        if self._tell(waiting.host, waiting.order):
            waiting.sent = now


def plain(text: str) -> Any:
    """What is in an answer; None if it is not JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return None
