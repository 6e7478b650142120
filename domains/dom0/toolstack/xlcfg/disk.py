"""What disk specifications, xl-disk-configuration(5), mean to this toolstack; their syntax is disk_syntax.py's.

What libxlutil refuses is refused with its reason. What it takes, and there is not here, is refused as "not supported".
A CD-ROM is never writable; one without an image is a drive with nothing in it.
"""

import os
from pathlib import Path
from typing import Final

from domains.control.description import MAX_PATH, Disk
from domains.control.vdev import device_number
from domains.dom0.toolstack.xlcfg.backend import parse_backend
from domains.dom0.toolstack.xlcfg.disk_syntax import EMPTY, FORMATS, DiskSpec, parse_spec

__all__ = ["FORMATS", "SUPPORTED_FORMATS", "image_path", "parse_disk"]

SUPPORTED_FORMATS: Final = ("raw", "qcow", "qcow2", "vhd", "qed", EMPTY)
"""raw is served by the back end itself, the others by a qemu-nbd of the device's own where there is that program."""
MAX_SPEC: Final = 2 * MAX_PATH
"""Characters of a specification."""


def parse_disk(text: str) -> Disk:
    """The disk that a specification describes, its target as written. Raises ValueError with a reason of one line."""
    if len(text) > MAX_SPEC:
        raise ValueError(f"a specification of more than {MAX_SPEC} characters")
    spec = parse_spec(text)
    for refused in (
        unsupported(spec),
        bad_format(spec),
        bad_vdev(spec.vdev or "", text),
        ""
        if spec.target or spec.format == EMPTY
        else f"disk '{text}' has no target; name an image or a device",
    ):
        if refused:
            raise ValueError(refused)
    backend = parse_backend(spec.backend) if spec.backend is not None else None
    vdev = (spec.vdev or "").removeprefix("/dev/")
    return Disk(
        spec.target or "",
        vdev,
        spec.format or "raw",
        spec.writable,
        spec.cdrom,
        backend,
        discard=spec.discard is not False,
    )


def image_path(target: str, folder: Path) -> str:
    """A target's absolute path: one that is relative lies in `folder` if there is such a file, else in /dev."""
    beside = folder / target
    return str(beside if os.path.isfile(beside) else Path("/dev") / target)


def unsupported(spec: DiskSpec) -> str:
    """What it asks for that there is not, or nothing."""
    if spec.script:
        return f"hotplug scripts are not supported, '{spec.script}' neither; attach the device to the host and name it"
    if spec.colo or any(spec.colo_options.values()):
        return "COLO is not supported; leave its options out"
    if spec.specification == "virtio" or spec.backendtype == "standalone":
        return "virtio is not supported; leave specification= and backendtype= out, and the guest gets a xen disk"
    return ""


def bad_format(spec: DiskSpec) -> str:
    """Why its format cannot be used, or nothing. Source: Xen libxl_device.c (libxl__device_disk_set_backend)."""
    if spec.format == EMPTY and not spec.cdrom:
        return "a disk that is no CD-ROM cannot be empty; name an image"
    if spec.format == EMPTY and spec.target:
        return f"it is 'empty', but names an image, {spec.target}; leave one of them out"
    return ""


def bad_vdev(vdev: str, text: str) -> str:
    """Why it is no name of a virtual device, or nothing."""
    name = vdev.removeprefix("/dev/")
    if not name:
        return f"disk '{text}' has no vdev (such as xvda)"
    if len(name) > 32 or device_number(name) is None:
        return f"'{name}' is no virtual device; use xvda, xvdb …"
    return ""
