"""Machines with an uplink, and the host's end of it: always in a network namespace, so that tests touch nobody's network.

ADMINISTERED    the machine starts in a namespace of the test's, with the right to make interfaces there (needs root)
UNPRIVILEGED    without that right: the machine's own child makes a namespace
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto
from typing import Final

import pytest

from tests.machines import Machine, wait_until

HOST = "10.0.0.254"
WITHOUT_RIGHTS = ("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-all")
FETCH = "import sys, urllib.request as r; sys.stdout.buffer.write(r.urlopen(sys.argv[1], timeout=20).read())"


TOOLS: Final = ("ip", "nsenter", "setpriv", "unshare")


class Rights(Enum):
    ADMINISTERED = auto()
    UNPRIVILEGED = auto()


class HostNetwork:
    """The network that an uplink ends in; `enter` begins a command there."""

    def __init__(self, enter: list[str]) -> None:
        self._enter = enter

    def run(self, *command: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([*self._enter, *command], capture_output=True, timeout=60, check=False)

    @contextmanager
    def fetching(self, url: str) -> Iterator[None]:
        """A fetch that goes on meanwhile, for as long as it may."""
        command = [*self._enter, sys.executable, "-c", FETCH, url]
        quiet = subprocess.DEVNULL
        with subprocess.Popen(command, stdout=quiet, stderr=quiet) as client:
            try:
                yield
            finally:
                client.kill()

    def received_bytes(self) -> int:
        """What the interface has got from the machine."""
        about = json.loads(self.run("ip", "-json", "-stats", "link", "show", "xenbr0").stdout)
        return int(about[0]["stats64"]["rx"]["bytes"])

    def fetch(self, url: str) -> bytes:
        done = self.run(sys.executable, "-c", FETCH, url)
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextmanager
    def serving(self, folder: os.PathLike[str]) -> Iterator[int]:
        """An HTTP server of the files in `folder`; its port."""
        command = [sys.executable, "-u", "-m", "http.server", "--bind", HOST, "--directory", str(folder), "0"]
        with subprocess.Popen(
            [*self._enter, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as server:
            try:
                assert server.stdout is not None
                found = re.search(r"port (\d+)", server.stdout.readline())
                assert found is not None
                yield int(found[1])
            finally:
                server.kill()


class HostSide(HostNetwork):
    """The one of `machine`."""

    def __init__(self, machine: Machine, enter: list[str]) -> None:
        super().__init__(enter)
        self.machine = machine


def skip_without_tools() -> None:
    """Skip the test where the host's end of an uplink cannot be looked at."""
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        pytest.skip(f"{' '.join(missing)} of iproute2 and util-linux is not installed")


def skip_if_impossible(said: str) -> None:
    """Skip the test if that is why a machine with an uplink did not start."""
    if "/dev/net/tun" in said or "no right to administer" in said:
        pytest.skip(f"no uplink is possible here: {said}")


@contextmanager
def machine_with_uplink(rights: Rights, uplink: str = f"xenbr0={HOST}/24") -> Iterator[HostSide]:
    """A machine, and nothing of it afterwards. Skips the test where its uplink is not possible."""
    skip_without_tools()
    if rights is Rights.ADMINISTERED and os.geteuid() != 0:
        pytest.skip("needs root, to make a network namespace that it may administer")
    with namespace() if rights is Rights.ADMINISTERED else plain() as under:
        try:
            machine = Machine(options=("--uplink", uplink), under=under)
        except AssertionError as error:
            skip_if_impossible(str(error))
            raise
        try:
            pid = machine.info()["uplinks"][0]["namespace_pid"]
            assert (pid is None) == (rights is Rights.ADMINISTERED)
            yield HostSide(machine, under if pid is None else into(pid))
        finally:
            machine.stop()
        if pid is None:
            assert subprocess.run([*under, "ip", "link", "show", "xenbr0"], capture_output=True).returncode
        else:
            wait_until(lambda: not os.path.exists(f"/proc/{pid}"), what="the end of the uplink's process")


def into(pid: int) -> list[str]:
    """How to enter the namespaces that a machine has made for itself."""
    return ["nsenter", "-t", str(pid), "--user", "--net"]


@contextmanager
def namespace() -> Iterator[list[str]]:
    """How to enter a new network namespace, while it is there."""
    with subprocess.Popen(
        ["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        try:
            assert holder.stdin is not None
            assert holder.stdout is not None
            holder.stdin.write(b"\n")
            holder.stdin.flush()
            assert holder.stdout.read(1) == b"\n"  # it is in its namespace
            yield ["nsenter", "-t", str(holder.pid), "--net"]
        finally:
            holder.kill()


@contextmanager
def plain() -> Iterator[list[str]]:
    """How to run a command without the right to administer networks."""
    yield list(WITHOUT_RIGHTS) if os.geteuid() == 0 else []
