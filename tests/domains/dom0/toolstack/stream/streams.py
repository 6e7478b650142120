"""A small stream made by the codecs themselves, and a reader that goes through it and keeps nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from domains.dom0.toolstack.stream import libxc, libxl, page_data, xl_file
from domains.dom0.toolstack.stream.ends import Bytes, MemorySink, MemorySource
from domains.dom0.toolstack.stream.framing import Counted, Record, RecordReader, RecordWriter
from domains.dom0.toolstack.stream.libxc import LIBXC, GuestKind, LibxcRecord
from domains.dom0.toolstack.stream.libxl import LIBXL, LibxlRecord
from domains.dom0.toolstack.stream.page_data import PageData
from domains.dom0.toolstack.stream.pv_records import (
    P2mFrames,
    TscInfo,
    VcpuBlob,
    pack_pv_info,
    unpack_p2m_frames,
    unpack_pv_info,
    unpack_tsc_info,
    unpack_vcpu_blob,
)
from domains.kernel.tasks import Task

T = TypeVar("T")
VCPUS = 2
WIDTH = 8
PFNS = np.arange(8, dtype=np.uint64)
TYPES = np.array([0, 1, 9, 4, 0xC, 0xD, 0xE, 0xF], np.uint64)
PAGES = np.arange(5 * 512, dtype=np.uint64).reshape(5, 512)
DESCRIPTION = {"name": "web", "kernel": "/vmlinuz"}


def run(task: Task[T]) -> T:
    """Drive a task that waits for nothing but its turn."""
    while True:
        try:
            next(task)
        except StopIteration as end:
            result: T = end.value
            return result


def small_stream() -> bytes:
    """Every record that is written, once."""
    sink = MemorySink()
    writer = RecordWriter(sink)

    def records() -> Task[None]:
        yield from writer.raw(xl_file.header({"c_info": {}}, DESCRIPTION), libxl.header())
        yield from writer.write(LibxlRecord.LIBXC_CONTEXT)
        yield from writer.raw(libxc.headers(GuestKind.X86_PV, 4, 17))
        yield from writer.write(LibxcRecord.X86_PV_INFO, pack_pv_info(WIDTH))
        yield from writer.write(LibxcRecord.X86_CPUID_POLICY, bytes(48))
        yield from writer.write(LibxcRecord.STATIC_DATA_END)
        frames = P2mFrames(0, 1023, np.array([3, 4], np.uint64))
        yield from writer.write(LibxcRecord.X86_PV_P2M_FRAMES, *frames.pack())
        data = PageData(PFNS, TYPES, PAGES)
        yield from writer.write(LibxcRecord.PAGE_DATA, *page_data.pack(data))
        yield from writer.write(LibxcRecord.X86_TSC_INFO, TscInfo(0, 1_000_000, 5, 1).pack())
        yield from writer.write(LibxcRecord.SHARED_INFO, bytes(4096))
        yield from writer.write(LibxcRecord.X86_PV_VCPU_BASIC, *VcpuBlob(0, bytes(5168)).pack())
        yield from writer.write(LibxcRecord.X86_PV_VCPU_EXTENDED, *VcpuBlob(1, b"odd").pack())
        yield from writer.write(LibxcRecord.END)
        yield from writer.write(LibxlRecord.END)

    run(records())
    return sink.data


UNPACK: dict[int, Callable[[Record], object]] = {
    LibxcRecord.X86_PV_INFO: unpack_pv_info,
    LibxcRecord.X86_PV_P2M_FRAMES: lambda record: unpack_p2m_frames(record, WIDTH),
    LibxcRecord.PAGE_DATA: page_data.unpack,
    LibxcRecord.X86_TSC_INFO: unpack_tsc_info,
    LibxcRecord.X86_PV_VCPU_BASIC: lambda record: unpack_vcpu_blob(record, VCPUS),
    LibxcRecord.X86_PV_VCPU_EXTENDED: lambda record: unpack_vcpu_blob(record, VCPUS),
}


def read(data: Bytes) -> list[tuple[str, object]]:
    """Every record's name and what it says, to the end. StreamError."""
    stream = Counted(MemorySource(data))
    found: list[tuple[str, object]] = []

    def whole() -> Task[None]:
        found.append(("xl", (yield from xl_file.read_header(stream))))
        yield from libxl.read_header(stream)
        outer = RecordReader(stream, LIBXL)
        while (record := (yield from outer.next())).type != LibxlRecord.END:
            found.append((record.name, None))
            if record.type == LibxlRecord.LIBXC_CONTEXT:
                found.append(("libxc", (yield from libxc.read_headers(stream))))
                yield from inner()

    def inner() -> Task[None]:
        records = RecordReader(stream, LIBXC)
        while (record := (yield from records.next())).type != LibxcRecord.END:
            unpack = UNPACK.get(record.type)
            found.append((record.name, bytes(record.body) if unpack is None else unpack(record)))

    run(whole())
    return found
