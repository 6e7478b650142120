"""A domain's description with types, as `create` sends it and Dom0 builds from it. Plain data; the limits that a
description keeps are declared here, once, for those who read one from text and for those who get one by message.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Final
from uuid import UUID

from domains.control.cpus import CpuList
from domains.control.records import Length, Matches, Range, Record
from domains.control.vdev import device_number
from hypervisor.public.types import PAGES_PER_MIB

PYTHON_PREFIX: Final = "python:"
"""Begins a `kernel` that is a class: `python:package.module:Class`, or `python:/path/file.py:Class`."""
DISK_PREFIX: Final = "disk:"
"""Begins a `kernel` that is in a raw image, where the boot loader's menu in it names it: `disk:/path/disk.img`."""

MAX_NAME: Final = 80
"""Characters of a domain's name."""
MAX_VCPUS: Final = 32
"""vCPUs of a domain: as many as its shared_info has room for (Xen's XEN_LEGACY_MAX_VCPUS)."""
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
MAX_DEVID: Final = 0xFFFF
"""The highest number of a network interface."""
MAX_PATH: Final = 4096
MAX_ADDRESSES: Final = 1024
"""Bytes of a network interface's addresses, with blanks between them."""
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
PoolText = Annotated[str, Length(4 * MAX_NAME)]
"""A CPU pool's name, or its id in decimal."""
InterfaceText = Annotated[str, Matches(INTERFACE_NAME)]
Number = Annotated[int, Range(0, MAX_NUMBER)]
Weight = Annotated[int, Range(1, MAX_WEIGHT)]
"""A domain's share of the CPUs under credit and credit2; 256 is usual."""
Cap = Annotated[int, Range(0, 100 * MAX_VCPUS)]
"""Percent of one CPU that a domain gets at most; 0: there is no such limit."""
Affinities = Annotated[tuple[CpuList, ...], Length(MAX_VCPUS)]
"""The CPUs of each vCPU, from vCPU 0 on; vCPUs beyond may run on all."""


class Action(StrEnum):
    """What happens to a domain that shut down; xl.cfg(5), Event Actions."""

    DESTROY = "destroy"
    RESTART = "restart"
    RENAME_RESTART = "rename-restart"
    PRESERVE = "preserve"
    COREDUMP_DESTROY = "coredump-destroy"
    COREDUMP_RESTART = "coredump-restart"
    SOFT_RESET = "soft-reset"


class GuestType(StrEnum):
    """How a domain is virtualized; xl.cfg(5), `type`."""

    PV = "pv"
    PVH = "pvh"


class Disk(Record):
    """One virtual disk. `backend`: the driver domain that serves it, by name or id; None is Dom0. `discard`: the guest may give
    sectors back, if it may write.
    """

    target: PathText
    vdev: Annotated[str, Length(32)]
    format: Annotated[str, Length(16)] = "raw"
    writable: bool = True
    cdrom: bool = False
    backend: DomainText | None = None
    discard: bool = True

    def __post_init__(self) -> None:
        if device_number(self.vdev) is None:
            raise ValueError(f"'{self.vdev}' is no virtual device; use xvda, xvdb …")

    @property
    def devid(self) -> int:
        """The number the guest knows it by; `virtual-device` in xenstore."""
        number = device_number(self.vdev)
        assert number is not None
        return number


class Rate(Record):
    """What an interface may send: so many bytes in each interval of so many microseconds."""

    bytes_per_interval: Annotated[int, Range(1, 1 << 63)]
    interval_usecs: Annotated[int, Range(1, MAX_U32)]

    def __str__(self) -> str:
        return f"{self.bytes_per_interval},{self.interval_usecs}"


class Vif(Record):
    """One virtual network interface; what is None is chosen at creation, or not limited.

    `script` stands in the store, as libxl writes it; nobody runs it here. `backend`: the driver domain that serves
    it, by name or id; None is Dom0. `devid`: the number that the domain knows it by; None: its place in the list.
    """

    mac: Annotated[str, Matches(MAC_ADDRESS)] | None = None
    bridge: InterfaceText = "xenbr0"
    name: InterfaceText | None = None
    ip: Annotated[str, Length(MAX_ADDRESSES)] | None = None
    rate: Rate | None = None
    mtu: Annotated[int, Range(68, 65521)] | None = None
    script: PathText = "/etc/xen/scripts/vif-bridge"
    backend: DomainText | None = None
    devid: Annotated[int, Range(0, MAX_DEVID)] | None = None


def numbered(vifs: Sequence[Vif]) -> list[tuple[int, Vif]]:
    """The interfaces of a domain, each with its number."""
    return [(place if vif.devid is None else vif.devid, vif) for place, vif in enumerate(vifs)]


class DomainConfig(Record):
    """One domain. Paths are absolute; memory is in MiB. The actions' defaults are xl's.

    `hap`: of a PVH domain, nested paging; without it, shadow paging, with `shadow_memory` MiB for the tables, or libxl's default.

    `vcpus` of the `maxvcpus` are online at boot. `cpus`, `cpus_soft`: the CPUs that each vCPU may, and should, run on; `pool`:
    the CPU pool they are of, None for Pool-0. `period` (us) and `extratime`: of RTDS; what the pool's scheduler does not know of
    all these is passed over, as by xl.

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
    on_soft_reset: Action = Action.SOFT_RESET
    cpus: Affinities = ()
    cpus_soft: Affinities = ()
    pool: PoolText | None = None
    cpu_weight: Weight | None = None
    cap: Cap | None = None
    period: Number | None = None
    extratime: bool | None = None
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
        if (why := too_many_vcpus(self.type, self.kernel, self.maxvcpus)) is not None:
            raise ValueError(why)
        if self.maxvcpus < self.vcpus:
            raise ValueError(f"maxvcpus {self.maxvcpus} is less than vcpus {self.vcpus}")
        if len({disk.devid for disk in self.disks}) < len(self.disks):
            raise ValueError("a vdev is used twice")
        if len({devid for devid, _ in numbered(self.vifs)}) < len(self.vifs):
            raise ValueError("two interfaces have the same devid")

    @property
    def is_shadowed(self) -> bool:
        """Whether its guest has shadow paging."""
        return self.type is GuestType.PVH and not self.hap

    @property
    def populated_mib(self) -> int:
        """MiB that it has when it is made: a PVH domain has all of `maxmem`, for no domain is populated on demand, and its
        guest gives back what is more than `memory`.
        """
        return self.maxmem if self.type is GuestType.PVH else self.memory

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


def too_many_vcpus(kind: GuestType, kernel: str, maxvcpus: int) -> str | None:
    """Why such a guest cannot have so many vCPUs, or None: the process of a PVH or a Python guest runs vCPU 0 alone."""
    if maxvcpus == 1 or (kind is GuestType.PV and not kernel.startswith(PYTHON_PREFIX)):
        return None
    what = "a Python guest" if kernel.startswith(PYTHON_PREFIX) else f"a guest of type '{kind}'"
    return f"{what} has 1 vCPU, not {maxvcpus}: only PV guests of machine code have more"


def bad_name(name: str) -> str | None:
    """Why a text cannot be a domain's name, or None."""
    blank = any(letter.isspace() or not letter.isprintable() for letter in name)
    if not name or len(name) > MAX_NAME or "/" in name or blank:
        return f"must have 1-{MAX_NAME} printable characters without blanks and '/'"
    if name.isdecimal():
        return "must not be a number, which would be taken for a domain id"
    return None
