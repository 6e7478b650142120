"""How the records of an HVM domain's saved state are strung together, and taken apart again.

    HEADER │ CPU of vCPU 0 │ CPU of vCPU 1 │ LAPIC of vCPU 0 │ … │ END        each record behind an hvm_save_descriptor

Source: Xen arch/x86/hvm/save.c (hvm_load, hvm_save).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from hypervisor.machine.cpuid import TSC_KHZ
from hypervisor.machine.hvm_cpuid import FAMILY
from hypervisor.public.arch_x86.hvm.save import (
    HVM_FILE_MAGIC,
    HVM_FILE_VERSION,
    HVM_SAVE_CODE_HEADER,
    hvm_save_header,
)
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.hvm.save import HVM_SAVE_CODE_END, hvm_save_descriptor

MOST_RECORDS: Final = 32
"""Of one vCPU: Xen has twenty types of records."""


class Record(NamedTuple):
    """One record. `instance`: which vCPU's."""

    typecode: int
    instance: int
    content: bytes


def records_of(raw: bytes, most: int = MOST_RECORDS) -> list[Record]:
    """The records between HEADER and END; what stands behind END is not looked at. XenError: ENODATA, cut off or without HEADER
    or END; EINVAL, a header of something else, or more records than `most`.
    """
    records: list[Record] = []
    at = 0
    while len(raw) - at >= hvm_save_descriptor.sizeof:
        head = hvm_save_descriptor.unpack(raw, at)
        at += hvm_save_descriptor.sizeof
        if head.typecode == HVM_SAVE_CODE_END:
            _check_header(records)
            return records[1:]
        if head.length > len(raw) - at:
            break
        if len(records) > most:
            raise XenError(Errno.EINVAL, f"the saved state has more than {most} records")
        records.append(Record(head.typecode, head.instance, raw[at : at + head.length]))
        at += head.length
    raise XenError(Errno.ENODATA, "the saved state has no end")


def _check_header(records: list[Record]) -> None:
    if (
        not records
        or records[0].typecode != HVM_SAVE_CODE_HEADER
        or len(records[0].content) != hvm_save_header.sizeof
    ):
        raise XenError(Errno.ENODATA, "the saved state has no header")
    header = hvm_save_header.unpack(records[0].content)
    if header.magic != HVM_FILE_MAGIC or header.version != HVM_FILE_VERSION:
        raise XenError(Errno.EINVAL, f"saved state {header.magic:#x}, version {header.version}")
    if header.gtsc_khz not in (0, TSC_KHZ):
        raise XenError(Errno.EINVAL, f"a TSC of {header.gtsc_khz} kHz, which runs at {TSC_KHZ} kHz here")


def strung(records: list[Record]) -> bytes:
    """The bytes of these records, with a header before them and the end behind them."""
    header = hvm_save_header(
        magic=HVM_FILE_MAGIC,
        version=HVM_FILE_VERSION,
        changeset=-1 & 0xFFFF_FFFF_FFFF_FFFF,
        cpuid=FAMILY,
        gtsc_khz=TSC_KHZ,
    )
    first, last = Record(HVM_SAVE_CODE_HEADER, 0, header.pack()), Record(HVM_SAVE_CODE_END, 0, b"")
    return b"".join(_packed(record) for record in (first, *records, last))


def _packed(record: Record) -> bytes:
    typecode, instance, content = record
    head = hvm_save_descriptor(typecode=typecode, instance=instance, length=len(content))
    return head.pack() + content
