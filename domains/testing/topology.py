"""A topology, as a test has it: all its domains up, on a machine of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from domains.control.operations import Console
from domains.testing.domain import XenDomain
from domains.testing.machine import XenMachine
from domains.xenctl.launch import Hardware
from domains.xenctl.topology import Deployment, Topology, load
from domains.xenctl.topology.deploy import Standing


class XenTopology:
    """Made by the fixture `xen_topology`. A domain is had by its name: `topology["web-1"]`. `machine`: where it runs."""

    def __init__(
        self, source: Topology | Path, start: Callable[[Hardware], XenMachine], may_end: tuple[str, ...]
    ) -> None:
        """`start`: makes the machine. Raises TopologyError, ControlError."""
        project = load(source) if isinstance(source, Path) else source
        planned = Deployment(project, machine="planned")
        self.machine = start(planned.hardware())
        self._deployment = Deployment(project, machine=self.machine.name)
        try:
            self._deployment.up()
        except BaseException:
            self._deployment.down()
            raise
        there = {one.name: one.domid for one in self.machine.list()}
        self._domains = {
            name: self.machine.follow(name, there[name], Console(str(there[name]), reboots=True), may_end)
            for name in self._deployment.plan().domains
            if name in there
        }

    def __getitem__(self, name: str) -> XenDomain:
        """A domain that has not done its work already. KeyError: there is none of that name."""
        return self._domains[name]

    def __iter__(self) -> Iterator[str]:
        """The names of its domains."""
        return iter(self._domains)

    def __len__(self) -> int:
        return len(self._domains)

    def close(self) -> None:
        """Take it down; its machine goes on."""
        for domain in self._domains.values():
            self.machine.forget(domain)
        self._deployment.down()

    def status(self) -> list[Standing]:
        """How each domain stands, as `xenctl ps` tells it."""
        return self._deployment.status()
