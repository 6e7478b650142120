"""The thread that hears what guests say and how they end, so that it is known whatever the test is doing.

One a machine. Each connection with Dom0 is a Line. What a line hears and what it is asked to send goes by one lock, the
machine's, on which tests wait for something to be heard.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from domains.control.address import MachineAddress
from domains.control.arguments import Arguments
from domains.control.client import Reply
from domains.control.protocol import ControlError, MachineEnded
from domains.testing.asking import connected


class Line:
    """One connection with Dom0: `hear(reply)` is called for each reply, `lost()` at the machine's end, with the lock held."""

    def __init__(
        self, address: MachineAddress, hear: Callable[[Reply], None], lost: Callable[[], None]
    ) -> None:
        self.client = connected(address)
        self.hear = hear
        self.lost = lost

    def post(self, arguments: Arguments[Any]) -> int:
        """Ask, with the lock held; the number that replies bear."""
        return self.client.post(arguments)


class Listener:
    """The thread and its lines. `heard` is the lock and what tests wait on. `failed(why)` is called if it cannot go on."""

    def __init__(self, failed: Callable[[str], None]) -> None:
        self._failed = failed
        self.heard = threading.Condition(threading.RLock())
        self._lines: dict[int, Line] = {}
        self._poll = select.poll()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll.register(self._wake_read, select.POLLIN)
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="xenoscope-listener", daemon=True)
        self._thread.start()

    def add(self, line: Line) -> None:
        """Hear this one from now on; with the lock held, so that what was asked before is heard."""
        self._lines[line.client.fd] = line
        self._poll.register(line.client.fd, select.POLLIN)
        os.write(self._wake_write, b"\0")

    def remove(self, line: Line) -> None:
        """Hear it no longer, and close it; harmless if it is not heard."""
        with self.heard:
            if self._lines.pop(line.client.fd, None) is not None:
                with suppress(KeyError):
                    self._poll.unregister(line.client.fd)
                line.client.close()

    def wait(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait until it holds; it is looked at with the lock held. False if so many seconds passed first."""
        with self.heard:
            return self.heard.wait_for(condition, seconds)

    def close(self) -> None:
        """Hear nothing any more."""
        self._closing = True
        os.write(self._wake_write, b"\0")
        self._thread.join()
        for line in list(self._lines.values()):
            self.remove(line)
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _run(self) -> None:
        try:
            self._hear_all()
        except Exception as error:  # noqa: BLE001 - the outermost frame of the thread
            with self.heard:
                self._failed(f"the pytest plugin itself failed: {type(error).__name__}: {error}")
                self.heard.notify_all()

    def _hear_all(self) -> None:
        while not self._closing:
            for fd, _events in self._poll.poll():
                if fd == self._wake_read:
                    os.read(fd, 4096)
                    continue
                with self.heard:
                    line = self._lines.get(fd)
                    if line is not None:
                        self._hear(line)
                    self.heard.notify_all()

    def _hear(self, line: Line) -> None:
        try:
            while (reply := line.client.receive(0)) is not None:
                line.hear(reply)
        except MachineEnded:
            self.remove(line)
            line.lost()
        except ControlError:  # an answer in a form that no Dom0 uses
            self.remove(line)
            line.lost()
