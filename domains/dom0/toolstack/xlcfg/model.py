"""A domain description with types: what `create` builds from. Plain data, checked when it was read."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final
from uuid import UUID

from domains.dom0.toolstack.xlcfg.disk import Disk
from domains.dom0.toolstack.xlcfg.vif import Vif

PYTHON_PREFIX: Final = "python:"
"""Begins a `kernel` that is a class: `python:package.module:Class`, or `python:./file.py:Class`."""


class Action(StrEnum):
    """What happens to a domain that shut down; xl.cfg(5), Event Actions."""

    DESTROY = "destroy"
    RESTART = "restart"
    RENAME_RESTART = "rename-restart"
    PRESERVE = "preserve"


@dataclass(frozen=True, slots=True)
class Actions:
    """One action for each reason of a shutdown; the defaults are xl's."""

    on_poweroff: Action = Action.DESTROY
    on_reboot: Action = Action.RESTART
    on_crash: Action = Action.DESTROY
    on_watchdog: Action = Action.DESTROY


@dataclass(frozen=True)
class DomainConfig:
    """One domain. Paths are absolute; memory is in MiB."""

    name: str
    kernel: str
    memory: int = 128
    maxmem: int = 128
    vcpus: int = 1
    maxvcpus: int = 1
    ramdisk: str | None = None
    cmdline: str = ""
    uuid: UUID | None = None
    disks: tuple[Disk, ...] = ()
    vifs: tuple[Vif, ...] = ()
    actions: Actions = field(default_factory=Actions)
    cpu_weight: int | None = None
    cap: int | None = None
    max_grant_frames: int | None = None
    max_maptrack_frames: int | None = None
    max_grant_version: int = 2
    max_event_channels: int | None = None
    driver_domain: bool = False
    """It may hold back ends of other domains' devices."""
    mark: str | None = None
    """What its maker knows it by; not of the description, and nothing to the domain."""

    @property
    def python_guest(self) -> str | None:
        """`module:Class` or `/path/file.py:Class` if the kernel is a Python class, else None."""
        return self.kernel.removeprefix(PYTHON_PREFIX) if self.kernel.startswith(PYTHON_PREFIX) else None
