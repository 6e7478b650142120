"""Questions to Dom0 that are answered at once, one at a time, from whatever thread."""

from __future__ import annotations

import threading
from typing import TypeVar

from domains.control.address import MachineAddress
from domains.control.arguments import Arguments
from domains.control.client import ControlClient
from domains.control.protocol import MachineEnded

R = TypeVar("R")


def connected(address: MachineAddress) -> ControlClient:
    """A client of a machine that was there. Raises ControlError, MachineEnded among them."""
    try:
        return ControlClient(address)
    except OSError:
        raise MachineEnded from None


class Ask:
    """`ask(arguments)` is the answer. Raises ControlError, MachineEnded among them. What interrupts a question costs the
    connection alone; the next question has another.
    """

    def __init__(self, address: MachineAddress) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._client: ControlClient | None = None

    def __call__(self, arguments: Arguments[R], timeout: float = 30.0) -> R:
        with self._lock:
            client, self._client = self._client or connected(self._address), None
            try:
                answer = client.call(arguments, timeout=timeout)
            except BaseException:
                client.close()
                raise
            self._client = client
            return answer

    def close(self) -> None:
        """End the connection; harmless if there is none."""
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None
