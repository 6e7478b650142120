"""What the guests of one machine share: its address, the listener, the watch, the hypervisor's log."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from domains.control.address import MachineAddress
from domains.control.client import Reply
from domains.control.operations import Dmesg, FollowLog, List
from domains.control.protocol import ControlError
from domains.testing.asking import Ask
from domains.testing.listener import Line, Listener
from domains.testing.watch import Watch
from domains.xenctl.guest_run import crash_lines
from domains.xenctl.hearing import Transcript

LOG_KEPT: Final = 1 << 20
"""Bytes of the hypervisor's log."""


class LogLines:
    """The lines of one domain in the hypervisor's log, each given to `hear` once."""

    def __init__(self, mark: bytes, hear: Callable[[bytes], None]) -> None:
        self._mark = mark
        self._hear = hear
        self._line = b""
        self._given = 0

    def say(self, log: bytes) -> None:
        """What is new in the log."""
        *lines, self._line = (self._line + log).split(b"\n")
        for line in lines:
            if line.startswith(self._mark):
                self._given += 1
                self._hear(line + b"\n")

    def say_rest(self, log: bytes) -> None:
        """The whole log; lines that have been given are its first."""
        lines = [line for line in log.split(b"\n") if line.startswith(self._mark)]
        for line in lines[self._given :]:
            self._hear(line + b"\n")


class Hub:
    """One per machine. `timeout`: seconds that tests wait if they do not say."""

    def __init__(self, folder: Path, watch: Watch, timeout: float) -> None:
        self.folder = folder
        self.watch = watch
        self.timeout = timeout
        self.address = MachineAddress.in_folder(folder)
        self.ask = Ask(self.address)
        self.log = Transcript(LOG_KEPT)
        self.alive = True
        self.closing = False
        self._said: dict[int, LogLines] = {}
        line = Line(self.address, self._hear, self.machine_died)
        self.listener = Listener(watch.ring)
        with self.listener.heard:
            line.post(FollowLog())
            self.listener.add(line)

    def say_to(self, domid: int, hear: Callable[[bytes], None]) -> None:
        """What this domain says by console_io stands in the log: give it to `hear`, with Xen's mark, as `xenctl run` shows it."""
        listener = LogLines(b"(d%d) " % domid, hear)
        listener.say(self.log.since(0))
        self._said[domid] = listener

    def say_rest_to(self, domid: int) -> None:
        """The domain has ended: what it has said and is still on its way."""
        if (listener := self._said.pop(domid, None)) is not None and self.alive:
            with suppress(ControlError):
                listener.say_rest(self.ask(Dmesg()))

    def _hear(self, reply: Reply) -> None:
        new = reply.result()
        self.log += new
        for listener in self._said.values():
            listener.say(new)

    def machine_died(self) -> None:
        """Its connection is lost. Called with the lock held, once for each line."""
        if self.alive and not self.closing:
            self.watch.ring("the machine has died; its last words are in the report")
        self.alive = False

    def log_of(self, domid: int) -> list[str]:
        """What the hypervisor has said of a domain."""
        return crash_lines(self.log.since(0), domid) if domid else []

    def is_listed(self, domid: int) -> bool:
        """Whether there is such a domain still."""
        try:
            return any(one.domid == domid for one in self.ask(List()))
        except ControlError:
            return False

    def close(self) -> None:
        """Hear nothing any more."""
        self.closing = True
        self.listener.close()
        self.ask.close()
