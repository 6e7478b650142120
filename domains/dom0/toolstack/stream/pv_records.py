"""The records of a PV domain that are not its pages, each as plain data."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

import numpy as np

from domains.dom0.toolstack.stream.framing import Record
from domains.dom0.toolstack.stream.page_data import Words
from hypervisor.public.types import PAGE_SIZE

PV_INFO: Final = struct.Struct("<BBHI")
P2M_HEAD: Final = struct.Struct("<II")
VCPU_HEAD: Final = struct.Struct("<II")
TSC_INFO: Final = struct.Struct("<IIQII")
LEVELS: Final = {8: 4, 4: 3}
"""By the width of the guest's words in bytes: the levels of its page tables."""


class TscInfo(NamedTuple):
    """XEN_DOMCTL_gettscinfo: mode, kHz, what the TSC has counted in ns, how often it was set."""

    mode: int
    khz: int
    nsec: int
    incarnation: int

    def pack(self) -> bytes:
        """The body of the record."""
        return TSC_INFO.pack(*self, 0)


class P2mFrames(NamedTuple):
    """Which of the guest's pages hold its table of machine frames, for its pages `start` to `end`, both included."""

    start: int
    end: int
    pfns: Words

    def pack(self) -> list[bytes]:
        """The body of the record."""
        return [P2M_HEAD.pack(self.start, self.end), self.pfns.astype("<u8").tobytes()]


class VcpuBlob(NamedTuple):
    """Something of one vCPU, as a pair of domctls gives and takes it."""

    vcpu: int
    content: bytes

    def pack(self) -> list[bytes]:
        """The body of the record."""
        return [VCPU_HEAD.pack(self.vcpu, 0), self.content]


def pack_pv_info(width: int) -> bytes:
    """The body of X86_PV_INFO of a guest whose words have so many bytes."""
    return PV_INFO.pack(width, LEVELS[width], 0, 0)


def unpack_pv_info(record: Record) -> int:
    """The width of the guest's words in bytes. Raises StreamError."""
    exactly(record, PV_INFO.size)
    width, levels, _, _ = record.unpack(PV_INFO)
    record.need(
        LEVELS.get(width) == levels, f"a guest of {8 * width} bits with page tables of {levels} levels"
    )
    return width


def unpack_p2m_frames(record: Record, width: int) -> P2mFrames:
    """Of a guest whose words have `width` bytes. Raises StreamError."""
    start, end = record.unpack(P2M_HEAD)
    record.need(start <= end, f"it is for pages {start:#x} to {end:#x}")
    entries = PAGE_SIZE // width
    frames = end // entries - start // entries + 1
    exactly(record, P2M_HEAD.size + 8 * frames)
    return P2mFrames(start, end, np.frombuffer(record.body, "<u8", offset=P2M_HEAD.size).copy())


def unpack_vcpu_blob(record: Record, vcpus: int) -> VcpuBlob:
    """Of a domain of so many vCPUs. Raises StreamError."""
    vcpu, _ = record.unpack(VCPU_HEAD)
    record.need(vcpu < vcpus, f"it is for vCPU {vcpu} of a domain of {vcpus}")
    return VcpuBlob(vcpu, bytes(record.body[VCPU_HEAD.size :]))


def unpack_tsc_info(record: Record) -> TscInfo:
    """Raises StreamError."""
    exactly(record, TSC_INFO.size)
    return TscInfo(*record.unpack(TSC_INFO)[:4])


def exactly(record: Record, size: int) -> None:
    """Raises StreamError: the body has another length."""
    record.need(len(record.body) == size, f"it has {len(record.body)} bytes, not {size}")
