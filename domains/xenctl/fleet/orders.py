"""Orders to agents, and flows of them: a flow is a generator that yields an Ask and is sent what came of it;
meanwhile others go on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

from domains.control.fleet_messages import Answer, Order
from domains.control.protocol import ControlError, Exit


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
    """A flow that waits for an answer."""

    flow: Flow
    host: str


@dataclass
class Orders:
    """All flows. `tell(host, order)` sends one."""

    tell: Callable[[str, Order], None]
    _waiting: dict[int, Waiting] = field(default_factory=dict)
    _numbers: count[int] = field(default_factory=lambda: count(1))

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
            return
        try:
            about = json.loads(answer.about)
        except ValueError:
            about = None
        self._go_on(lambda: flow.send(about), flow)

    def lost(self, host: str) -> None:
        """There will be no more answers to what this host was asked."""
        for number, waiting in list(self._waiting.items()):
            if waiting.host == host and self._waiting.pop(number, None) is not None:
                self._throw_lost(waiting)

    def _throw_lost(self, waiting: Waiting) -> None:
        self._go_on(lambda: waiting.flow.throw(HostLost(waiting.host)), waiting.flow)

    def _go_on(self, step: Callable[[], Ask], flow: Flow) -> None:
        try:
            ask = step()
        except StopIteration:
            return
        number = next(self._numbers)
        self._waiting[number] = Waiting(flow, ask.host)
        self.tell(ask.host, Order(number, ask.what, json.dumps(ask.about), ask.data))
