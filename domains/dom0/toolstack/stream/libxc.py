"""libxc's domain image format, version 3: image header in big-endian order, domain header, then records.

Source: Xen docs/specs/libxc-migration-stream.pandoc, tools/libs/guest/xg_sr_stream_format.h.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple

from domains.dom0.toolstack.stream.errors import StreamError
from domains.dom0.toolstack.stream.framing import Counted, Layer
from domains.kernel.tasks import Task
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE

IMAGE_HEADER: Final = struct.Struct(">QIIHHI")
MARKER: Final = (1 << 64) - 1
ID: Final = int.from_bytes(b"XENF", "big")
VERSION: Final = 3
BIG_ENDIAN: Final = 1
DOMAIN_HEADER: Final = struct.Struct("<IHHII")
MAX_PAGES: Final = 1024
"""Pages of one PAGE_DATA record (libxc's MAX_BATCH_SIZE)."""
MAX_VCPU_BLOB: Final = 8 + 5168
MAX_P2M_FRAMES: Final = 1 << 19
"""Frames of a guest's P2M: of a domain of 1 TiB."""


class GuestKind(IntEnum):
    """`type` of the domain header."""

    X86_PV = 1
    X86_HVM = 2


class LibxcRecord(IntEnum):
    """Types of records."""

    END = 0x00
    PAGE_DATA = 0x01
    X86_PV_INFO = 0x02
    X86_PV_P2M_FRAMES = 0x03
    X86_PV_VCPU_BASIC = 0x04
    X86_PV_VCPU_EXTENDED = 0x05
    X86_PV_VCPU_XSAVE = 0x06
    SHARED_INFO = 0x07
    X86_TSC_INFO = 0x08
    HVM_CONTEXT = 0x09
    HVM_PARAMS = 0x0A
    TOOLSTACK = 0x0B
    X86_PV_VCPU_MSRS = 0x0C
    VERIFY = 0x0D
    CHECKPOINT = 0x0E
    CHECKPOINT_DIRTY_PFN_LIST = 0x0F
    STATIC_DATA_END = 0x10
    X86_CPUID_POLICY = 0x11
    X86_MSR_POLICY = 0x12


LIBXC: Final = Layer(
    "libxc",
    {int(kind): kind.name for kind in LibxcRecord},
    {
        LibxcRecord.PAGE_DATA: 8 + MAX_PAGES * (8 + PAGE_SIZE),
        LibxcRecord.X86_PV_INFO: 8,
        LibxcRecord.X86_PV_P2M_FRAMES: 8 * (1 + MAX_P2M_FRAMES),
        LibxcRecord.X86_PV_VCPU_BASIC: MAX_VCPU_BLOB,
        LibxcRecord.X86_PV_VCPU_EXTENDED: 8 + 128,
        LibxcRecord.X86_PV_VCPU_XSAVE: 1 << 14,
        LibxcRecord.SHARED_INFO: PAGE_SIZE,
        LibxcRecord.X86_TSC_INFO: 24,
        LibxcRecord.HVM_CONTEXT: 1 << 18,
        LibxcRecord.HVM_PARAMS: 8 + 64 * 16,
        LibxcRecord.X86_PV_VCPU_MSRS: 1 << 12,
        LibxcRecord.X86_CPUID_POLICY: 1 << 14,
        LibxcRecord.X86_MSR_POLICY: 1 << 12,
    },
)


class DomainHeader(NamedTuple):
    """What kind of guest it is, and which Xen wrote it."""

    kind: GuestKind
    xen_major: int
    xen_minor: int


def headers(kind: GuestKind, xen_major: int, xen_minor: int) -> bytes:
    """Both headers of a stream written here."""
    image = IMAGE_HEADER.pack(MARKER, ID, VERSION, 0, 0, 0)
    return image + DOMAIN_HEADER.pack(kind, PAGE_SHIFT, 0, xen_major, xen_minor)


def read_headers(stream: Counted) -> Task[DomainHeader]:
    """Read and check them. Raises StreamError."""
    at = stream.offset
    marker, ident, version, options, _, _ = yield from stream.header(IMAGE_HEADER, "libxc's image header")
    where = f"libxc's image header at byte {at}"
    if marker != MARKER or ident != ID:
        raise StreamError(f"{where}: it is none")
    if version != VERSION:
        raise StreamError(f"{where}: version {version}, and not {VERSION}")
    if options & BIG_ENDIAN:
        raise StreamError(f"{where}: it is of a big-endian machine")
    at = stream.offset
    kind, page_shift, _, major, minor = yield from stream.header(DOMAIN_HEADER, "libxc's domain header")
    where = f"libxc's domain header at byte {at}"
    if kind not in set(GuestKind):
        raise StreamError(f"{where}: there is no domain of type {kind}")
    if page_shift != PAGE_SHIFT:
        raise StreamError(f"{where}: pages of 2^{page_shift} bytes, and not of {PAGE_SIZE}")
    return DomainHeader(GuestKind(kind), major, minor)
