"""One guest's life on a private machine, followed from outside until something decides how it ended."""

from __future__ import annotations

import re
import select
import time
from dataclasses import dataclass
from typing import Any, Final

from domains.control.client import ControlClient
from domains.control.description import DomainConfig
from domains.control.operations import Created, CreateWatched, Dmesg, Ended, FollowLog
from domains.control.protocol import ControlError, Exit, MachineEnded
from domains.xenctl.output import print_warning, write_bytes
from domains.xenctl.private_machine import PrivateMachine

CRASHES: Final = ("crash", "watchdog")
REFUSED: Final = "refused"


@dataclass(frozen=True)
class Wanted:
    """`text` on the console ends the run well; nothing: a power-off does. `restart`: a reboot ends nothing.
    `deadline`, on the monotonic clock: whatever has not ended by then has failed.
    """

    text: bytes = b""
    restart: bool = False
    deadline: float | None = None


class Search:
    """Looks for a text in what comes in pieces; an empty text is never found."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._tail = b""

    def finds(self, data: bytes) -> bool:
        """Whether the text is complete with `data`."""
        seen = self._tail + data
        self._tail = seen[max(len(seen) - len(self._text) + 1, 0) :]
        return bool(self._text) and self._text in seen


class GuestRun:
    """Runs a guest once. Afterwards `ended` says how, and `log` what the hypervisor said of a crash."""

    def __init__(self, config: DomainConfig, wanted: Wanted, *, collect: bool) -> None:
        """`collect`: keep the console in `console` and show nothing."""
        self.ended: str | None = None
        self.log: list[str] = []
        self.console = bytearray()
        self._config = config
        self._wanted = wanted
        self._deadline = wanted.deadline
        self._collect = collect
        self._on_console, self._in_log = Search(wanted.text), Search(wanted.text)
        self._log_line, self._log_request = b"", 0
        self._domid = 0

    def run(self, memory: int) -> None:
        """Run it on a machine of `memory` MiB; returns if it ended well. Raises ControlError."""
        self._machine = PrivateMachine("run", memory, self._deadline)
        with self._machine as client:
            self._log_request = client.post(FollowLog())
            self.ended = self._life(client)
            while self.ended == "reboot" and self._wanted.restart:
                self.ended = self._life(client)
            if self.ended in CRASHES:
                self.log = crash_lines(client.call(Dmesg()), self._domid)
        self._judge()

    def about(self, error: ControlError | None) -> dict[str, Any]:
        """The result as plain data."""
        return {
            "ended": self.ended or REFUSED,
            "code": int(error.code) if error else int(Exit.OK),
            "error": error.message if error else None,
            "console": self.console.decode("utf-8", "replace"),
            "log": self.log,
        }

    def _life(self, client: ControlClient) -> str:
        """From creation to the end of a domain; how it ended. Raises ControlError."""
        request = client.post(CreateWatched(self._config))
        poll = select.poll()
        poll.register(client.fd, select.POLLIN)
        while True:
            try:
                while (reply := client.receive(0)) is not None:
                    hear = self._hear if reply.id == request else self._hear_xen
                    if (
                        reply.id in (request, self._log_request)
                        and (ended := hear(reply.result())) is not None
                    ):
                        return ended
            except MachineEnded:
                raise ControlError(Exit.FAILURE, f"the machine has died: {self._machine.why()}") from None
            left = None if self._deadline is None else self._deadline - time.monotonic()
            if left is not None and left <= 0:
                return "timeout"
            poll.poll(None if left is None else left * 1000 + 1)

    def _hear(self, result: Created | Ended | bytes) -> str | None:
        """One message of the console's stream; how the run ended, if that is decided."""
        if isinstance(result, Created):
            self._domid = result.domid
            for warning in result.warnings:
                print_warning(warning)
            return None
        if isinstance(result, Ended):
            return result.ended
        self._show(result)
        return "expected" if self._on_console.finds(result) else None

    def _hear_xen(self, log: bytes) -> str | None:
        """What is new in the hypervisor's log. The guest's lines in it are shown with their mark, and they count."""
        *lines, self._log_line = (self._log_line + log).split(b"\n")
        mark = b"(d%d) " % self._domid
        for line in lines:
            if line.startswith(mark):
                self._show(line + b"\n")
                if self._in_log.finds(line.removeprefix(mark) + b"\n"):
                    return "expected"
        return None

    def _show(self, data: bytes) -> None:
        if self._collect:
            self.console += data
        else:
            write_bytes(data)

    def _judge(self) -> None:
        """Raises ControlError unless the run ended well."""
        text = self._wanted.text.decode()
        if self.ended == "expected" or (self.ended == "poweroff" and not text):
            return
        if self.ended == "timeout":
            what = f"did not print '{text}'" if text else "did not end"
            raise ControlError(Exit.TIMED_OUT, f"the guest {what} in time")
        if self.ended in CRASHES:
            raise ControlError(Exit.CRASHED, f"the guest crashed ({self.ended})")
        missing = f" without printing '{text}'" if text else ""
        hint = "; --restart lets it" if self.ended == "reboot" else ""
        raise ControlError(Exit.FAILURE, f"the guest ended{missing}: {self.ended}{hint}")


def crash_lines(log: bytes, domid: int) -> list[str]:
    """The lines of the hypervisor's log that are about a domain, or said by it."""
    lines: list[str] = []
    about = False
    for line in log.decode("utf-8", "replace").splitlines():
        about = bool(re.match(rf"\(?d{domid}\b", line)) or (about and line.startswith("    "))
        if about:
            lines.append(line)
    return lines
