"""A domain's description with types, as `create` sends it and Dom0 builds from it. Plain data; the limits that a
description keeps are declared here, once, for those who read one from text and for those who get one by message.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final
from uuid import UUID

from domains.control.records import Length, Matches, Range
from domains.control.vdev import device_number
from hypervisor.public.types import PAGES_PER_MIB

PYTHON_PREFIX: Final = "python:"
"""Begins a `kernel` that is a class: `python:package.module:Class`, or `python:/path/file.py:Class`."""

MAX_NAME: Final = 80
"""Characters of a domain's name."""
MAX_VCPUS: Final = 128
MAX_MEMORY: Final = 1 << 20
"""MiB; what the machine has is checked when the domain is made."""
MAX_SHADOW_MEMORY: Final = 1 << 12
"""MiB."""
SHADOW_PAGES_PER_VCPU: Final = 256
LEAST_SHADOW_PAGES_PER_VCPU: Final = 128
MAX_WEIGHT: Final = 65535
MAX_GRANT_VERSION: Final = 2
MAX_NUMBER: Final = (1 << 31) - 1
"""The largest of the other numbers, as xl's."""
MAX_GUEST_CMDLINE: Final = 1024
"""Bytes of a command line with its NUL; Xen public/xen.h."""
MAX_DEVICES: Final = 256
"""Disks of a domain, and its network interfaces."""
MAX_PATH: Final = 4096
MAX_U32: Final = 0xFFFF_FFFF

MAC_ADDRESS: Final = re.compile(r"[0-9a-f][02468ace](:[0-9a-f]{2}){5}")
"""Of one interface, not of a group: the first byte is even. In small letters."""
XEN_OUI: Final = bytes.fromhex("00163e")
"""The first half of addresses in the space that is Xen's."""
INTERFACE_NAME: Final = re.compile(r"[A-Za-z0-9_.:-]{1,15}")
"""Of a bridge or an interface, as Linux bounds them."""

PathText = Annotated[str, Length(MAX_PATH)]
DomainText = Annotated[str, Length(4 * MAX_NAME)]
"""A domain's name, or its id in decimal."""
InterfaceText = Annotated[str, Matches(INTERFACE_NAME)]
Number = Annotated[int, Range(0, MAX_NUMBER)]


class Action(StrEnum):
    """What happens to a domain that shut down; xl.cfg(5), Event Actions."""

    DESTROY = "destroy"
    RESTART = "restart"
    RENAME_RESTART = "rename-restart"
    PRESERVE = "preserve"


class GuestType(StrEnum):
    """How a domain is virtualized; xl.cfg(5), `type`."""

    PV = "pv"
    PVH = "pvh"


@dataclass(frozen=True, slots=True)
class Disk:
    """One virtual disk. `backend`: the driver domain that serves it, by name or id; None is Dom0."""

    target: PathText
    vdev: Annotated[str, Length(32)]
    format: Annotated[str, Length(16)] = "raw"
    writable: bool = True
    cdrom: bool = False
    backend: DomainText | None = None

    def __post_init__(self) -> None:
        if device_number(self.vdev) is None:
            raise ValueError(f"'{self.vdev}' is no virtual device; use xvda, xvdb …")

    @property
    def devid(self) -> int:
        """The number the guest knows it by; `virtual-device` in xenstore."""
        number = device_number(self.vdev)
        assert number is not None
        return number


@dataclass(frozen=True, slots=True)
class Rate:
    """What an interface may send: so many bytes in each interval of so many microseconds."""

    bytes_per_interval: Annotated[int, Range(1, 1 << 63)]
    interval_usecs: Annotated[int, Range(1, MAX_U32)]

    def __str__(self) -> str:
        return f"{self.bytes_per_interval},{self.interval_usecs}"


@dataclass(frozen=True, slots=True)
class Vif:
    """One virtual network interface; what is None is chosen at creation, or not limited.

    `script` stands in the store, as libxl writes it; nobody runs it here. `backend`: the driver domain that serves
    it, by name or id; None is Dom0.
    """

    mac: Annotated[str, Matches(MAC_ADDRESS)] | None = None
    bridge: InterfaceText = "xenbr0"
    name: InterfaceText | None = None
    ip: Annotated[str, Length(64)] | None = None
    rate: Rate | None = None
    mtu: Annotated[int, Range(68, 65521)] | None = None
    script: PathText = "/etc/xen/scripts/vif-bridge"
    backend: DomainText | None = None


@dataclass(frozen=True)
class DomainConfig:
    """One domain. Paths are absolute; memory is in MiB. The actions' defaults are xl's.

    `hap`: of a PVH domain, nested paging; without it, shadow paging, with `shadow_memory` MiB for the tables, or libxl's default.

    `driver_domain`: it may hold back ends of other domains' devices. `mark`: what its maker knows it by; it is not of
    the description, and nothing to the domain.
    """

    name: str
    kernel: PathText
    type: GuestType = GuestType.PV
    hap: bool = True
    shadow_memory: Annotated[int, Range(1, MAX_SHADOW_MEMORY)] | None = None
    memory: Annotated[int, Range(1, MAX_MEMORY)] = 128
    maxmem: Annotated[int, Range(1, MAX_MEMORY)] = 128
    vcpus: Annotated[int, Range(1, MAX_VCPUS)] = 1
    maxvcpus: Annotated[int, Range(1, MAX_VCPUS)] = 1
    ramdisk: PathText | None = None
    cmdline: Annotated[str, Length(MAX_GUEST_CMDLINE - 1)] = ""
    uuid: UUID | None = None
    disks: Annotated[tuple[Disk, ...], Length(MAX_DEVICES)] = ()
    vifs: Annotated[tuple[Vif, ...], Length(MAX_DEVICES)] = ()
    on_poweroff: Action = Action.DESTROY
    on_reboot: Action = Action.RESTART
    on_crash: Action = Action.DESTROY
    on_watchdog: Action = Action.DESTROY
    cpu_weight: Annotated[int, Range(1, MAX_WEIGHT)] | None = None
    cap: Annotated[int, Range(0, 100 * MAX_VCPUS)] | None = None
    max_grant_frames: Annotated[int, Range(1, MAX_NUMBER)] | None = None
    max_maptrack_frames: Number | None = None
    max_grant_version: Annotated[int, Range(1, MAX_GRANT_VERSION)] = 2
    max_event_channels: Annotated[int, Range(1, MAX_NUMBER)] | None = None
    driver_domain: bool = False
    mark: Annotated[str, Length(256)] | None = None

    def __post_init__(self) -> None:
        """What concerns the name, or more than one field. Raises ValueError."""
        if (why := bad_name(self.name)) is not None:
            raise ValueError(f"the name {why}")
        if self.type is not GuestType.PV and self.python_guest is not None:
            raise ValueError(f"a Python guest is of type pv, not {self.type}")
        if self.is_shadowed and (why := too_little_shadow(self.shadow_mib, self.maxmem, self.maxvcpus)):
            raise ValueError(why)
        if self.maxmem < self.memory:
            raise ValueError(f"maxmem {self.maxmem} is less than memory {self.memory}")
        if self.maxvcpus < self.vcpus:
            raise ValueError(f"maxvcpus {self.maxvcpus} is less than vcpus {self.vcpus}")
        if len({disk.devid for disk in self.disks}) < len(self.disks):
            raise ValueError("a vdev is used twice")

    @property
    def is_shadowed(self) -> bool:
        """Whether its guest has shadow paging."""
        return self.type is GuestType.PVH and not self.hap

    @property
    def shadow_mib(self) -> int:
        """MiB for its shadow page tables; 0 without shadow paging. The default is libxl's (libxl__get_required_paging_memory)."""
        if not self.is_shadowed:
            return 0
        if self.shadow_memory is not None:
            return self.shadow_memory
        return -(-(SHADOW_PAGES_PER_VCPU * self.maxvcpus + 2 * self.maxmem) // PAGES_PER_MIB)

    @property
    def python_guest(self) -> str | None:
        """`module:Class` or `/path/file.py:Class` if the kernel is a Python class, else None."""
        return self.kernel.removeprefix(PYTHON_PREFIX) if self.kernel.startswith(PYTHON_PREFIX) else None


def too_little_shadow(shadow_mib: int, maxmem: int, vcpus: int) -> str | None:
    """Why a domain of `maxmem` MiB cannot have so few MiB of shadows, or None. Xen insists on more (its sh_min_allocation)."""
    least = -(-(LEAST_SHADOW_PAGES_PER_VCPU * vcpus + maxmem) // PAGES_PER_MIB)
    if shadow_mib >= least:
        return None
    return f"shadow_memory {shadow_mib} is too little for {maxmem} MiB of memory with hap 0; it takes {least}"


def bad_name(name: str) -> str | None:
    """Why a text cannot be a domain's name, or None."""
    blank = any(letter.isspace() or not letter.isprintable() for letter in name)
    if not name or len(name) > MAX_NAME or "/" in name or blank:
        return f"must have 1-{MAX_NAME} printable characters without blanks and '/'"
    if name.isdecimal():
        return "must not be a number, which would be taken for a domain id"
    return None
