"""Disk specifications, xl-disk-configuration(5), and the numbers of virtual devices, xen-vbd-interface(7).

    'target, format, vdev, access'         positional, empty ones are skipped
    'format=raw, vdev=xvda, access=rw, target=/path'
    'phy:/dev/x,xvda,w'  'file:/x.img,xvda,w'     the old form: prefix, then vdev and access

A CD-ROM is never writable.

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
    **dict.fromkeys(("phy", "file", "raw", "aio", "tap", "tap2", "tapdisk", "ioemu"), "raw"),
    "qcow": "qcow",
    "qcow2": "qcow2",
    "vhd": "vhd",
}
"""`prefix:path` of old descriptions, and the format each stands for; several may stand in a row."""

FLAGS: Final = {"cdrom": "cdrom"}
"""Words that stand for a type of device."""
HINTS: Final = ("backendtype", "direct-io-safe", "discard", "no-discard")
"""Options that change nothing that a guest can tell; they are read over."""
UNSUPPORTED: Final = ("script", "colo", "specification", "untrusted")
POSITIONS: Final = ("target", "format", "vdev", "access")
NAMED: Final = (*POSITIONS, "devtype", "backend")


def parse_disk(text: str) -> Disk:
    """The disk that a specification describes. Raises ValueError with a reason of one line."""
    named = split_parameters(text)
    for name in named:
        if name in UNSUPPORTED:
            raise ValueError(f"disk option '{name}' is not supported yet")
        if name not in NAMED and name not in HINTS:
            raise ValueError(f"unknown disk option '{name}'")
    cdrom = named.get("devtype", "disk") == "cdrom"
    if named.get("devtype", "disk") not in ("disk", "cdrom"):
        raise ValueError(f"unknown devtype '{named['devtype']}'; it is disk or cdrom")
    access = named.get("access") or "rw"
    if access not in ACCESS:
        raise ValueError(f"unknown access '{access}'; it is ro or rw")
    vdev = named.get("vdev", "").removeprefix("/dev/")
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
    return Disk(target, vdev, disk_format, ACCESS[access] and not cdrom, cdrom, backend)


def checked_format(name: str) -> str:
    """The name, if it is a format that can be used. ValueError."""
    if name not in FORMATS:
        raise ValueError(f"unknown disk format '{name}'; it is one of {', '.join(FORMATS)}")
    if name not in SUPPORTED_FORMATS:
        raise ValueError(f"disk format '{name}' is not supported yet; use {', '.join(SUPPORTED_FORMATS)}")
    return name


def split_parameters(text: str) -> dict[str, str]:
    """The parameters of a specification by name, positional ones under the names of their places."""
    named: dict[str, str] = {}
    places = list(POSITIONS)
    rest = text.lstrip()
    while rest:
        if rest.startswith("target="):
            set_once(named, "target", rest.removeprefix("target="))
            break
        item, _, rest = rest.partition(",")
        rest = rest.lstrip()
        item = item.strip()
        name, equals, value = item.partition("=")
        if item in FLAGS:
            named["devtype"] = FLAGS[item]
        elif equals or item in UNSUPPORTED or item in HINTS:
            set_once(named, name, value)
        else:
            places = [place for place in places if not named.get(place)]
            if not places:
                raise ValueError(f"too many positional parameters in disk '{text}'")
            place_value(named, places.pop(0), item)
    return named


def place_value(named: dict[str, str], place: str, value: str) -> None:
    """Put a positional parameter in. The old form of a target begins with what it is, which stands for the format;
    that of a vdev may begin with `ioemu:` and end with the type of device, `hdc:cdrom`.
    """
    if place == "target":
        while match := re.match(r"([a-z][a-z0-9]*):", value):
            if match.group(1) not in OLD_PREFIXES:
                raise ValueError(f"disk prefix '{match.group()}' is not supported; give a format instead")
            named["format"] = OLD_PREFIXES[match.group(1)]
            value = value[match.end() :]
    if place == "vdev":
        value = value.removeprefix("ioemu:")
        if ":" in value:
            value, _, devtype = value.rpartition(":")
            named.setdefault("devtype", devtype)
    named[place] = value


def set_once(named: dict[str, str], name: str, value: str) -> None:
    """Enters a named option. ValueError: it is there already."""
    if named.get(name) and name != "devtype":  # which an old vdev may carry too; the last one counts
        raise ValueError(f"disk option '{name}' is given twice")
    named[name] = value
