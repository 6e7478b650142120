"""The numbers of virtual block devices, xen-vbd-interface(7): what a guest knows a disk by, and the names for it."""

from __future__ import annotations

import re
from typing import Final

XVD_MAJOR: Final = 202
"""Linux' major number of xvd devices, in which Xen numbers virtual disks."""
EXTENDED: Final = 1 << 28
"""Marks a virtual device number with 20 bits of disk and 8 of partition."""


def device_number(vdev: str) -> int | None:
    """The virtual device number of a name such as xvda1, d0p1, hda, sda3 or a plain number; None if it is
    none.

    A number is written as C writes it (0xca10, 51728, 0145020). Disks 0-15 with partitions 0-15 of xvd have major 202's
    numbers, others the extended ones.
    """
    if match := re.fullmatch(r"d([0-9]+)p([0-9]+)", vdev):
        return xvd_number(int(match.group(1)), int(match.group(2)))
    if re.fullmatch(r"0x[0-9a-fA-F]+|[1-9][0-9]*|0[0-7]*", vdev, re.ASCII | re.IGNORECASE):
        number = int(vdev, 8 if vdev.isdecimal() and vdev.startswith("0") else 0)
        return number if number < 1 << 31 else None
    match = re.fullmatch(r"(xvd|hd|sd)([a-z]{1,4})([1-9][0-9]{0,2})?", vdev)
    if match is None:
        return None
    kind, letters, partition = match.group(1), letter_index(match.group(2)), int(match.group(3) or 0)
    if kind == "xvd":
        return xvd_number(letters, partition)
    if kind == "hd":
        usable = letters <= 3 and partition <= 63
        return ((3 if letters < 2 else 22) << 8 | (letters & 1) << 6 | partition) if usable else None
    return (8 << 8 | letters << 4 | partition) if letters <= 15 and partition <= 15 else None


def xvd_number(disk: int, partition: int) -> int | None:
    """The number of a partition (0: the whole) of the disk that is counted from 0; None: there is no such number."""
    if disk >= 1 << 20 or partition > 255:
        return None
    if disk <= 15 and partition <= 15:
        return XVD_MAJOR << 8 | disk << 4 | partition
    return EXTENDED | disk << 8 | partition


def letter_index(letters: str) -> int:
    """a is 0, z 25, aa 26, as in a spreadsheet."""
    index = -1
    for letter in letters:
        index = (index + 1) * 26 + ord(letter) - ord("a")
    return index
