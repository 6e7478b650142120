"""Disk specifications, xl-disk-configuration(5), and the numbers of virtual devices, xen-vbd-interface(7).

    'target, format, vdev, access'         positional, empty ones are skipped
    'format=raw, vdev=xvda, access=rw, target=/path'
    'phy:/dev/x,xvda,w'  'file:/x.img,xvda,w'     the old form: prefix, then vdev and access

`target=` takes the rest of the text, commas and all. Each parameter may be given once.
"""

import re
from typing import Final

from domains.control.description import Disk
from domains.control.vdev import device_number
from domains.dom0.toolstack.xlcfg.backend import parse_backend

FORMATS: Final = ("raw", "qcow", "qcow2", "vhd", "qed")
SUPPORTED_FORMATS: Final = ("raw",)
ACCESS: Final = {"ro": False, "r": False, "rw": True, "w": True}

OLD_PREFIXES: Final = {
    "phy": "raw",
    "file": "raw",
    "raw": "raw",
    "aio": "raw",
    "qcow": "qcow",
    "qcow2": "qcow2",
    "vhd": "vhd",
}
"""`prefix:/path` of old descriptions, and the format each stands for."""

FLAGS: Final = {"cdrom": ("devtype", "cdrom")}
UNSUPPORTED: Final = (
    "backendtype",
    "script",
    "direct-io-safe",
    "discard",
    "no-discard",
    "colo",
    "specification",
    "untrusted",
)
POSITIONS: Final = ("target", "format", "vdev", "access")
NAMED: Final = (*POSITIONS, "devtype", "backend")


def parse_disk(text: str) -> Disk:
    """The disk that a specification describes. Raises ValueError with a reason of one line."""
    named = split_parameters(text)
    for name in named:
        if name in UNSUPPORTED:
            raise ValueError(f"disk option '{name}' is not supported yet")
        if name not in NAMED:
            raise ValueError(f"unknown disk option '{name}'")
    cdrom = named.get("devtype", "disk") == "cdrom"
    if named.get("devtype", "disk") not in ("disk", "cdrom"):
        raise ValueError(f"unknown devtype '{named['devtype']}'; it is disk or cdrom")
    access = named.get("access") or ("ro" if cdrom else "rw")
    if access not in ACCESS:
        raise ValueError(f"unknown access '{access}'; it is ro or rw")
    vdev = named.get("vdev", "")
    if not vdev:
        raise ValueError(f"disk '{text}' has no vdev (such as xvda)")
    if device_number(vdev) is None:
        raise ValueError(f"'{vdev}' is no virtual device; use xvda, xvdb …")
    target = named.get("target", "")
    if not target:
        raise ValueError(f"disk '{text}' has no target")
    if not target.startswith("/"):
        target = f"/dev/{target}"
    disk_format = checked_format(named.get("format") or "raw")
    backend = parse_backend(named["backend"]) if "backend" in named else None
    return Disk(target, vdev, disk_format, ACCESS[access], cdrom, backend)


def checked_format(name: str) -> str:
    if name not in FORMATS:
        raise ValueError(f"unknown disk format '{name}'; it is one of {', '.join(FORMATS)}")
    if name not in SUPPORTED_FORMATS:
        raise ValueError(f"disk format '{name}' is not supported yet; use {', '.join(SUPPORTED_FORMATS)}")
    return name


def split_parameters(text: str) -> dict[str, str]:
    """The parameters of a specification by name, positional ones under the names of their places."""
    named: dict[str, str] = {}
    rest = text.lstrip()
    if match := re.match(r"([a-z][a-z0-9]*):(?=/)", rest):
        prefix = match.group(1)
        if prefix not in OLD_PREFIXES:
            raise ValueError(f"disk prefix '{prefix}:' is not supported; give a format instead")
        named["format"] = OLD_PREFIXES[prefix]
        rest = rest[match.end() :]
    places = iter([place for place in POSITIONS if place not in named])
    while rest:
        if rest.startswith("target="):
            set_once(named, "target", rest.removeprefix("target="))
            break
        item, _, rest = rest.partition(",")
        rest = rest.lstrip()
        item = item.strip()
        name, equals, value = item.partition("=")
        if item in FLAGS:
            set_once(named, *FLAGS[item])
        elif equals or item in UNSUPPORTED:
            set_once(named, name, value)
        else:
            place = next((place for place in places if not named.get(place)), None)
            if place is None:
                raise ValueError(f"too many positional parameters in disk '{text}'")
            place_value(named, place, item)
    return named


def place_value(named: dict[str, str], place: str, value: str) -> None:
    """Put a positional parameter in; the old form of vdev carries the type of device: `hdc:cdrom`."""
    if place == "vdev" and ":" in value:
        value, _, named["devtype"] = value.rpartition(":")
    named[place] = value


def set_once(named: dict[str, str], name: str, value: str) -> None:
    if named.get(name):
        raise ValueError(f"disk option '{name}' is given twice")
    named[name] = value
