"""xenctl's end of the connection with a fleet's head."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, Final

from domains.control.fleet_link import Link
from domains.control.fleet_messages import Answer, Order
from domains.control.protocol import ControlError, Exit
from domains.xenctl.fleet.place import connect

TIMEOUT: Final = 30.0


class Client:
    """Asks a head one question after the other."""

    def __init__(self, name: str) -> None:
        """Raises ControlError if the fleet is not up."""
        self._name = name
        self._link: Link = connect(name)
        self._number = 0

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self._link.close()

    def ask(self, what: str, about: Mapping[str, Any] | None = None, timeout: float = TIMEOUT) -> Any:
        """What the head answers. Raises ControlError."""
        self._number += 1
        order = Order(self._number, what, json.dumps(about or {}))
        deadline = time.monotonic() + timeout
        self._link.send(order)
        while True:
            for answer in self._link.receive():
                if isinstance(answer, Answer) and answer.id == self._number:
                    if answer.error is not None:
                        raise ControlError(Exit.FAILURE, answer.error)
                    return json.loads(answer.about)
            self._wait(what, deadline, timeout)

    def _wait(self, what: str, deadline: float, timeout: float) -> None:
        if time.monotonic() > deadline:
            text = f"the head of fleet '{self._name}' did not answer '{what}' within {timeout:g} s"
            raise ControlError(Exit.TIMED_OUT, text)
        self._link.wait(0.01)
