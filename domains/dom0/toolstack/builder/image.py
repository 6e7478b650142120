"""Which kernel a description names, and what the layout must know of it."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from domains.dom0.toolstack.builder.bzimage import is_bzimage, packed_as, payload_of, unpack
from domains.dom0.toolstack.builder.elf import load_elf, load_pvh_elf
from domains.dom0.toolstack.errors import ToolstackError
from domains.kernel.image import make_image
from hypervisor.builder.pv_image import PvImage, Segment
from hypervisor.public.types import PAGE_SIZE, VAddr

PYTHON_BASE: Final = VAddr(0xFFFF_FFFF_8000_0000)
"""Where a Python guest's memory begins: where Linux' does."""

MAX_IMAGE: Final = 1 << 30
"""Bytes of a kernel or ramdisk file."""

ELF_MAGIC: Final = b"\x7fELF"


def load_kernel(path: str, memory: int, *, pvh: bool = False) -> PvImage:
    """The kernel in a file, read, unpacked and checked, for a PV or PVH domain of `memory` MiB. Raises ToolstackError."""
    return kernel_of(read_image(path, "kernel"), path, memory, pvh=pvh)


def kernel_of(data: bytes, path: str, memory: int, *, pvh: bool = False) -> PvImage:
    """The kernel in these bytes; `path` is for messages. Raises ToolstackError."""
    what = "neither an ELF file nor a bzImage"
    if is_bzimage(data):
        data, what = payload_of(data, path, memory << 20), "a bzImage of something that is no ELF file"
    elif packed_as(data):
        data = unpack(data, path, memory << 20)
    if not data.startswith(ELF_MAGIC):
        raise ToolstackError(f"kernel {path} is {what}")
    return load_pvh_elf(data, path) if pvh else load_elf(data, path)


def python_image(spec: str) -> PvImage:
    """A Python guest's: one page that names the class, at the entry point."""
    where = spec.rpartition(":")[0]
    if where.endswith(".py") and not Path(where).is_file():
        raise ToolstackError(f"kernel file {where} does not exist")
    try:
        page = make_image(spec)
    except ValueError as error:
        raise ToolstackError(f"kernel: {error}") from None
    return PvImage([Segment(PYTHON_BASE, page, PAGE_SIZE)], PYTHON_BASE, PYTHON_BASE)


def load_ramdisk(path: str | None) -> bytes:
    """The ramdisk's bytes; empty if there is none. Raises ToolstackError."""
    return read_image(path, "ramdisk") if path is not None else b""


def read_image(path: str, what: str) -> bytes:
    """A file's bytes. Raises ToolstackError if it is missing, no regular file, empty or too large."""
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ToolstackError(f"{what} {path} is not a regular file")
            if not 0 < status.st_size <= MAX_IMAGE:
                raise ToolstackError(f"{what} {path} has {status.st_size} bytes; expected 1 to {MAX_IMAGE}")
            return file.read(status.st_size)
    except OSError as error:
        raise ToolstackError(f"cannot read {what} {path}: {error.strerror}") from None
