"""A topology's file on a machine, and the guests that the tests of up and down bring up."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from domains.xenctl.folder import folder_of
from tests.machines import REPOSITORY
from tests.warm_xenctl import warm_xenctl

GUESTS = """
from domains.kernel.guest import Guest


class Server(Guest):
    def main(self):
        print("serving", self.kernel.cmdline)
        self.kernel.wait(lambda: False)


class Job(Guest):
    def main(self):
        print("working", self.kernel.cmdline)


class Crashing(Guest):
    def main(self):
        raise ValueError("on purpose")


class RebootingOnce(Guest):
    def main(self):
        again = self.kernel.xenbus.read("domid") != "1"
        print("second time" if again else "first time")
        if not again and self.kernel.cmdline == "obedient":
            asked = []
            self.kernel.xenbus.watch("control/shutdown", asked.append)
            self.kernel.wait(lambda: asked and self.kernel.xenbus.read(asked.pop()))
        self.kernel.shutdown(0 if again else 1)
"""
CHAIN = """\
name: chain
domains:
  job: {kernel: "python:./guests.py:Job", memory: 8, wait: shutdown}
  server:
    kernel: "python:./guests.py:Server"
    memory: 8
    replicas: 2
    after: [job]
    wait: console serving
    extra: number ${index}
  last: {kernel: "python:./guests.py:Server", memory: 8, after: [server-2]}
"""


class Topo:
    """A topology's file and the machine it is for."""

    def __init__(self, folder: Path, machine: str) -> None:
        self.file = folder / "topology.yaml"
        (folder / "guests.py").write_text(GUESTS)
        self.machine = machine
        self.folder = folder_of(machine)
        self.environment = {**os.environ, "XENCTL_MACHINE": machine, "PYTHONPATH": str(REPOSITORY)}

    def write(self, text: str) -> None:
        self.file.write_text(text)

    def xenctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        return warm_xenctl().run(words, self.environment, "", 100)

    def run(self, command: str, *options: str) -> subprocess.CompletedProcess[str]:
        """A command that must succeed."""
        done = self.xenctl(command, str(self.file), *options)
        assert done.returncode == 0, done.stderr
        return done

    def states(self) -> dict[str, str]:
        return {row["name"]: row["state"] for row in json.loads(self.run("ps", "--json").stdout)}

    def domids(self) -> dict[str, int]:
        return {row["name"]: row["domid"] for row in json.loads(self.run("ps", "--json").stdout)}
