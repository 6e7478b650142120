"""A Python guest's kernel image: one page that names the class to run.

    offset 0x000  PYTHON_IMAGE_MAGIC (8 bytes)
           0x008  "package.module:Class" or "/absolute/path.py:Class", UTF-8, NUL-terminated
           0x800  code addresses: 16 bytes stand for each callable that the kernel registers

The builder puts the page at pseudo-physical frame 0 and starts the vCPU at its first byte; the domain
process reads it there.
"""

from __future__ import annotations

from typing import Final

from hypervisor.public.types import PAGE_SIZE

PYTHON_IMAGE_MAGIC: Final = b"XENOPY\0\0"
"""How the image begins. It tells a damaged image from a whole one, and decides nothing."""
MAX_SPEC: Final = 0x800 - len(PYTHON_IMAGE_MAGIC) - 1


def make_image(spec: str) -> bytes:
    """The image (one page) of the guest `spec`; ValueError if it is malformed or too long."""
    module, colon, name = spec.rpartition(":")
    if not (module and colon and name.isidentifier()):
        raise ValueError(f"{spec!r} is not package.module:Class or /path.py:Class")
    text = spec.encode()
    if len(text) > MAX_SPEC or b"\0" in text:
        raise ValueError(f"a guest's name takes at most {MAX_SPEC} bytes")
    return (PYTHON_IMAGE_MAGIC + text).ljust(PAGE_SIZE, b"\0")


def image_spec(page: bytes) -> str | None:
    """The `spec` in an image's first page; None if it is not a Python guest's. ValueError if it is broken."""
    if not page.startswith(PYTHON_IMAGE_MAGIC):
        return None
    text, end, _ = page[len(PYTHON_IMAGE_MAGIC) : 0x800].partition(b"\0")
    if not end:
        raise ValueError("the guest's name does not end")
    return text.decode()
