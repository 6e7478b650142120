"""A shell on a Linux guest's console, for tests that give it one command after another."""

from __future__ import annotations

import os
import subprocess
from itertools import count
from types import TracebackType
from typing import Protocol

from tests.machines import XENCTL, wait_until

COMMAND_SECONDS = 120
"""For one command: every instruction of the guest is emulated, beside other tests."""


class Reached(Protocol):
    """A machine, by the environment in which xenctl means it."""

    environment: dict[str, str]


class LinuxShell:
    """`with LinuxShell(machine, "name") as shell:` follows the console of a domain whose /init ends in a shell."""

    def __init__(self, machine: Reached, domain: str) -> None:
        self.text = ""
        self._domain = domain
        self._numbers = count(1)
        self._console = subprocess.Popen(
            [*XENCTL, "console", domain],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=machine.environment,
        )
        assert self._console.stdout is not None
        os.set_blocking(self._console.stdout.fileno(), False)

    def __enter__(self) -> LinuxShell:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._console.kill()
        self._console.communicate()

    def await_text(self, wanted: str, seconds: float) -> None:
        """Wait until the console has shown `wanted`."""
        try:
            wait_until(
                lambda: wanted in self._read(), seconds, f"'{wanted}' on the console of {self._domain}"
            )
        except AssertionError as error:
            raise AssertionError(f"{error}; it ends: {self.text[-2000:]}") from None

    def await_shell(self, wanted: str, seconds: float) -> None:
        """Wait for the line by which /init says that its shell is there. From then on the kernel says nothing on the console:
        what it prints would stand within the lines of a command's output.
        """
        self.await_text(wanted, seconds)
        assert self.run("dmesg -n 1")[0] == 0

    def send(self, command: str) -> str:
        """Type a command; what the console shows once it is done. The mark is not in the echo of what is typed."""
        mark = f"done-{next(self._numbers)}:"
        assert self._console.stdin is not None
        self._console.stdin.write(f"{command}; echo {mark[:4]}''{mark[4:]}$?\n".encode())
        self._console.stdin.flush()
        return mark

    def run(self, command: str) -> tuple[int, str]:
        """Exit status and output of a command."""
        start, mark = len(self.text), self.send(command)
        self.await_text(mark, COMMAND_SECONDS)
        self.await_text("\n", COMMAND_SECONDS)
        output, _, status = self.text[start:].partition(mark)
        return int(status.split()[0]), output

    def _read(self) -> str:
        assert self._console.stdout is not None
        self.text += (self._console.stdout.read() or b"").decode(errors="replace").replace("\r", "")
        return self.text
