"""What is shown of domains, of the machine and of the store: maps and lists ready to be sent."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from domains.dom0.toolstack.domains import Domains
from domains.dom0.toolstack.errors import ToolstackError
from domains.dom0.toolstack.lifecycle import name_of
from domains.dom0.toolstack.xenctrl import DomainInfo, XenCtrl
from domains.kernel.xenbus import Xenbus
from hypervisor.public.errno import Errno, XenError

KIB_PER_PAGE: Final = 4
MAX_NODES: Final = 50_000
"""Nodes shown of the store."""


def describe(info: DomainInfo, domains: Domains) -> dict[str, Any]:
    """One domain. Memory in KiB, CPU time in seconds; `config` of domains that this toolstack made."""
    record = domains.records.get(info.domid)
    about: dict[str, Any] = {
        "domid": info.domid,
        "name": domains.name_of(info.domid),
        "uuid": str(UUID(bytes=info.handle)),
        "state": info.state,
        "shutdown": name_of(info.shutdown) if info.shutdown is not None else None,
        "memory_kib": info.tot_pages * KIB_PER_PAGE,
        "max_memory_kib": min(info.max_pages, 1 << 40) * KIB_PER_PAGE,
        "vcpus": info.vcpus,
        "cpu_time": info.cpu_time / 1e9,
    }
    if record is not None:
        config = record.config
        about["config"] = {
            "mark": config.mark,
            "kernel": config.kernel,
            "ramdisk": config.ramdisk,
            "cmdline": config.cmdline,
            "memory": config.memory,
            "maxmem": config.maxmem,
            "vcpus": config.vcpus,
            "disks": [
                {
                    "target": disk.target,
                    "vdev": disk.vdev,
                    "writable": disk.writable,
                    "backend": disk.backend,
                }
                for disk in config.disks
            ],
            "vifs": [
                {"mac": vif.mac, "bridge": vif.bridge, "ip": vif.ip, "backend": vif.backend}
                for vif in config.vifs
            ],
            "driver_domain": config.driver_domain,
            "on_poweroff": config.actions.on_poweroff,
            "on_reboot": config.actions.on_reboot,
            "on_crash": config.actions.on_crash,
            "on_watchdog": config.actions.on_watchdog,
        }
    return about


def describe_machine(xen: XenCtrl, machine: dict[str, Any]) -> dict[str, Any]:
    """The machine: its name and paths, memory in frames of 4 KiB, CPUs and domains."""
    physical = xen.physinfo()
    return {
        **machine,
        "nr_cpus": physical.nr_cpus,
        "total_frames": physical.total_pages,
        "free_frames": physical.free_pages,
        "domains": len(xen.domains()),
    }


def walk_store(xenbus: Xenbus, path: str) -> list[list[Any]]:
    """[path, value, permissions] of a node and all below it, depth first, children by name. Raises
    ToolstackError.
    """
    root = path.rstrip("/") or "/"
    found: list[list[Any]] = []
    rest = [root]
    while rest:
        node = rest.pop()
        try:
            found.append([node, xenbus.read_bytes(node), xenbus.get_permissions(node)])
            names = sorted(xenbus.directory(node), reverse=True)
        except XenError as error:
            if error.errno is not Errno.ENOENT:
                raise
            if node == root:
                raise ToolstackError(f"xenstore has no node {path}") from None
            continue
        if len(found) > MAX_NODES:
            raise ToolstackError(f"more than {MAX_NODES} nodes below {path}; name a node further down")
        rest += [f"{node.rstrip('/')}/{name}" for name in names]
    return found
