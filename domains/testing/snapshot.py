"""A guest that boots once for many tests: each of them gets a fork, which goes on from there (docs/snapshots.md)."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from re import Pattern
from typing import Any, Final

from domains.testing.domain import XenDomain
from domains.testing.machine import XenMachine
from domains.xenctl.launch import DEFAULT_CPUS, Hardware
from hypervisor.machine.config import MACHINE_OVERHEAD

NAME: Final = "ready"


class XenSnapshot:
    """Made by the fixture `xen_snapshot`; the fixture `xen_fork` makes guests of it. `name`: what it is called on its `machine`,
    where its forks run.
    """

    def __init__(self, machine: XenMachine, name: str) -> None:
        self.machine = machine
        self.name = name

    def fork(
        self,
        *,
        name: str | None = None,
        may_end: str | Collection[str] = ("poweroff",),
        keep_macs: bool = False,
    ) -> XenDomain:
        """A guest that goes on from there. Raises ControlError."""
        return self.machine.fork(self.name, name=name, may_end=may_end, keep_macs=keep_macs)


def take(
    start: Callable[[Hardware], XenMachine],
    kernel: str | Path,
    *,
    until: str | Pattern[str],
    prepare: Callable[[XenDomain], None] = lambda _: None,
    timeout: float | None = None,
    forks: int = 3,
    seed: int | None = None,
    **settings: Any,
) -> XenSnapshot:
    """Boot a guest on a machine of its own, wait for `until` on its console, let `prepare` do with it what it wants, and keep it
    as it is then. The machine has room for so many `forks` at a time. `settings`: as of XenMachine.create.

    AssertionError: the guest did not show it within `timeout` seconds. ControlError: it cannot be made, or does not suspend.
    """
    memory = int(settings.get("maxmem", settings.get("memory", 128)))
    cpus = DEFAULT_CPUS if seed is None else 1
    machine = start(Hardware(memory=memory * (forks + 1) + MACHINE_OVERHEAD, cpus=cpus, seed=seed))
    guest = machine.create(kernel, **settings)
    guest.expect(until, timeout)
    prepare(guest)
    machine.snapshot(guest, NAME)
    machine.forget(guest)
    return XenSnapshot(machine, NAME)
