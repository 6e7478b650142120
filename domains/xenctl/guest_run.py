"""One guest's life on a private machine, followed from outside until something decides how it ended."""

from __future__ import annotations

import re
import select
import time
from typing import Any, Final, NamedTuple

from domains.control.client import ControlClient
from domains.control.description import DomainConfig
from domains.control.operations import Created, CreateWatched, Dmesg, Ended, FollowLog
from domains.control.protocol import ControlError, Exit, MachineEnded
from domains.xenctl.hearing import Search, Transcript
from domains.xenctl.launch import Hardware
from domains.xenctl.output import print_error, print_warning, write_bytes
from domains.xenctl.private_machine import PrivateMachine

CRASHES: Final = ("crash", "watchdog")
REFUSED: Final = "refused"


class Wanted(NamedTuple):
    """`text` on the console ends the run well; without one a power-off does. What is in `exit_on` ends it well too, what is in
    `fail_on` as failed, whichever comes first. `restart`: a reboot ends nothing. `deadline`, on the monotonic clock: whatever
    has not ended by then has failed.
    """

    text: bytes = b""
    restart: bool = False
    deadline: float | None = None
    exit_on: tuple[bytes, ...] = ()
    fail_on: tuple[bytes, ...] = ()

    @property
    def texts(self) -> tuple[bytes, ...]:
        """All that is looked for; a failure first."""
        return (*self.fail_on, self.text, *self.exit_on)


class GuestRun:
    """Runs a guest once. Afterwards `ended` says how, `exit_code` the code that it told, `console` what it printed, and `log`
    what the hypervisor said of a crash.
    """

    def __init__(self, config: DomainConfig, wanted: Wanted, *, show: bool) -> None:
        """`show`: put the console on standard output, too."""
        self.ended: str | None = None
        self.exit_code: int | None = None
        self.log: list[str] = []
        self.console = Transcript()
        self._config = config
        self._wanted = wanted
        self._deadline = wanted.deadline
        self._shows = show
        self._found = b""
        self._on_console, self._in_log = Search(*wanted.texts), Search(*wanted.texts)
        self._log_line, self._log_request = b"", 0
        self._domid = 0

    def run(self, memory: int) -> None:
        """Run it on a machine of `memory` MiB; returns if it ended well. Raises ControlError."""
        self._machine = PrivateMachine("run", Hardware(memory, guest=self._config), self._deadline)
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
            "exit_code": self.exit_code,
            "console": self.console.text(),
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
            self.exit_code = result.exit_code
            return result.ended
        self._show(result)
        return self._found_by(self._on_console, result)

    def _found_by(self, search: Search, data: bytes) -> str | None:
        """How the run has ended, if `data` completes a text that is looked for."""
        found = search.finds(data)
        if found is None:
            return None
        self._found = found
        return "failed" if found in self._wanted.fail_on else "expected"

    def _hear_xen(self, log: bytes) -> str | None:
        """What is new in the hypervisor's log. The guest's lines in it are shown with their mark, and they count."""
        *lines, self._log_line = (self._log_line + log).split(b"\n")
        mark = b"(d%d) " % self._domid
        for line in lines:
            if line.startswith(mark):
                self._show(line + b"\n")
                if (ended := self._found_by(self._in_log, line.removeprefix(mark) + b"\n")) is not None:
                    return ended
        return None

    def _show(self, data: bytes) -> None:
        self.console += data
        if self._shows:
            write_bytes(data)

    def _judge(self) -> None:
        """Raises ControlError unless the run ended well."""
        text, code = self._wanted.text.decode(errors="replace"), self.exit_code
        if self.ended == "expected" or (self.ended == "poweroff" and not text and not code):
            return
        if self.ended == "failed":
            raise ControlError(Exit.FAILURE, f"the guest printed '{self._found.decode(errors='replace')}'")
        if self.ended == "timeout":
            what = f"did not print '{text}'" if text else "did not end"
            raise ControlError(Exit.TIMED_OUT, f"the guest {what} in time")
        told = f", with code {code}" if code else ""
        if self.ended in CRASHES:
            raise ControlError(Exit.CRASHED, f"the guest crashed ({self.ended}){told}")
        missing = f" without printing '{text}'" if text else ""
        hint = "; --restart lets it" if self.ended == "reboot" else ""
        raise ControlError(Exit.FAILURE, f"the guest ended{missing}: {self.ended}{told}{hint}")


def own_code(code: int | None, error: ControlError | None) -> int:
    """The command's exit code, where a guest has told `code` of its own; None: it has told none, or it is not to count. A code of
    0 hides no error: then this raises `error`.
    """
    if error is not None and not code:
        raise error
    if error is not None:
        print_error(error.message)
    return code or Exit.OK


def crash_lines(log: bytes, domid: int) -> list[str]:
    """The lines of the hypervisor's log that are about a domain, or said by it."""
    lines: list[str] = []
    about = False
    for line in log.decode("utf-8", "replace").splitlines():
        about = bool(re.match(rf"\(?d{domid}\b", line)) or (about and line.startswith("    "))
        if about:
            lines.append(line)
    return lines
