"""What a topology may say. docs/topology.schema.json is made from these classes.

Names of Xen's own settings are those of xl.cfg(5); what they mean is read by the same code that reads an xl.cfg.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from domains.control.vxlan_operations import MAX_MTU, MAX_PEERS, MAX_VNI, MIN_MTU, VXLAN_PORT
from hypervisor.public.xenoscope_sched import SCHEDULER_NAMES

NAME: Final = r"^[A-Za-z][A-Za-z0-9_-]{0,31}$"
BRIDGE: Final = r"^[A-Za-z0-9_.:-]{1,15}$"
SNAPSHOT: Final = r"^[^\s/]{1,80}$"
SIZE: Final = re.compile(r"([1-9][0-9]*)\s*(KiB|MiB|GiB)?")
UNITS: Final = {None: 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
CONSOLE: Final = re.compile(r"console\s+(?:\"(.+)\"|'(.+)'|(\S.*))")
DEFAULT_TIMEOUT: Final = 60.0
MAX_REPLICAS: Final = 1000


def parse_size(value: Any) -> Any:
    """Bytes of `64MiB`; a number is bytes already."""
    if isinstance(value, str) and (found := SIZE.fullmatch(value.strip())):
        return int(found.group(1)) * UNITS[found.group(2)]
    if isinstance(value, str):
        raise ValueError(f"'{value}' is no size, such as 64MiB")
    return value


Name = Annotated[str, Field(pattern=NAME)]
Size = Annotated[
    int,
    Field(ge=1, le=1 << 50),
    BeforeValidator(parse_size),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": f"^{SIZE.pattern}$"}]}
    ),
]
Action = Literal["destroy", "restart", "rename-restart", "preserve"]


class Part(BaseModel):
    """What all parts share: nothing unknown, nothing converted, nothing changed later."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True)


def shorthand(schema: dict[str, Any], short: dict[str, Any]) -> None:
    """Let the JSON Schema of a part allow its short form too."""
    whole = dict(schema)
    schema.clear()
    schema |= {"title": whole.pop("title"), "anyOf": [short, whole]}


class Machine(Part):
    """The machine that is started if none runs."""

    memory: int | None = Field(
        default=None, ge=32, le=64 * 1024, description="MiB; by default what its domains need"
    )
    cpus: int = Field(default=2, ge=1, le=64, description="Emulated CPUs")
    sched: str = Field(
        default="credit2", pattern=f"^({'|'.join(SCHEDULER_NAMES)})$", description="Their scheduler"
    )
    slice_ms: float | None = Field(
        default=None, ge=0.1, le=1000, description="Length of its slices, if it has one to set"
    )


class VxlanNetwork(Part):
    """A network over several hosts, by VXLAN (RFC 7348). It encrypts nothing: what guests send can be read and forged on the way,
    unless the hosts' own network is encrypted (such as WireGuard, whose addresses are named as peers then).
    """

    vni: int = Field(ge=1, le=MAX_VNI, description="The network's number, the same on all hosts")
    peers: list[str] | None = Field(
        default=None,
        max_length=MAX_PEERS,
        description="The other hosts' addresses, as 10.0.0.2 or [fd00::2]:4789; this host's own may be among them."
        " By default they are set while it runs (xenctl vxlan-peers)",
    )
    port: int = Field(
        default=VXLAN_PORT, ge=1, le=0xFFFF, description="UDP port here, and of peers that say none"
    )
    local: str | None = Field(
        default=None, description="The address of this end; by default all of the host's"
    )
    mtu: int | None = Field(
        default=None,
        ge=MIN_MTU,
        le=MAX_MTU,
        description="Of guests' interfaces; by default what fits into 1500 on the way: 1450, over IPv6 1430",
    )


class Network(Part):
    """A bridge that interfaces are plugged into."""

    model_config = ConfigDict(json_schema_extra=lambda schema: shorthand(schema, {"type": "null"}))

    bridge: str | None = Field(default=None, pattern=BRIDGE, description="Its name; by default the network's")
    subnet: str | None = Field(
        default=None,
        description="IPv4 network, as 10.0.0.0/24: interfaces get its addresses in the file's order",
    )
    uplink: str | None = Field(
        default=None,
        description="The host's address in it, as 10.0.0.254: connects the bridge with the host's network",
    )
    vxlan: VxlanNetwork | None = Field(
        default=None, description="Connects the bridge with those of other hosts"
    )

    @model_validator(mode="before")
    @classmethod
    def _nothing_said(cls, value: Any) -> Any:
        return {} if value is None else value


class Disk(Part):
    """A disk image: a file that is there, or one that is made when it is needed.

    What is made without `path` goes away with the topology.
    """

    file: str | None = Field(default=None, description="An image that is there already; it is never removed")
    size: Size | None = Field(default=None, description="Bytes, or 64MiB: a new image of that size")
    copy_of: str | None = Field(
        default=None, alias="copy", description="A new image with the content of this file"
    )
    filesystem: Literal["ext4"] | None = Field(default=None, description="Made on a new image")
    path: str | None = Field(
        default=None, description="Where the new image is made, once; it is never removed"
    )

    @model_validator(mode="after")
    def _one_origin(self) -> Disk:
        if self.file is not None and self.model_fields_set & {"size", "copy_of", "filesystem", "path"}:
            raise ValueError("a disk with 'file' is not made, so it has no size, copy, filesystem or path")
        if self.filesystem is not None and (self.copy_of is not None or self.size is None):
            raise ValueError("'filesystem' needs 'size', and no 'copy'")
        if self.path is not None and self.size is None and self.copy_of is None:
            raise ValueError("'path' says where a disk is made: it needs 'size' or 'copy'")
        return self

    @property
    def is_made(self) -> bool:
        """Whether `up` makes the image when it is not there."""
        return self.size is not None or self.copy_of is not None


class DomainDisk(Disk):
    """A disk of a domain: one of the topology's by name, or one of its own, of which each replica gets one."""

    model_config = ConfigDict(
        json_schema_extra=lambda schema: shorthand(schema, {"type": "string", "pattern": NAME})
    )

    disk: Name | None = Field(default=None, description="A disk of the topology")
    vdev: str | None = Field(
        default=None, description="Its name in the guest; by default the next of xvda, xvdb …"
    )
    access: Literal["ro", "rw"] = "rw"

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"disk": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _some_origin(self) -> DomainDisk:
        if (self.disk is not None) + (self.file is not None) + self.is_made != 1:
            raise ValueError("a domain's disk has one of 'disk', 'file', and 'size' or 'copy'")
        return self


class DomainNetwork(Part):
    """An interface of a domain."""

    model_config = ConfigDict(
        json_schema_extra=lambda schema: shorthand(schema, {"type": "string", "pattern": NAME})
    )

    network: Name = Field(description="A network of the topology")
    mac: str | None = Field(default=None, description="By default one that stays the same for this domain")
    ip: str | None = Field(default=None, description="By default the next of the network's subnet")
    rate: str | None = Field(default=None, description="What it may send at most, as 10Mb/s")
    mtu: int | None = Field(default=None, ge=68, le=65521)

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"network": value} if isinstance(value, str) else value


class Wait(Part):
    """When a domain counts as ready, so that those that come after it may begin."""

    model_config = ConfigDict(
        json_schema_extra=lambda schema: shorthand(
            schema, {"type": "string", "pattern": "^(running|shutdown|console\\s.+)$"}
        )
    )

    until: Literal["running", "shutdown", "console"] = Field(
        default="running",
        description="running: it was started; shutdown: it has powered off; console: see there",
    )
    console: str | None = Field(default=None, min_length=1, description="Text that its console must show")
    timeout: float = Field(default=DEFAULT_TIMEOUT, gt=0, le=86400, description="Seconds")

    @model_validator(mode="before")
    @classmethod
    def _in_short(cls, value: Any) -> Any:
        if isinstance(value, str):
            if found := CONSOLE.fullmatch(value):
                return {"until": "console", "console": next(filter(None, found.groups()))}
            return {"until": value}
        if isinstance(value, dict) and "console" in value:
            return {"until": "console"} | value
        return value

    @model_validator(mode="after")
    def _whole(self) -> Wait:
        if (self.until == "console") != (self.console is not None):
            raise ValueError("'until: console' and 'console: TEXT' belong together")
        return self


BOOTS_BY: Final = ("kernel", "bootloader", "firmware", "from_snapshot")
"""Keys of a domain of which there must be one."""
OF_FORK: Final = ("from_snapshot", "replicas", "networks", "after", "wait")
"""Keys that a domain may have which goes on from a snapshot: all else is as it was there."""


class Domain(Part):
    """A domain, or `replicas` of them: NAME-1, NAME-2 …

    In texts, ${name} and ${index} stand for the replica's own, ${ip.NET} for its address in a network, and
    ${DOMAIN.ip.NET} for another one's.
    """

    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": [key]} for key in BOOTS_BY]})

    replicas: int | None = Field(default=None, ge=1, le=MAX_REPLICAS)
    networks: list[DomainNetwork] = Field(default_factory=list, description="Its interfaces, in order")
    disks: list[DomainDisk] = Field(default_factory=list, description="Its disks, in order")
    after: list[Name] = Field(
        default_factory=list, description="Domains that must be ready before it is made"
    )
    wait: Wait = Field(default_factory=Wait)
    from_snapshot: str | None = Field(
        default=None,
        pattern=SNAPSHOT,
        description="It does not boot, but goes on from this snapshot of the machine (xenctl snapshot)",
    )

    kernel: str | None = Field(
        default=None, description="An ELF file, a bzImage, python:module:Class or python:./file.py:Class"
    )
    bootloader: str | None = Field(default=None, description="pygrub: by the grub.cfg in its own disk")
    firmware: str | None = Field(default=None, description="pvgrub64 or pvgrub32: as bootloader")
    ramdisk: str | None = None
    cmdline: str | None = None
    root: str | None = None
    extra: str | None = None
    memory: int | None = Field(default=None, ge=1, description="MiB")
    maxmem: int | None = Field(default=None, ge=1, description="MiB")
    vcpus: int | None = Field(default=None, ge=1)
    maxvcpus: int | None = Field(default=None, ge=1)
    cpus: str | list[str] | None = Field(
        default=None, description="CPUs, as in xl.cfg: for all vCPUs, or each"
    )
    cpus_soft: str | list[str] | None = Field(
        default=None, description="CPUs that are preferred, as in xl.cfg"
    )
    uuid: str | None = None
    disk: list[str] | None = Field(default=None, description="More disks, as in xl.cfg")
    vif: list[str] | None = Field(default=None, description="More interfaces, as in xl.cfg")
    type: str | None = None
    hap: int | None = Field(
        default=None, ge=0, le=1, description="Of a PVH domain; 1: nested paging, 0: shadow paging"
    )
    shadow_memory: int | None = Field(default=None, ge=1, description="MiB for shadow page tables")
    builder: str | None = None
    on_poweroff: Action | None = None
    on_reboot: Action | None = None
    on_crash: Action | None = None
    on_watchdog: Action | None = None
    on_soft_reset: Action | None = None
    cpu_weight: int | None = Field(default=None, ge=1)
    cap: int | None = Field(default=None, ge=0)
    period: int | None = Field(default=None, ge=0, description="Of RTDS, in µs")
    extratime: int | None = Field(default=None, ge=0, le=1)
    pool: str | None = None
    max_grant_frames: int | None = Field(default=None, ge=1)
    max_maptrack_frames: int | None = Field(default=None, ge=0)
    max_grant_version: int | None = Field(default=None, ge=1, le=2)
    max_event_channels: int | None = Field(default=None, ge=1)
    driver_domain: int | None = Field(
        default=None, ge=0, le=1, description="1: it may serve devices of others"
    )

    @model_validator(mode="after")
    def _is_as_it_was(self) -> Domain:
        other = next((key for key in self.model_fields_set if key not in OF_FORK), None)
        if self.from_snapshot is not None and other is not None:
            raise ValueError(
                f"with 'from_snapshot' a domain is as it was when the snapshot was made; leave '{other}' out"
            )
        return self

    @model_validator(mode="after")
    def _boots_by_something(self) -> Domain:
        if all(getattr(self, key) is None for key in BOOTS_BY):
            raise ValueError("'kernel' is missing")
        return self


OWN_KEYS: Final = ("replicas", "networks", "disks", "after", "wait", "from_snapshot")
"""Keys of a domain that are the topology's; all others are xl.cfg's."""


class Topology(Part):
    """A machine, what connects its domains, and the domains."""

    name: Name | None = Field(default=None, description="By default the file's name without its ending")
    machine: Machine = Field(default_factory=Machine)
    networks: dict[Name, Network] = Field(default_factory=dict)
    disks: dict[Name, Disk] = Field(default_factory=dict)
    domains: dict[Name, Domain] = Field(min_length=1)
