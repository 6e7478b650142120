"""A machine, as a test has it: it makes guests and topologies, and nothing of it is left when its fixture ends."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from domains.control.description import DomainConfig
from domains.control.operations import (
    Console,
    CreateWatched,
    Dmesg,
    Info,
    List,
    Listed,
    MachineInfo,
    XenstoreLs,
)
from domains.control.protocol import ControlError
from domains.control.snapshot_operations import Fork, TakeSnapshot
from domains.testing.domain import CREATE_TIMEOUT, XenDomain
from domains.testing.hub import Hub
from domains.testing.keeping import KeeperGone, Keeping
from domains.testing.store import Store
from domains.testing.watch import Watch
from domains.xenctl.launch import DEFAULT_CPUS, DEFAULT_MEMORY, Hardware

KEPT: Final = {f"on_{event}": "preserve" for event in ("poweroff", "reboot", "crash", "watchdog")}
"""A guest that has ended stays until its test has: what stands in the store of it is for whoever asks why."""
SETTLE_TIMEOUT: Final = 10.0
ANSWER_TIMEOUT: Final = 30.0
SNAPSHOT_TIMEOUT: Final = 600.0
"""Seconds that a guest may take to suspend, and its disks to be copied."""
LOG_TIMEOUT: Final = 5.0
"""Seconds that Dom0 may take to answer what a report asks."""


class XenMachine:
    """A running machine, of the fixture `xen_machine`. `name`: as `xenctl --machine` takes it; `store`: its xenstore, by whole
    paths; `domains`: the guests that were made on it by this test run, and are not closed.
    """

    def __init__(self, watch: Watch, keeping: Keeping, hardware: Hardware, timeout: float) -> None:
        """Starts it; made by `start`. Raises ControlError."""
        born = keeping.ask("start", hardware._asdict())
        self.name: str = born["name"]
        self.folder = Path(born["folder"])
        self.seed = hardware.seed
        self.domains: list[XenDomain] = []
        self.kept = False
        self._keeping = keeping
        self._hub = Hub(self.folder, watch, timeout)
        self._names = 0
        self.store = Store(self._hub.ask, self.folder / "xenstored", lambda: "", timeout)
        watch.machines.append(self)

    def create(
        self,
        kernel: str | Path,
        *,
        name: str | None = None,
        memory: int = 128,
        cmdline: str = "",
        disk: Sequence[str] = (),
        vif: Sequence[str] = (),
        may_end: str | Collection[str] = ("poweroff",),
        paused: bool = False,
        folder: Path | None = None,
        **settings: Any,
    ) -> XenDomain:
        """Make a guest: `settings` are any of xl.cfg's. `may_end`: the reasons for which it may end without failing the test, as
        of `End`. `folder`: where relative paths begin.

        ValueError: the description is wrong. ControlError: the guest cannot be made.
        """
        __tracebackhide__ = True
        self._names += 1
        chosen = name or (f"guest-{self._names}" if self._names > 1 else "guest")
        described = {"name": chosen, "kernel": str(kernel), "memory": memory, "cmdline": cmdline}
        described |= {"disk": list(disk), "vif": list(vif)} | KEPT | settings
        config = config_from(described, folder or Path.cwd())
        ends = [may_end] if isinstance(may_end, str) else may_end
        domain = XenDomain(self._hub, chosen, CreateWatched(config, paused=paused), ends)
        self.domains.append(domain)
        domain.made()
        return domain

    def follow(self, name: str, domid: int, request: Any, may_end: Collection[str]) -> XenDomain:
        """A guest that is there already."""
        domain = XenDomain(self._hub, name, request, may_end)
        domain.followed(domid)
        self.domains.append(domain)
        return domain

    def snapshot(self, domain: XenDomain, name: str) -> None:
        """Keep a guest as it is now, under that name; it goes on. Raises ControlError."""
        self._hub.ask(TakeSnapshot(str(domain.domid), name), timeout=SNAPSHOT_TIMEOUT)

    def fork(
        self,
        snapshot: str,
        *,
        name: str | None = None,
        may_end: str | Collection[str] = ("poweroff",),
        keep_macs: bool = False,
    ) -> XenDomain:
        """Make a guest that goes on from a snapshot; its console begins there. Raises ControlError."""
        __tracebackhide__ = True
        made = self._hub.ask(Fork(snapshot, name, True, keep_macs), timeout=CREATE_TIMEOUT)
        ends = [may_end] if isinstance(may_end, str) else may_end
        domain = self.follow(made.name, made.domid, Console(str(made.domid), reboots=True), ends)
        domain.unpause()
        return domain

    def dmesg(self) -> str:
        """The hypervisor's log."""
        return self._hub.ask(Dmesg(), timeout=LOG_TIMEOUT).decode("utf-8", "replace")

    def list(self) -> Sequence[Listed]:
        """Its domains, Dom0 among them, as `xenctl list` has them."""
        return self._hub.ask(List())

    def info(self, timeout: float = ANSWER_TIMEOUT) -> MachineInfo:
        """What `xenctl info` tells of it."""
        return self._hub.ask(Info(), timeout=timeout)

    def nodes(self) -> str:
        """The whole xenstore, a node a line; or why it cannot be had."""
        try:
            nodes = self._hub.ask(XenstoreLs(), timeout=LOG_TIMEOUT)
        except (ControlError, OSError) as error:
            return f"not to be had: {error}"
        return "\n".join(f'{node.path} = "{node.value.decode("utf-8", "replace")}"' for node in nodes)

    def settle(self) -> None:
        """Wait until every guest that has ended is known to have."""
        if not self._hub.alive:
            return
        try:
            there = {one.domid: one.shutdown for one in self.list()}
        except ControlError:  # it is dying, and the listener hears of that
            self._hub.listener.wait(lambda: not self._hub.alive, SETTLE_TIMEOUT)
            return
        over = [one for one in self.domains if one.domid and there.get(one.domid, GONE) is not None]
        self._hub.listener.wait(lambda: all(one.ended is not None for one in over), SETTLE_TIMEOUT)

    def why(self) -> str | None:
        """The last words of the machine, if it has died."""
        if self._hub.alive:
            return None
        try:
            return str(self._keeping.ask("why", self.name)["why"])
        except ControlError as error:
            return error.message

    def log(self) -> str:
        """The hypervisor's log, as far as it is known: the machine may have died."""
        try:
            return self.dmesg()
        except (ControlError, OSError):
            return self._hub.log.text()

    def keep(self) -> None:
        """Let it stay when its fixture ends, and pytest: `xenctl stop --machine NAME` ends it."""
        if not self.kept and self._hub.alive:
            self._keeping.ask("keep", self.name)
            self.kept = True

    def forget(self, domain: XenDomain) -> None:
        """End a guest, if it has not ended."""
        if domain in self.domains:
            self.domains.remove(domain)
        if not self.kept:
            domain.close()

    def close(self) -> None:
        """End it; nothing of it is left. Idempotent."""
        if self not in self._hub.watch.machines:
            return
        self._hub.watch.machines.remove(self)
        self._hub.close()
        if not self.kept:
            with suppress(KeeperGone):
                self._keeping.ask("end", self.name)


GONE: Final = "gone"


def config_from(settings: Mapping[str, Any], folder: Path) -> DomainConfig:
    """The description of a guest. Raises ValueError with everything that is wrong with it."""
    from domains.dom0.toolstack.xlcfg.load import config_of
    from domains.dom0.toolstack.xlcfg.syntax import ConfigError

    try:
        return config_of(settings, "xen_domain", folder)
    except ConfigError as error:
        raise ValueError("\n".join(one.message for one in error.each)) from None


def start(watch: Watch, hardware: Hardware, timeout: float, pids: list[int]) -> XenMachine:
    """A new machine, and the process that keeps it if there is none. `pids`: the processes without which it is to end. Raises
    ControlError.
    """
    if hardware.seed not in watch.keepers:
        watch.keepers[hardware.seed] = Keeping(hardware.seed, pids)
    return XenMachine(watch, watch.keepers[hardware.seed], hardware, timeout)


def hardware_of(seed: int | None, wanted: Mapping[str, Any]) -> Hardware:
    """What the mark `xen` says of a machine, or nothing. Raises TypeError for what a machine has not."""
    settings: dict[str, Any] = {"memory": DEFAULT_MEMORY, "cpus": DEFAULT_CPUS, "seed": seed, **wanted}
    if settings["seed"] is not None:
        settings["cpus"] = 1  # a machine that repeats itself runs one vCPU at a time
    return Hardware(**settings)
