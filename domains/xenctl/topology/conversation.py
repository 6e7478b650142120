"""Many talks with the toolstack at once, over one client.

A talk is a generator. It yields what it wants of the toolstack and is sent the answer, or has ControlError thrown
into it; meanwhile the others go on.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from domains.control.arguments import Arguments
from domains.control.client import ControlClient, Reply
from domains.control.operations import ConsoleDetach
from domains.control.protocol import ControlError, Exit


@dataclass(frozen=True)
class Ask:
    """A request; the talk goes on with its first answer.

    `also`: sent with it, and its answers come to the talk too. `then`: sent behind both, its answer is nobody's.
    """

    arguments: Arguments[Any]
    deadline: float
    late: str = "Dom0 does not answer"
    also: Arguments[Any] | None = None
    then: Arguments[Any] | None = None


@dataclass(frozen=True)
class More:
    """The next answer to the last Ask."""

    deadline: float
    late: str = "Dom0 does not answer"


Talk = Generator[Ask | More, Any, None]


@dataclass(eq=False)
class Talking:
    """A talk in progress."""

    talk: Talk
    ended: Callable[[ControlError | None], None]
    requests: set[int] = field(default_factory=set)
    step: Ask | More | None = None
    inbox: list[Reply] = field(default_factory=list)


class Conversations:
    """All talks over one client."""

    def __init__(self, client: ControlClient) -> None:
        self._client = client
        self._talks: list[Talking] = []

    def start(self, talk: Talk, ended: Callable[[ControlError | None], None]) -> None:
        """Begin; `ended(None)` or `ended(error)` is called when it is over, perhaps at once."""
        talking = Talking(talk, ended)
        self._talks.append(talking)
        self._go_on(talking, lambda: next(talk))

    def run(self) -> None:
        """Until all talks are over. Raises ControlError if the machine dies."""
        poll = select.poll()
        poll.register(self._client.fd, select.POLLIN)
        while self._talks:
            self._hear()
            self._end_waits()
            if self._talks:
                left = min(t.step.deadline for t in self._talks if t.step is not None) - time.monotonic()
                poll.poll(max(left, 0) * 1000 + 1)

    def _hear(self) -> None:
        """Give every reply that is there to the talk that it belongs to."""
        while (reply := self._client.receive(0)) is not None:
            for talking in list(self._talks):
                if reply.id in talking.requests:
                    talking.inbox.append(reply)
                    self._serve(talking)

    def _serve(self, talking: Talking) -> None:
        """Hand over what has come, as long as the talk wants it."""
        while talking.inbox and talking.step is not None:
            reply = talking.inbox.pop(0)
            try:
                result = reply.result()
            except ControlError as error:
                self._throw(talking, error)
            else:
                self._go_on(talking, partial(talking.talk.send, result))

    def _end_waits(self) -> None:
        now = time.monotonic()
        for talking in list(self._talks):
            step = talking.step
            if step is not None and step.deadline <= now:
                self._throw(talking, ControlError(Exit.TIMED_OUT, step.late))

    def _throw(self, talking: Talking, error: ControlError) -> None:
        self._go_on(talking, lambda: talking.talk.throw(error))

    def _go_on(self, talking: Talking, step: Callable[[], Ask | More]) -> None:
        """Let a talk take its next step; what it asks for is sent."""
        talking.step = None
        try:
            wanted = step()
        except StopIteration:
            self._end(talking, None)
        except ControlError as error:
            self._end(talking, error)
        else:
            talking.step = wanted
            if isinstance(wanted, Ask):
                self._ask(talking, wanted)
            elif isinstance(wanted, More):
                self._serve(talking)

    def _ask(self, talking: Talking, wanted: Ask) -> None:
        self._hang_up(talking)
        for arguments in (wanted.arguments, wanted.also):
            if arguments is not None:
                talking.requests.add(self._client.post(arguments))
        if wanted.then is not None:
            self._client.post(wanted.then)

    def _hang_up(self, talking: Talking) -> None:
        """Hear no more of what was asked before."""
        talking.inbox.clear()
        for request in talking.requests:
            self._client.post(ConsoleDetach(request))
        talking.requests.clear()

    def _end(self, talking: Talking, error: ControlError | None) -> None:
        self._hang_up(talking)
        self._talks.remove(talking)
        talking.ended(error)
