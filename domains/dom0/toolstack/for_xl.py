"""The toolstack for xl's libraries: what they expect of another process that shares Dom0 with them (docs/xl.md)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from domains.control.description import Action, Disk, DomainConfig, GuestType, Vif
from domains.dom0.console.terminal import Terminal, Viewer
from domains.dom0.toolstack.domains import DOM0_NAME
from domains.dom0.toolstack.lifecycle import Lifecycle
from domains.dom0.toolstack.parts import Parts
from hypervisor.public.types import DomId

KIB_PER_MIB: Final = 1024


class ForXl:
    """One per Dom0."""

    def __init__(self, parts: Parts, lifecycle: Lifecycle) -> None:
        self._parts = parts
        self._lifecycle = lifecycle

    def destroyed(self, domid: DomId) -> None:
        """A client ends this domain."""
        self._lifecycle.destroyed(domid)

    def ending(self, callback: Callable[[DomId], None]) -> None:
        """Have `callback` called when the destruction of a domain begins, whoever destroys it."""
        self._parts.domains.ending.append(callback)

    def console(self, domid: DomId) -> Terminal | None:
        """A domain's console; None: it has none, or there is no such domain."""
        return self._lifecycle.console(domid)

    def attach(self, terminal: Terminal, viewer: Viewer) -> None:
        """Let a viewer follow a console from its oldest byte."""
        self._parts.consoled.attach(terminal, viewer)

    def configuration(self, domid: DomId) -> bytes | None:
        """How a domain was made, as libxl keeps it; None: this toolstack has not made it."""
        if domid == 0:
            return as_json(dom0_configuration())
        record = self._parts.domains.records.get(domid)
        return as_json(libxl_configuration(record.config, str(record.uuid))) if record is not None else None


def as_json(value: dict[str, Any]) -> bytes:
    """Text in JSON with the NUL that libxl takes for its end."""
    return json.dumps(value).encode() + b"\0"


def dom0_configuration() -> dict[str, Any]:
    """What xen-init-dom0 writes for Dom0 (Xen tools/helpers/init-dom-json.c)."""
    return {
        "c_info": {"type": "pv", "name": DOM0_NAME},
        "b_info": {"max_vcpus": 1, "video_memkb": 0, "type.pv": {}},
    }


def libxl_configuration(config: DomainConfig, uuid: str) -> dict[str, Any]:
    """A description in the names of libxl_domain_config (Xen tools/libs/light/libxl_types.idl). What is left out is the
    default.
    """
    build: dict[str, Any] = {
        "max_vcpus": config.maxvcpus,
        "avail_vcpus": list(range(config.vcpus)),
        "max_memkb": config.maxmem * KIB_PER_MIB,
        "target_memkb": config.memory * KIB_PER_MIB,
        "shadow_memkb": config.shadow_mib * KIB_PER_MIB,
        "video_memkb": 0,
        "kernel": config.kernel,
        "cmdline": config.cmdline,
        f"type.{config.type}": {},
    }
    if config.ramdisk is not None:
        build["ramdisk"] = config.ramdisk
    create: dict[str, Any] = {"type": str(config.type), "name": config.name, "uuid": uuid}
    if config.type is GuestType.PVH:
        create["hap"] = str(config.hap)
    actions = ("on_poweroff", "on_reboot", "on_crash", "on_watchdog", "on_soft_reset")
    return {
        "c_info": create,
        "b_info": build,
        "disks": [disk_of(disk) for disk in config.disks],
        "nics": [nic_of(number, vif) for number, vif in enumerate(config.vifs)],
        **{name: action_of(getattr(config, name)) for name in actions},
    }


def action_of(action: Action) -> str:
    """libxl's name of what follows a shutdown (libxl_types.idl, libxl_action_on_shutdown)."""
    return "restart_rename" if action is Action.RENAME_RESTART else action.replace("-", "_")


def disk_of(disk: Disk) -> dict[str, Any]:
    """A libxl_device_disk."""
    return {
        "pdev_path": disk.target,
        "vdev": disk.vdev,
        "backend": "phy",
        "format": disk.format,
        "removable": int(disk.cdrom),
        "readwrite": int(disk.writable),
        "is_cdrom": int(disk.cdrom),
    }


def nic_of(number: int, vif: Vif) -> dict[str, Any]:
    """A libxl_device_nic."""
    optional = {"mac": vif.mac, "ip": vif.ip, "ifname": vif.name, "mtu": vif.mtu}
    given = {name: value for name, value in optional.items() if value is not None}
    return {"devid": number, "bridge": vif.bridge, "script": vif.script, "nictype": "vif", **given}
