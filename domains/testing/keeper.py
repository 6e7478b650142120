"""The process that has a test run's machines: it starts and ends them for pytest, and ends them when pytest is gone.

pytest may be killed at any moment, has threads, and whatever a project's tests load; so no machine is forked from it. This
process is begun anew for it, in a session of its own, loads once what machines need, and then forks each machine in a moment.

Messages are JSON in packets, an answer each:

    {"start": {…hardware}}   {"name": …, "folder": …}
    {"end": name}            {}        nothing of it is left
    {"keep": name}           {}        it stays when pytest ends, until somebody stops it
    {"why": name}            {"why": …}   the last words of a machine that has died
    whatever goes wrong      {"error": …, "code": Exit}
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, NoReturn

from domains.control.protocol import ControlError, Exit
from domains.testing.keeping import MAX_MESSAGE
from domains.xenctl.launch import Hardware, within
from domains.xenctl.private_machine import PrivateMachine
from domains.xenctl.template import FRONT_ENDS, WARM, load

PREFIX: Final = "pytest"


class Orphaned(Exception):
    """pytest is gone."""


class KeptMachine(PrivateMachine):
    """A machine that is not waited for any longer once pytest is gone."""

    def __init__(self, hardware: Hardware, watched: Sequence[int]) -> None:
        super().__init__(PREFIX, hardware)
        self._watched = watched

    def has_died(self) -> bool:
        """Whether the machine has. Raises Orphaned."""
        if any(within(0, pidfd) for pidfd in self._watched):
            raise Orphaned
        return super().has_died()


class Keeper:
    """Serves one pytest process. `watched`: descriptors of the processes without which there is nothing to keep machines for."""

    def __init__(self, channel: socket.socket, watched: Sequence[int]) -> None:
        self._channel = channel
        self._watched = watched
        self._machines: dict[str, KeptMachine] = {}
        self._kept: list[KeptMachine] = []

    def serve(self) -> None:
        """Until pytest closes the channel or is gone; nothing is left then but machines that are to stay."""
        poll = select.poll()
        for fd in (self._channel.fileno(), *self._watched):
            poll.register(fd, select.POLLIN)
        try:
            while True:
                ready = {fd for fd, _ in poll.poll()}
                if ready & set(self._watched):
                    return
                message = self._channel.recv(MAX_MESSAGE)
                if not message:
                    return
                self._channel.send(json.dumps(self._answer(json.loads(message))).encode())
        except (Orphaned, OSError):
            return
        finally:
            self._end_all()

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            ((what, value),) = request.items()
            match what:
                case "start":
                    return self._start(Hardware(**value))
                case "end":
                    self._machines.pop(value).end()
                case "keep":
                    self._kept.append(self._machines.pop(value))
                case "why":
                    return {"why": self._machines[value].why()}
            return {}
        except ControlError as error:
            return {"error": error.message, "code": int(error.code)}
        except Orphaned:
            raise
        except Exception as error:  # noqa: BLE001 - the outermost frame of a request
            text = f"the process that keeps machines failed: {type(error).__name__}: {error}"
            return {"error": text, "code": int(Exit.FAILURE)}

    def _start(self, hardware: Hardware) -> dict[str, Any]:
        machine = KeptMachine(hardware, self._watched)
        self._machines[machine.name] = machine
        try:
            machine.start()
        except BaseException:
            del self._machines[machine.name]
            raise
        return {"name": machine.name, "folder": str(machine.folder)}

    def _end_all(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self._channel.close()
        for machine in self._machines.values():
            machine.end()
        for machine in self._kept:
            within(STAY, machine.ended)
            machine.end()


STAY: Final = 1_000_000.0
"""Seconds that a machine may stay which is to: more than eleven days."""


def leave(_number: int, _frame: object) -> NoReturn:
    """Somebody ends this process: by way of everything that is to be taken away."""
    raise SystemExit(0)


def main(channel: int, watched: Sequence[int], path: Sequence[str]) -> NoReturn:
    """The process's whole life; the numbers are of descriptors. `path`: where pytest finds modules, and guests theirs."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, leave)
    with suppress(ImportError):  # whose process then says so
        load((*WARM, *FRONT_ENDS, "hypervisor.core"))
    sys.path += [folder for folder in path if folder not in sys.path]
    with suppress(SystemExit):
        Keeper(socket.socket(fileno=channel), watched).serve()
    os._exit(0)
