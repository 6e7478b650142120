"""`bootloader =` and `firmware =`: a guest that boots by what is in its own disk.

pygrub      the toolstack reads the first disk's partitions, file system and menu (builder/disk_boot.py), as Xen's program of that
            name does, and starts the kernel that the menu names, with its RAM disk and command line
pvgrub      GRUB, built as a PV or PVH kernel, is the guest's first kernel: it reads the disks by the guest's own block
            front end, and starts what /boot/grub/grub.cfg says
"""

import os
from pathlib import Path
from typing import Final

PYGRUB: Final = "pygrub"
PV_GRUB_64: Final = "x86_64-xen"
PV_GRUB_32: Final = "i386-xen"
PVH_GRUB: Final = "i386-xen_pvh"
"""GRUB's names of the platforms that it is built for."""
BOOTLOADERS: Final = {
    "pygrub": PYGRUB,
    "pygrub.py": PYGRUB,
    **dict.fromkeys(("pvgrub", "pv-grub", "pvgrub64"), PV_GRUB_64),
    "pvgrub32": PV_GRUB_32,
}
"""Boot loaders by the names of their programs."""
DEBIANS: Final = Path("/usr/lib/grub-xen")
"""Where Debian's package grub-xen-host has GRUB for Xen."""


def grub_folders() -> tuple[Path, ...]:
    """Where GRUB may be: what scripts/fetch_guests brought, and the system's."""
    cache = os.environ.get("XENOSCOPE_CACHE")
    root = Path(cache) if cache else Path("~").expanduser() / ".cache" / "xenoscope"
    return (root / "guests", DEBIANS)


def grub(platform: str) -> str:
    """The path of GRUB for a platform. Raises ValueError with what to do if there is none."""
    name = f"grub-{platform}.bin"
    for folder in grub_folders():
        if (folder / name).is_file():
            return str(folder / name)
    raise ValueError(
        f"needs GRUB's {name}, which is not there: install Debian's grub-xen-host, run scripts/fetch_guests,"
        f" or put it into {grub_folders()[0]}"
    )
