"""Domains run together on a private machine that repeats itself, from their first instruction to their end.

All are made paused and followed before the first goes on, in one request. From then on nothing is said to the machine until it
has answered, so that what it does follows from the domains and the seed alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from domains.control.client import ControlClient
from domains.control.description import DomainConfig
from domains.control.operations import Console, Create, Dmesg, Ended, FollowLog, Info, List, RunTogether
from domains.control.protocol import ControlError, Exit, MachineEnded
from domains.xenctl.guest_run import CRASHES, crash_lines
from domains.xenctl.launch import Hardware
from domains.xenctl.output import print_warning
from domains.xenctl.private_machine import PrivateMachine

STILL_THERE: Final = "paused"
"""How a domain stands that the time of the run was too short for."""


@dataclass
class Outcome:
    """What came of a run: how each domain ended, by name, and with which code, if it told one; the machine's hash, its own time
    in seconds, and what the hypervisor logged of crashes.
    """

    seed: int
    ended: dict[str, str] = field(default_factory=dict)
    exit_codes: dict[str, int] = field(default_factory=dict)
    run_hash: str = ""
    system_seconds: float = 0.0
    log: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """One line for people."""
        return (
            f"seed {self.seed}: hash {self.run_hash} after {self.system_seconds:.6f} s of the machine's time"
        )


class SeededRun:
    """One run. `show(name, data)` gets what a domain says, in the order in which it is said."""

    def __init__(
        self,
        configs: Sequence[DomainConfig],
        seed: int,
        seconds: float,
        deadline: float | None,
        show: Callable[[str, bytes], None],
    ) -> None:
        """`seconds` of the machine's time, 0: until all have ended; `deadline`: on the host's monotonic clock."""
        self.outcome = Outcome(seed)
        self._configs = configs
        self._seconds = seconds
        self._deadline = deadline
        self._show = show
        self._consoles: dict[int, str] = {}
        self._log_request = 0
        self._log_line = b""
        self._domids: dict[int, str] = {}

    def run(self, memory: int) -> Outcome:
        """Run them on a machine of `memory` MiB. Raises ControlError: one could not be made, or the host's time ran out."""
        hardware = Hardware(memory, cpus=1, seed=self.outcome.seed)
        machine = PrivateMachine("run", hardware, self._deadline)
        with machine as client:
            try:
                self._make(client)
                self._follow(client)
                self._conclude(client)
            except MachineEnded:
                raise ControlError(Exit.FAILURE, f"the machine has died: {machine.why()}") from None
        return self.outcome

    def _make(self, client: ControlClient) -> None:
        self._log_request = client.post(FollowLog())
        for config in self._configs:
            created = client.call(Create(config, paused=True), timeout=self._left())
            self._domids[created.domid] = created.name
            for warning in created.warnings:
                print_warning(warning)
        for config in self._configs:
            self._consoles[client.post(Console(config.name, reboots=True))] = config.name
            client.call(List(), timeout=self._left())  # the answer tells that the console is followed

    def _follow(self, client: ControlClient) -> None:
        """Let them go, and take what they say until Dom0 answers."""
        names = tuple(config.name for config in self._configs)
        request = client.post(RunTogether(names, self._seconds))
        while True:
            reply = client.receive(self._left())
            if reply is None:
                raise ControlError(Exit.TIMED_OUT, "the domains did not end in time")
            if reply.id == request:
                reply.result()
                return
            self._hear(reply.id, reply.result())

    def _left(self) -> float:
        """Seconds of the host's time."""
        return math.inf if self._deadline is None else max(self._deadline - time.monotonic(), 0)

    def _hear(self, request: int, result: Any) -> None:
        if request == self._log_request:
            self._hear_xen(result)
        elif isinstance(result, Ended):
            self.outcome.ended[self._consoles[request]] = result.ended
            if result.exit_code is not None:
                self.outcome.exit_codes[self._consoles[request]] = result.exit_code
        else:
            self._show(self._consoles[request], result)

    def _hear_xen(self, log: bytes) -> None:
        """What is new in the hypervisor's log: lines of domains are theirs."""
        *lines, self._log_line = (self._log_line + log).split(b"\n")
        for line in lines:
            mark, _, text = line.partition(b") ")
            number = mark.removeprefix(b"(d")
            if number != mark and number.isdigit() and int(number) in self._domids:
                self._show(self._domids[int(number)], text + b"\n")

    def _conclude(self, client: ControlClient) -> None:
        about = client.call(Info())
        outcome = self.outcome
        outcome.run_hash, outcome.system_seconds = about.run_hash or "", (about.system_time_ns or 0) / 1e9
        for config in self._configs:
            outcome.ended.setdefault(config.name, STILL_THERE)
        if any(ended in CRASHES for ended in outcome.ended.values()):
            log = client.call(Dmesg())
            for domid, name in self._domids.items():
                if outcome.ended[name] in CRASHES:
                    outcome.log += crash_lines(log, domid)
