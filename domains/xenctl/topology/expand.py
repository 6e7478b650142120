"""From a topology to its domains one by one: replicas counted out, addresses given, names put in, descriptions
written.

    domains.web, replicas 2, networks [lan]  ─►  web-1: vif mac=…,bridge=lan,ip=10.0.0.1/24      cmdline "… web-1"
                                                 web-2: vif mac=…,bridge=lan,ip=10.0.0.2/24      cmdline "… web-2"

Numbers and texts only: nothing is read, made or started here. What is wrong is gathered as problems.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, Final

from domains.dom0.toolstack.xlcfg.load import Plain
from domains.dom0.toolstack.xlcfg.uplink import UplinkSpec, parse_uplink
from domains.xenctl.topology.addresses import Subnet, mac_of
from domains.xenctl.topology.model import (
    OWN_KEYS,
    Disk,
    Domain,
    DomainDisk,
    DomainNetwork,
    Network,
    Topology,
    Wait,
)
from domains.xenctl.topology.source import Path, Problem
from domains.xenctl.topology.vxlans import Vxlans

PLACEHOLDER: Final = re.compile(r"(?<!\$)\$\{([^${}]*)\}")
NESTED: Final = 4
"""Rounds of replacement: ${web-${index}.ip.lan} takes two."""
LETTERS: Final = "abcdefghijklmnop"
XL_KEYS: Final = tuple(key for key in Domain.model_fields if key not in OWN_KEYS)


@dataclass(frozen=True)
class Image:
    """A disk image to be made. `kept`: it stays when the topology goes."""

    path: FilePath
    size: int | None
    copy_of: FilePath | None
    filesystem: str | None
    kept: bool
    origin: Path = ()


@dataclass(frozen=True)
class Attached:
    """A disk of a domain."""

    target: FilePath
    vdev: str
    writable: bool
    origin: Path
    shared_as: str | None = None


@dataclass(frozen=True)
class Plug:
    """An interface of a domain."""

    network: str
    bridge: str
    mac: str
    ip: str | None
    origin: Path
    options: str = ""

    @property
    def spec(self) -> str:
        """As in xl.cfg."""
        address = f",ip={self.ip}" if self.ip else ""
        return f"mac={self.mac},bridge={self.bridge}{address}{self.options}"


@dataclass(frozen=True)
class Planned:
    """One domain as it is to be. `origins` tells for each of `settings` where in the topology it comes from."""

    name: str
    of: str
    settings: Mapping[str, Plain | Sequence[Plain]]
    origins: tuple[Path, ...]
    after: tuple[str, ...]
    wait: Wait
    memory: int
    plugs: tuple[Plug, ...]
    disks: tuple[Attached, ...]
    images: tuple[Image, ...]
    snapshot: str | None = None

    @property
    def fingerprint(self) -> str:
        """Changes with everything that the domain is made from."""
        made = [(str(i.path), i.size, str(i.copy_of), i.filesystem) for i in self.images]
        of = f"{self.settings}{made}{self.snapshot or ''}"
        return hashlib.sha256(of.encode()).hexdigest()[:16]


@dataclass
class Plan:
    """All domains by name, in the file's order, what is wrong, and how the machine is to be connected with the host and with
    other hosts.
    """

    domains: dict[str, Planned] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    uplinks: list[UplinkSpec] = field(default_factory=list)
    vxlans: Vxlans = field(default_factory=Vxlans)


@dataclass(frozen=True)
class Instance:
    """A replica before its texts are filled in."""

    name: str
    key: str
    index: int
    domain: Domain


def expand(topology: Topology, name: str, folder: FilePath, scratch: FilePath) -> Plan:
    """The domains of a topology called `name`. Relative paths start at `folder`; made images without a path of
    their own go to `scratch`.
    """
    return Expansion(topology, name, folder, scratch).plan()


class Expansion:
    """One topology being counted out."""

    def __init__(self, topology: Topology, name: str, folder: FilePath, scratch: FilePath) -> None:
        self._topology = topology
        self._name = name
        self._folder = folder
        self._scratch = scratch
        self._problems: list[Problem] = []
        self._instances: dict[str, Instance] = {}
        self._ips: dict[tuple[str, str], str] = {}
        self._macs: set[str] = set()
        self._uplinks: list[UplinkSpec] = []
        self._vxlans = Vxlans()

    def plan(self) -> Plan:
        """Every domain that there shall be, with all that was found wrong on the way."""
        for key, domain in self._topology.domains.items():
            count = domain.replicas or 1
            for index in range(1, count + 1):
                name = f"{key}-{index}" if domain.replicas is not None and count > 1 else key
                if name in self._instances:
                    self._refuse(("domains", key), f"there are two domains called '{name}'", at_key=True)
                self._instances[name] = Instance(name, key, index, domain)
        plugs = self._plugs()
        domains = {name: self._planned(instance, plugs[name]) for name, instance in self._instances.items()}
        return Plan(domains, self._problems, self._uplinks, self._vxlans)

    def _refuse(self, path: Path, message: str, at_key: bool = False) -> None:
        problem = Problem(path, message, at_key)
        if problem not in self._problems:
            self._problems.append(problem)

    # --- interfaces ------------------------------------------------------------------------------

    def _plugs(self) -> dict[str, tuple[Plug, ...]]:
        """The interfaces of all domains: first those whose address was chosen, then the others in order."""
        subnets = self._subnets()
        rows = [
            (instance, number, wanted)
            for instance in self._instances.values()
            for number, wanted in enumerate(instance.domain.networks)
        ]
        made: dict[tuple[str, int], Plug] = {}
        for chosen in (True, False):
            for instance, number, wanted in rows:
                if (wanted.ip is not None) is chosen:
                    plug = self._plug(instance, number, wanted, subnets)
                    if plug is not None:
                        made[instance.name, number] = plug
        return {
            name: tuple(plug for (owner, _), plug in sorted(made.items()) if owner == name)
            for name in self._instances
        }

    def _subnets(self) -> dict[str, Subnet]:
        found = {}
        for name, network in self._topology.networks.items():
            if network.subnet is not None:
                try:
                    found[name] = Subnet(network.subnet)
                except ValueError as error:
                    self._refuse(("networks", name, "subnet"), str(error))
            if network.uplink is not None:
                self._uplink(name, network, found.get(name))
            if network.vxlan is not None:
                self._vxlans.add(name, network.bridge or name, network.vxlan, self._refuse)
        return found

    def _uplink(self, name: str, network: Network, subnet: Subnet | None) -> None:
        """The host's own address, which no interface gets."""
        try:
            address = network.uplink if subnet is None else subnet.take(network.uplink or "")
            self._uplinks.append(parse_uplink(f"{network.bridge or name}={address}"))
        except ValueError as error:
            self._refuse(("networks", name, "uplink"), str(error))

    def _plug(
        self, instance: Instance, number: int, wanted: DomainNetwork, subnets: dict[str, Subnet]
    ) -> Plug | None:
        path = ("domains", instance.key, "networks", number)
        network = self._topology.networks.get(wanted.network)
        if network is None:
            self._refuse(path, f"there is no network '{wanted.network}'")
            return None
        self._vxlans.check_mtu(wanted, path, self._refuse)
        subnet = subnets.get(wanted.network)
        try:
            ip = self._filled(instance, wanted.ip, (*path, "ip")) if wanted.ip is not None else None
            if subnet is not None:
                ip = subnet.next() if ip is None else subnet.take(ip)
        except ValueError as error:
            self._refuse(path, str(error))
            return None
        if ip is not None:
            self._ips.setdefault((instance.name, wanted.network), ip.partition("/")[0])
        mac = wanted.mac or mac_of(self._name, instance.name, number)
        if mac in self._macs:
            self._refuse(path, f"there are two interfaces with MAC address {mac}")
        self._macs.add(mac)
        options = "".join(
            f",{key}={value}"
            for key, value in (("rate", wanted.rate), ("mtu", wanted.mtu))
            if value is not None
        )
        return Plug(wanted.network, network.bridge or wanted.network, mac, ip, path, options)

    # --- texts -----------------------------------------------------------------------------------

    def _filled(self, instance: Instance, text: str, path: Path) -> str:
        """`text` with its placeholders replaced."""

        def value(found: re.Match[str]) -> str:
            wanted = found.group(1)
            known = {"name": instance.name, "index": str(instance.index)}
            if wanted in known:
                return known[wanted]
            owner, _, network = f".{wanted}".rpartition(".ip.")
            address = self._ips.get((owner.removeprefix(".") or instance.name, network))
            if address is None:
                self._refuse(path, f"${{{wanted}}} stands for nothing here")
                return ""
            return address

        for _ in range(NESTED):
            text = PLACEHOLDER.sub(value, text)
        return text.replace("$$", "$")

    # --- disks -----------------------------------------------------------------------------------

    def _disks(self, instance: Instance) -> tuple[list[Attached], list[Image]]:
        disks: list[Attached] = []
        images: list[Image] = []
        letters = iter(LETTERS)
        for number, wanted in enumerate(instance.domain.disks):
            path: Path = ("domains", instance.key, "disks", number)
            vdev = wanted.vdev or f"xvd{next(letters, '')}"
            placed = self._placed(instance, number, wanted, path)
            if placed is None:
                continue
            target, image = placed
            if image is not None:
                images.append(image)
            disks.append(Attached(target, vdev, wanted.access == "rw", path, wanted.disk))
        return disks, images

    def _placed(
        self, instance: Instance, number: int, wanted: DomainDisk, path: Path
    ) -> tuple[FilePath, Image | None] | None:
        """Where a disk's image lies, and how it is made if it is."""
        if wanted.disk is None:
            return self._image(wanted, f"{instance.name}.{number}.img", path, instance)
        shared = self._topology.disks.get(wanted.disk)
        if shared is None:
            self._refuse(path, f"there is no disk '{wanted.disk}'")
            return None
        return self._image(shared, f"{wanted.disk}.img", ("disks", wanted.disk), None)

    def _image(
        self, disk: Disk, name: str, path: Path, instance: Instance | None
    ) -> tuple[FilePath, Image | None]:
        def file(text: str) -> FilePath:
            filled = self._filled(instance, text, path) if instance is not None else text
            return self._folder / FilePath(filled).expanduser()

        if disk.file is not None:
            return file(disk.file), None
        target = file(disk.path) if disk.path is not None else self._scratch / name
        copied = file(disk.copy_of) if disk.copy_of is not None else None
        return target, Image(target, disk.size, copied, disk.filesystem, disk.path is not None, path)

    # --- domains ---------------------------------------------------------------------------------

    def _planned(self, instance: Instance, plugs: tuple[Plug, ...]) -> Planned:
        domain, path = instance.domain, ("domains", instance.key)
        disks, images = self._disks(instance)
        settings: dict[str, Any] = {"name": instance.name}
        origins: list[Path] = [path]
        for key in XL_KEYS:
            value = getattr(domain, key)
            if value is None or key in ("disk", "vif"):
                continue
            settings[key] = self._filled(instance, value, (*path, key)) if isinstance(value, str) else value
            origins.append((*path, key))
        rows = {
            "disk": [disk_spec(disk) for disk in disks] + (domain.disk or []),
            "vif": [plug.spec for plug in plugs] + (domain.vif or []),
        }
        for key, own in (("disk", "disks"), ("vif", "networks")):
            if rows[key]:
                settings[key] = rows[key]
                origins.append((*path, key if getattr(domain, key) else own))
        return Planned(
            name=instance.name,
            of=instance.key,
            settings=settings,
            origins=tuple(origins),
            after=self._after(instance),
            wait=domain.wait,
            memory=domain.memory or domain.maxmem or 128,
            plugs=plugs,
            disks=tuple(disks),
            images=tuple(images),
            snapshot=domain.from_snapshot,
        )

    def _after(self, instance: Instance) -> tuple[str, ...]:
        """Names of the domains that it waits for: a domain's name stands for all its replicas."""
        names: dict[str, None] = {}
        for number, wanted in enumerate(instance.domain.after):
            found = [i.name for i in self._instances.values() if wanted in (i.key, i.name)]
            if not found:
                self._refuse(("domains", instance.key, "after", number), f"there is no domain '{wanted}'")
            names |= dict.fromkeys(found)
        return tuple(names)


def disk_spec(disk: Attached) -> str:
    """As in xl.cfg; the path comes last, for it may contain commas."""
    return f"format=raw,vdev={disk.vdev},access={'rw' if disk.writable else 'ro'},target={disk.target}"
