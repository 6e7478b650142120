"""Hosts of a fleet in network namespaces of their own, on a bridge in the head's; nobody's network is touched."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import pytest

from tests.host_network import namespace, skip_without_tools

HEAD: Final = "10.77.0.254"
"""The head's address; hosts have those from 10.77.0.1 on."""


class Lan:
    """The head's namespace with a bridge, and one namespace a host. `cut` and `join` pull a host's plug and put it in again."""

    def __init__(self, stack: ExitStack, hosts: str) -> None:
        self.enter = stack.enter_context(namespace())
        self.hosts = {host: stack.enter_context(namespace()) for host in hosts}
        self._run("ip", "link", "set", "lo", "up")
        self._run("ip", "link", "add", "lan", "type", "bridge")
        self._run("ip", "address", "add", f"{HEAD}/24", "dev", "lan")
        self._run("ip", "link", "set", "lan", "up")
        for number, (host, enter) in enumerate(self.hosts.items(), 1):
            pid = enter[2]
            self._run("ip", "link", "add", f"to-{host}", "type", "veth", "peer", "name", "eth0", "netns", pid)
            self._run("ip", "link", "set", f"to-{host}", "master", "lan", "up")
            for words in (
                ("link", "set", "lo", "up"),
                ("address", "add", f"10.77.0.{number}/24", "dev", "eth0"),
                ("link", "set", "eth0", "up"),
            ):
                subprocess.run([*enter, "ip", *words], check=True)

    def _run(self, *words: str) -> None:
        subprocess.run([*self.enter, *words], check=True)

    def cut(self, host: str) -> None:
        """Nothing reaches it any more, and it reaches nothing."""
        self._run("ip", "link", "set", f"to-{host}", "down")

    def join(self, host: str) -> None:
        """As before."""
        self._run("ip", "link", "set", f"to-{host}", "up")

    def hosts_text(self, memory: int, *, stores: str = "") -> str:
        """The hosts in a fleet's file. `stores`: a folder in which each has its images."""
        lines = []
        for number, (host, enter) in enumerate(self.hosts.items(), 1):
            store = f", store: {stores}/{host}" if stores else ""
            through = " ".join(enter)
            lines.append(
                f"  {host}: {{memory: {memory}, address: 10.77.0.{number}, through: {through}{store}}}\n"
            )
        return "".join(lines)


@contextmanager
def lan_of(hosts: str) -> Iterator[Lan]:
    """A host for each letter. Skips the test where that is not possible."""
    skip_without_tools()
    if os.geteuid() != 0:
        pytest.skip("needs root, to make network namespaces that it may administer")
    with ExitStack() as stack:
        yield Lan(stack, hosts)
