"""Fleets for tests: started through xenctl as a user would, each with a name of its own, gone without a trace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import uuid
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from domains.xenctl.fleet.place import folder_of_fleet, is_up
from domains.xenctl.folder import folder_of, is_running
from tests.machines import REPOSITORY, XENCTL, wait_until

GUESTS = """\
from domains.kernel.guest import Guest
from domains.kernel.shutdown import await_shutdown


class Server(Guest):
    def main(self):
        print("at your service")
        await_shutdown(self.kernel)


class Job(Guest):
    def main(self):
        print("done")
"""

TOPOLOGY = """\
domains:
  job: {kernel: "python:./guests.py:Job", memory: 8, wait: shutdown}
  web: {replicas: 3, kernel: "python:./guests.py:Server", memory: 8, after: [job], wait: console "at your service"}
  db: {kernel: "python:./guests.py:Server", memory: 8, wait: console "at your service"}
"""


class FleetOfTests:
    """A fleet's file beside a topology's, and what is done with it. `under`: what goes before xenctl, such as nsenter."""

    def __init__(self, folder: Path, hosts: str, rest: str = "", topology: str = TOPOLOGY) -> None:
        self.name = f"t{uuid.uuid4().hex[:10]}"
        self.folder = folder
        self.file = folder / "fleet.yaml"
        (folder / "guests.py").write_text(GUESTS)
        (folder / "topology.yaml").write_text(topology)
        self.file.write_text(f"name: {self.name}\ntopology: topology.yaml\nhosts:\n{hosts}{rest}")
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "XDG_STATE_HOME": str(folder / "state"),
        }
        self.under: Sequence[str] = ()

    def run(
        self, action: str, *words: str, file: Path | None = None, timeout: float = 90
    ) -> subprocess.CompletedProcess[str]:
        """`xenctl fleet ACTION FILE …`."""
        command = [*self.under, *XENCTL, "fleet", action, str(file or self.file), *words]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env=self.environment,
            cwd=REPOSITORY,
        )

    def succeeds(self, action: str, *words: str) -> str:
        """What it prints."""
        done = self.run(action, *words)
        assert done.returncode == 0, done.stderr + self.log()
        return done.stdout

    def refuses(self, action: str, *words: str) -> str:
        """The one line that says why."""
        done = self.run(action, *words)
        assert done.returncode != 0
        lines = done.stderr.splitlines()
        assert len(lines) == 1, lines
        return lines[0].removeprefix("xenctl: ")

    def status(self) -> dict[str, Any]:
        """What `ps --json` tells."""
        found: dict[str, Any] = json.loads(self.succeeds("ps", "--json"))
        return found

    def places(self) -> dict[str, str | None]:
        """The host of each domain that is ready."""
        return {one["name"]: one["host"] for one in self.status()["domains"] if one["state"] == "ready"}

    def pid_of(self, host: str) -> int:
        """Of the host's agent."""
        (pid,) = [one["pid"] for one in self.status()["hosts"] if one["name"] == host]
        return int(pid)

    def listed(self, host: str) -> set[str]:
        """The domains of the host's machine, by its own toolstack."""
        command = [*XENCTL, "list", "--machine", f"{self.name}-{host}", "--json"]
        done = subprocess.run(
            command, capture_output=True, text=True, env=self.environment, cwd=REPOSITORY, check=True
        )
        return {one["name"] for one in json.loads(done.stdout)} - {"Domain-0"}

    def fetches(self, host: str, *urls: str) -> str:
        """What a guest on this host's machine gets from these URLs, before it ends."""
        config = self.folder / "visitor.cfg"
        config.write_text(
            f'name = "visitor"; kernel = "python:domains.guests.webclient:WebClient"; memory = 16; extra = "{" ".join(urls)}"\n'
            'vif = ["bridge=front,ip=10.0.0.250/24"]\n'
        )
        command = [*XENCTL, "create", "--console", "--machine", f"{self.name}-{host}", str(config)]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=60,
            env=self.environment,
            cwd=REPOSITORY,
            check=False,
        )
        return done.stdout

    def log(self) -> str:
        """Of the head and of all agents."""
        return "".join(
            f"--- {file.name}\n{file.read_text()}" for file in sorted(folder_of_fleet(self.name).glob("*log"))
        )

    def down(self, *hosts: str) -> None:
        """End it, if it is up, and see that nothing is left."""
        if is_up(self.name):
            self.succeeds("down")
            assert not [file for file in (self.folder / "state").rglob("*") if file.is_file()]
        assert not folder_of_fleet(self.name).exists()
        for host in hosts:
            folder = folder_of(f"{self.name}-{host}")
            wait_until(partial(is_gone, folder), 10, f"the end of machine {folder.name}")


def is_gone(machine: Path) -> bool:
    """Whether nothing is left of the machine in this folder."""
    return not is_running(machine) and not machine.exists()


def kill(pid: int) -> None:
    """At once."""
    os.kill(pid, signal.SIGKILL)
