"""Virtual devices in xenstore: both ends' directories as libxl writes them, and what became of the back ends.

/local/domain/5/device/vbd/51712          the front end's: the domain writes, Dom0 reads
/local/domain/0/backend/vbd/5/51712       the back end's: Dom0 writes, the domain reads
/local/domain/3/backend/vif/5/0           one in driver domain 3: that writes, the domain reads
/libxl/5/device/vbd/51712                 the toolstack's own note of both, with the back end's nodes as libxl copies them:
                                          what a driver domain writes is not asked
"""

from __future__ import annotations

from random import Random
from typing import Final

from domains.control.description import XEN_OUI, Disk, Vif
from domains.dom0.toolstack.store_tree import children, home, read_or_none, remove, write_all
from domains.kernel.store_calls import StoreCalls
from hypervisor.public.io.protocols import XEN_IO_PROTO_ABI_X86_64
from hypervisor.public.io.xenbus import (
    XenbusStateClosed,
    XenbusStateClosing,
    XenbusStateInitialising,
    XenbusStateInitWait,
    XenbusStateUnknown,
)
from hypervisor.public.types import DomId

DOM0: Final = DomId(0)
DEFAULT_MTU: Final = 1500
BLOCK_SCRIPT: Final = "/etc/xen/scripts/block"
"""Stands in the store, as libxl writes it of every disk; nobody runs it here."""


def front_path(domid: DomId, kind: str, devid: int) -> str:
    """The front end's directory in xenstore."""
    return f"{home(domid)}/device/{kind}/{devid}"


def back_path(backend: DomId, domid: DomId, kind: str, devid: int) -> str:
    """The back end's directory in xenstore."""
    return f"{home(backend)}/backend/{kind}/{domid}/{devid}"


def note_path(domid: DomId, kind: str = "", devid: int | str = "") -> str:
    """The toolstack's own note of a device, or the directory of all such notes."""
    return f"/libxl/{domid}/device/{kind}/{devid}".rstrip("/")


def add_disk(nodes: StoreCalls, domid: DomId, backend: DomId, disk: Disk, *, lock_late: bool = False) -> None:
    """Announce a disk to both ends; to be done in one transaction. `lock_late`: the image is locked when its front end connects,
    for another machine has it until the domain runs here.
    """
    kind = "cdrom" if disk.cdrom else "disk"
    back: dict[str, str | int] = {
        "params": disk.target if disk.format == "raw" else f"{disk.format}:{disk.target}",
        "frontend-id": domid,
        "online": 1,
        "removable": int(disk.cdrom),
        "bootable": 1,
        "dev": disk.vdev,
        "script": BLOCK_SCRIPT,
        "type": "phy" if disk.format == "raw" else "qdisk",
        "mode": "w" if disk.writable else "r",
        "device-type": kind,
        "discard-enable": int(disk.writable and disk.discard),
        "specification": "xen",
        **({"lock-late": 1} if lock_late else {}),
        "state": int(XenbusStateInitialising),
    }
    front: dict[str, str | int] = {
        "backend-id": backend,
        "virtual-device": disk.devid,
        "device-type": kind,
        "trusted": 1,
        "protocol": XEN_IO_PROTO_ABI_X86_64,
        "state": int(XenbusStateInitialising),
    }
    add_device(nodes, domid, backend, "vbd", disk.devid, front, back)


def add_vif(nodes: StoreCalls, domid: DomId, backend: DomId, devid: int, vif: Vif) -> None:
    """Announce a network interface, whose MAC address is chosen, to both ends; to be done in one transaction.

    The back end's `ip` is for whoever filters or configures; guests may read it too.
    """
    if vif.mac is None:
        raise ValueError("a vif without a MAC address")
    optional = {"vifname": vif.name, "ip": vif.ip, "rate": str(vif.rate or "") or None, "mtu": vif.mtu}
    back: dict[str, str | int] = {
        "frontend-id": domid,
        "online": 1,
        **{name: value for name, value in optional.items() if value is not None},
        "script": vif.script,
        "mac": vif.mac,
        "bridge": vif.bridge,
        "handle": devid,
        "type": "vif",
        "hotplug-status": "",
        "state": int(XenbusStateInitialising),
    }
    front: dict[str, str | int] = {
        "backend-id": backend,
        "handle": devid,
        "mac": vif.mac,
        "mtu": vif.mtu or DEFAULT_MTU,
        "trusted": 1,
        "state": int(XenbusStateInitialising),
    }
    add_device(nodes, domid, backend, "vif", devid, front, back)


def random_mac(chance: Random) -> str:
    """An address in the space that is Xen's (OUI 00:16:3e), its lower half as libxl has it."""
    tail = bytearray(chance.randbytes(3))
    tail[0] &= 0x7F
    return (XEN_OUI + tail).hex(":")


def add_device(
    nodes: StoreCalls,
    domid: DomId,
    backend: DomId,
    kind: str,
    devid: int,
    front: dict[str, str | int],
    back: dict[str, str | int],
) -> None:
    """Both ends' directories of one device, each pointing to the other."""
    front_at, back_at = front_path(domid, kind, devid), back_path(backend, domid, kind, devid)
    for path, owner, reader in ((front_at, domid, backend), (back_at, backend, domid)):
        remove(nodes, path)
        nodes.mkdir(path)
        nodes.set_permissions(path, [f"n{owner}", f"r{reader}"])
    write_all(nodes, front_at, {"backend": back_at, **front})
    write_all(nodes, back_at, {"frontend": front_at, **back})
    write_all(nodes, note_path(domid, kind, devid), {"frontend": front_at, "backend": back_at, **back})


def notes(nodes: StoreCalls, domid: DomId) -> list[str]:
    """The toolstack's notes of a domain's devices."""
    return [
        f"{note_path(domid, kind)}/{devid}"
        for kind in children(nodes, note_path(domid))
        for devid in children(nodes, note_path(domid, kind))
    ]


def remove_device(nodes: StoreCalls, note: str, backend: DomId | None = None) -> None:
    """Both ends' directories of one device and the note of it; with `backend` only if that domain serves it."""
    back_at = read_or_none(nodes, f"{note}/backend") or ""
    if not back_at.startswith("/" if backend is None else f"{home(backend)}/"):
        return
    remove(nodes, read_or_none(nodes, f"{note}/frontend") or note)
    remove(nodes, back_at)
    if not children(nodes, parent := back_at.rpartition("/")[0]):
        remove(nodes, parent)
    remove(nodes, note)


def ask_to_close(nodes: StoreCalls, path: str) -> None:
    """Begin to take a device away, from its back end's directory; to be done in one transaction. The front end sees that the
    back end closes, and lets go; then the back end has closed (libxl__initiate_device_generic_remove).
    """
    now = state(nodes, path)
    if now != XenbusStateUnknown:
        nodes.write(f"{path}/online", "0")
    if now not in (XenbusStateUnknown, XenbusStateClosed):
        nodes.write(f"{path}/state", str(int(XenbusStateClosing)))


def closed(nodes: StoreCalls, path: str) -> bool:
    """Whether a back end has let go of its device, or is gone."""
    return state(nodes, path) in (XenbusStateUnknown, XenbusStateClosed)


def refusal(nodes: StoreCalls, path: str) -> str | None:
    """Why a back end cannot serve its device, in its own words; None if it has not refused."""
    if state(nodes, path) not in (XenbusStateClosing, XenbusStateClosed):
        return None
    device = read_or_none(nodes, f"{path}/dev") or path
    why = read_or_none(nodes, f"{path}/hotplug-error") or read_or_none(nodes, f"{path}/error")
    return f"device {device}: {' '.join((why or 'the back end closed it').split())}"


def ready(nodes: StoreCalls, path: str) -> bool:
    """Whether a back end waits for its front end, or has refused."""
    return state(nodes, path) >= XenbusStateInitWait


def state(nodes: StoreCalls, path: str) -> int:
    """A device end's XenbusState; 0, unknown, if it says none."""
    text = read_or_none(nodes, f"{path}/state") or ""
    return int(text) if text.isdecimal() and len(text) == 1 else 0
