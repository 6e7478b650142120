"""A machine for measurements, and the guests in it that do what the measurement says.

    with Machine() as machine:
        guest = machine.guest("hypercalls")
        seconds = guest.ask("null_calls", 500)

A guest of `guests.py` reads commands from its console and prints one line of JSON for each.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from domains.control.address import MachineAddress
from domains.control.client import ControlClient, Reply
from domains.control.description import DomainConfig
from domains.control.operations import ConsoleInput, Create, Created, CreateWatched, Destroy, List, Listed
from domains.dom0.toolstack.xlcfg.load import read_config
from domains.xenctl.folder import folder_of

GUESTS: Final = Path(__file__).with_name("guests.py")
IDLE: Final = f"{Path(__file__).with_name('idle_guest.py')}:Idle"
TIMEOUT: Final = 120.0
"""Seconds that any single step may take."""


class Machine:
    """A machine of its own name; nothing of it is left when the block ends."""

    def __init__(self, memory_mib: int = 4096, options: Sequence[str] = ()) -> None:
        self.name = f"bench-{uuid.uuid4().hex[:8]}"
        self.folder = folder_of(self.name)
        self._options = ("--memory", str(memory_mib), *options)
        self._clients: list[ControlClient] = []

    def __enter__(self) -> Machine:
        try:
            self.start_seconds = self.xenctl("start", *self._options)
            self.control = self.client()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.close()
        if self.folder.exists():
            self.xenctl("stop")

    def xenctl(self, *words: str) -> float:
        """Run one command as a user would; the seconds it took."""
        start = time.perf_counter()
        command = [sys.executable, "-m", "domains.xenctl", words[0], "--machine", self.name, *words[1:]]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=TIMEOUT)
        return time.perf_counter() - start

    def client(self) -> ControlClient:
        """One more connection to the toolstack, closed with the machine."""
        client = ControlClient(MachineAddress.in_folder(self.folder), TIMEOUT)
        self._clients.append(client)
        return client

    def guest(self, kind: str = "Obedient", memory: int = 16, extra: str = "") -> Guest:
        """A new domain of a class of `guests.py` (or `module:Class`) that has said its first line."""
        return Guest(self, description(kind, memory, extra))

    def create(self, text: str) -> int:
        """Make a domain and wait for the toolstack's answer; its id."""
        return self.control.call(Create(described(text)), timeout=TIMEOUT).domid

    def destroy(self, domid: int) -> None:
        """Destroys a domain."""
        self.control.call(Destroy(str(domid)), timeout=TIMEOUT)

    def domains(self) -> tuple[Listed, ...]:
        """What `xenctl list` shows."""
        return self.control.call(List())


class Guest:
    """A running domain and its console."""

    def __init__(self, machine: Machine, text: str) -> None:
        self._machine = machine
        self._client = machine.client()
        self._output = b""
        self._request = self._client.post(CreateWatched(described(text)))
        made = self._receive().result()
        assert isinstance(made, Created)
        self.domid = made.domid
        self.first_line = self._line()

    def ask(self, command: str, *arguments: int | str) -> Any:
        """Have the guest do something; what it answers. RuntimeError if it ends instead."""
        self.tell(command, *arguments)
        return self.answer()

    def tell(self, command: str, *arguments: int | str) -> None:
        """The first half of `ask`: others can be asked meanwhile."""
        line = json.dumps([command, *arguments]) + "\n"
        self._client.post(ConsoleInput(line.encode()))

    def answer(self) -> Any:
        """The second half of `ask`."""
        return json.loads(self._line())

    def destroy(self) -> None:
        """Destroys this guest's domain."""
        self._machine.destroy(self.domid)

    def _line(self) -> str:
        while b"\n" not in self._output:
            result = self._receive().result()
            if not isinstance(result, bytes):
                raise RuntimeError(f"the guest ended: {result}\n{self._output.decode(errors='replace')}")
            self._output += result
        line, _, self._output = self._output.partition(b"\n")
        return line.decode().strip()

    def _receive(self) -> Reply:
        reply = self._client.receive(TIMEOUT)
        if reply is None:
            raise TimeoutError(f"no answer within {TIMEOUT:g} s")
        return reply


def description(kind: str, memory: int = 16, extra: str = "", name: str = "") -> str:
    """The configuration of a domain that runs the class `kind` of `guests.py`, or `module:Class`."""
    module, _, class_name = kind.rpartition(":")
    name = name or f"{class_name.lower()}-{uuid.uuid4().hex[:8]}"
    kernel = f"python:{module or GUESTS}:{class_name}"
    return f'name = "{name}"\nkernel = "{kernel}"\nmemory = {memory}\n{extra}\n'


def described(text: str) -> DomainConfig:
    """What a configuration given as text describes; relative paths start at the root."""
    return read_config(text, "bench.cfg", Path("/"))


def memory_mib(rollup: str) -> tuple[float, float]:
    """(private, proportional) memory in MiB, from a process's smaps_rollup: what only it has; its share of all."""
    sizes = {}
    for line in rollup.splitlines()[1:]:
        field, value, *_ = line.split()
        sizes[field] = int(value)
    private = sizes["Private_Clean:"] + sizes["Private_Dirty:"]
    return private / 1024, sizes["Pss:"] / 1024


def environment() -> dict[str, str]:
    """For processes of the yardsticks: numpy without threads, as in a machine."""
    return {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
