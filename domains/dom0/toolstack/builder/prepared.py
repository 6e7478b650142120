"""A domain that fits its memory, before any of it exists: where everything goes, and the pages of its kernel and ramdisk.

What the unpacking process (unpacker.py) says of a kernel goes over a pipe as one msgpack map, and the pages lie one behind
the other in a memfd. The process has worked on a stranger's file, so what it says is checked like a stranger's word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

from domains.control.description import MAX_GUEST_CMDLINE
from hypervisor.builder.hvm_layout import HvmPlan, hvm_plan
from hypervisor.builder.pv_image import LayoutError, PvImage, Segment
from hypervisor.builder.pv_layout import Plan, plan
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE, Pfn, VAddr


@dataclass(frozen=True, slots=True)
class Run:
    """`pages` pages of the domain from `pfn` on, which lie at byte `offset` of the memfd."""

    pfn: Pfn
    pages: int
    offset: int


@dataclass(frozen=True, slots=True)
class Prepared:
    """`data` holds the pages that `runs` name; all other pages of kernel and ramdisk are zero. `cmdline`: what the menu in the
    guest's own disk says, if it was read; the description's comes behind it.
    """

    plan: Plan | HvmPlan
    runs: Sequence[Run]
    data: memoryview
    cmdline: str = ""

    def command_line(self, described: str) -> str:
        """The guest's whole command line, as pygrub puts it together, as far as there is room for it."""
        line = " ".join(filter(None, (self.cmdline, described)))
        return line.encode()[: MAX_GUEST_CMDLINE - 1].decode(errors="ignore")


def hypercall_pfn(image: PvImage) -> Pfn | None:
    """Where the kernel wants the hypercall page, if it does; -1 if no page begins there."""
    page = image.hypercall_page
    if page is None:
        return None
    return Pfn(-1 if page % PAGE_SIZE else (page - image.virt_base) >> PAGE_SHIFT)


def encode(image: PvImage, ramdisk_bytes: int, runs: Sequence[Run], cmdline: str | None = None) -> bytes:
    """What the process says of a kernel that it has unpacked."""
    answer: bytes = msgpack.packb(
        {
            "segments": [[segment.vaddr, segment.size] for segment in image.segments],
            "virt_base": image.virt_base,
            "entry": image.entry,
            "p2m_base": image.p2m_base,
            "unmapped_initrd": image.unmapped_initrd,
            "hypercall_page": image.hypercall_page,
            "address_size": image.address_size,
            "extended_cr3": image.extended_cr3,
            "ramdisk_bytes": ramdisk_bytes,
            "cmdline": (cmdline or "")[:MAX_GUEST_CMDLINE],
            "runs": [[run.pfn, run.pages, run.offset] for run in runs],
        }
    )
    return answer


def encode_refusal(why: str) -> bytes:
    """Why there is nothing to say."""
    refusal: bytes = msgpack.packb({"refused": why})
    return refusal


class Refused(Exception):
    """The files are not a kernel and a ramdisk that fit the domain; one line says why."""


def plan_of(image: PvImage, nr_pages: int, ramdisk_bytes: int, *, pvh: bool) -> Plan | HvmPlan:
    """Where everything of such a domain goes. Raises LayoutError."""
    return hvm_plan(image, nr_pages, ramdisk_bytes) if pvh else plan(image, nr_pages, ramdisk_bytes)


def decode(answer: bytes, data: memoryview, nr_pages: int, *, pvh: bool = False) -> Prepared:
    """What it said, checked. Raises Refused, or ValueError for what an unpacking process does not say."""
    said = msgpack.unpackb(answer)
    if isinstance(said, dict) and isinstance(said.get("refused"), str):
        raise Refused(said["refused"])
    try:
        layout = plan_of(_image(said), nr_pages, _number(said["ramdisk_bytes"]), pvh=pvh)
        runs = [Run(Pfn(_number(pfn)), _number(pages), _number(at)) for pfn, pages, at in said["runs"]]
        cmdline = said.get("cmdline", "")
    except (AttributeError, KeyError, TypeError, LayoutError) as error:
        raise ValueError(f"not what a kernel looks like: {error}") from None
    areas = [area for area in (layout.kernel, layout.ramdisk) if area is not None]
    for run in runs:
        inside = any(area.pfn <= run.pfn and run.pfn + run.pages <= area.end for area in areas)
        if not inside or run.offset + run.pages * PAGE_SIZE > len(data):
            raise ValueError(f"pages that are not the kernel's or the ramdisk's: {run}")
    if not isinstance(cmdline, str) or "\0" in cmdline or len(cmdline) > MAX_GUEST_CMDLINE:
        raise ValueError("no command line")
    return Prepared(layout, runs, data, cmdline)


def _image(said: Any) -> PvImage:
    return PvImage(
        [Segment(VAddr(_number(vaddr)), b"", _number(size)) for vaddr, size in said["segments"]],
        VAddr(_number(said["virt_base"])),
        VAddr(_number(said["entry"])),
        p2m_base=_address(said["p2m_base"]),
        unmapped_initrd=bool(said["unmapped_initrd"]),
        hypercall_page=_address(said["hypercall_page"]),
        address_size=_width(said["address_size"]),
        extended_cr3=bool(said["extended_cr3"]),
    )


def _width(value: Any) -> int:
    if value not in (32, 64):
        raise ValueError(f"addresses of {value!r} bits")
    return int(value)


def _address(value: Any) -> VAddr | None:
    return None if value is None else VAddr(_number(value))


def _number(value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value < 1 << 64:
        raise ValueError(f"{value!r} is no number")
    return value
