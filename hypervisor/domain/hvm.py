"""An HVM domain's vCPUs' registers as records of its saved state.

    HEADER │ CPU of vCPU 0 │ CPU of vCPU 1 │ … │ END        each record behind an hvm_save_descriptor

Source: Xen common/hvm/save.c, arch/x86/hvm/hvm.c (hvm_load_cpu_ctxt).
"""

from __future__ import annotations

from typing import Final

from hypervisor.domain.domain import Domain, Vcpu
from hypervisor.public.arch_x86.hvm.save import (
    HVM_FILE_MAGIC,
    HVM_FILE_VERSION,
    HVM_SAVE_CODE_CPU,
    HVM_SAVE_CODE_HEADER,
    hvm_hw_cpu,
    hvm_save_header,
)
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.hvm.save import HVM_SAVE_CODE_END, hvm_save_descriptor

X86_CR0_PE: Final = 1 << 0
X86_CR0_PG: Final = 1 << 31
X86_EFLAGS_MBS: Final = 1 << 1

Record = tuple[int, int, bytes]
"""(typecode, instance, content)"""


def records_of(raw: bytes) -> list[Record]:
    """The records before END. XenError(EINVAL): cut off, or without HEADER or END; EOPNOTSUPP: another version."""
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
        records.append((head.typecode, head.instance, raw[at : at + head.length]))
        at += head.length
    raise XenError(Errno.EINVAL, "the saved state has no end")


def _check_header(records: list[Record]) -> None:
    if not records or records[0][0] != HVM_SAVE_CODE_HEADER or len(records[0][2]) < hvm_save_header.sizeof:
        raise XenError(Errno.EINVAL, "the saved state has no header")
    header = hvm_save_header.unpack(records[0][2])
    if header.magic != HVM_FILE_MAGIC or header.version != HVM_FILE_VERSION:
        raise XenError(Errno.EINVAL, f"saved state {header.magic:#x}, version {header.version}")


def check_cpu(raw: bytes) -> bytes:
    """The bytes of a hvm_hw_cpu that a CPU may start with. XenError(EINVAL)."""
    if len(raw) != hvm_hw_cpu.sizeof:
        raise XenError(Errno.EINVAL, f"registers of {len(raw)} bytes")
    cpu = hvm_hw_cpu.unpack(raw)
    if cpu.cr0 & X86_CR0_PG and not cpu.cr0 & X86_CR0_PE:
        raise XenError(Errno.EINVAL, f"CR0 {cpu.cr0:#x}")
    if not cpu.rflags & X86_EFLAGS_MBS:
        raise XenError(Errno.EINVAL, f"RFLAGS {cpu.rflags:#x}")
    if cpu.pad0:
        raise XenError(Errno.EINVAL, "padding is not zero")
    return raw


def load_state(domain: Domain, raw: bytes) -> None:
    """Give the vCPUs of a paused domain their registers, all or none. XenError(EINVAL, ENODEV: a device's record)."""
    contexts: dict[int, bytes] = {}
    for typecode, instance, content in records_of(raw):
        if typecode != HVM_SAVE_CODE_CPU:
            raise XenError(Errno.ENODEV, f"a record of type {typecode}: this machine has no such device")
        if instance >= len(domain.vcpus):
            raise XenError(Errno.EINVAL, f"d{domain.domid} has no vCPU {instance}")
        contexts[instance] = check_cpu(content)
    for vcpu_id, context in contexts.items():
        vcpu = domain.vcpus[vcpu_id]
        vcpu.context = context
        vcpu.initialised = True
        vcpu.up = vcpu_id == 0
        vcpu.effects.set_context(context)


def saved_state(vcpus: list[Vcpu]) -> bytes:
    """The records of vCPUs whose registers are saved (`Vcpu.context`)."""
    header = hvm_save_header(magic=HVM_FILE_MAGIC, version=HVM_FILE_VERSION)
    records = [_record(HVM_SAVE_CODE_HEADER, 0, header.pack())]
    records += [_record(HVM_SAVE_CODE_CPU, v.vcpu_id, v.context) for v in vcpus if v.initialised]
    return b"".join([*records, _record(HVM_SAVE_CODE_END, 0, b"")])


def _record(typecode: int, instance: int, content: bytes) -> bytes:
    return hvm_save_descriptor(typecode=typecode, instance=instance, length=len(content)).pack() + content
