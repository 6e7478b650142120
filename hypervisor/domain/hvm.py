"""The state of an HVM domain's vCPUs as records of Xen's: written from what the core has of them, and taken over whole or not.

    CPU               registers, and the TSC        the domain's TSC goes on from vCPU 0's
    LAPIC             of the local APIC, follows from LAPIC_REGS
    LAPIC_REGS
    MTRR              PAT; of the rest there is nothing
    VMCE_VCPU, TSC_ADJUST                           always the same
    CPU_MSR           MISC_FEATURES_ENABLES, unless it is 0

A record of a device, or of registers that this machine's CPU does not have, is refused, and so is one of another length: those
of Xen before 4.4 are not read. Source: Xen arch/x86/hvm/hvm.c, vlapic.c, mtrr.c, arch/x86/cpu/mcheck/vmce.c.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from hypervisor.domain.domain import Domain, Vcpu
from hypervisor.domain.hvm_checks import check_cpu, check_pat
from hypervisor.domain.hvm_records import MOST_RECORDS, Record, records_of, strung
from hypervisor.domain.run_state import Run
from hypervisor.machine.clock import Clock
from hypervisor.machine.control_registers import X86_CR0_PG
from hypervisor.machine.hvm_reset import MCG_CAP, vcpu_after_reset
from hypervisor.machine.local_apic import hidden_state
from hypervisor.public.arch_x86.hvm.save import (
    CPU_MSR_CODE,
    CPU_XSAVE_CODE,
    HVM_SAVE_CODE_CPU,
    HVM_SAVE_CODE_HPET,
    HVM_SAVE_CODE_IOAPIC,
    HVM_SAVE_CODE_ISA_IRQ,
    HVM_SAVE_CODE_LAPIC,
    HVM_SAVE_CODE_LAPIC_REGS,
    HVM_SAVE_CODE_MTRR,
    HVM_SAVE_CODE_PCI_IRQ,
    HVM_SAVE_CODE_PCI_LINK,
    HVM_SAVE_CODE_PIC,
    HVM_SAVE_CODE_PIT,
    HVM_SAVE_CODE_PMTIMER,
    HVM_SAVE_CODE_RTC,
    HVM_SAVE_CODE_TSC_ADJUST,
    HVM_SAVE_CODE_VMCE_VCPU,
    MTRR_VCNT,
    hvm_hw_cpu,
    hvm_hw_lapic,
    hvm_hw_lapic_regs,
    hvm_hw_mtrr,
    hvm_one_msr,
    hvm_tsc_adjust,
    hvm_vmce_vcpu,
)
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.types import PAGE_SHIFT, U64
from hypervisor.public.xenoscope_hvm import xenoscope_hvm_msr_count, xenoscope_hvm_vcpu

MSR_MISC_FEATURES_ENABLES: Final = 0x140
CPUID_FAULTING: Final = 1
DEVICES: Final = frozenset(
    (
        *(HVM_SAVE_CODE_PIC, HVM_SAVE_CODE_IOAPIC, HVM_SAVE_CODE_PCI_IRQ, HVM_SAVE_CODE_ISA_IRQ),
        *(
            HVM_SAVE_CODE_PCI_LINK,
            HVM_SAVE_CODE_PIT,
            HVM_SAVE_CODE_RTC,
            HVM_SAVE_CODE_HPET,
            HVM_SAVE_CODE_PMTIMER,
        ),
    )
)
"""Records of what no domain of this machine has."""
OFFSET: Final = 1 << 63


# --- what there is -------------------------------------------------------------------------------


def state_of(vcpu: Vcpu) -> xenoscope_hvm_vcpu:
    """The vCPU as it was last saved or set, with the result of the hypercall that it waits for in RAX."""
    if not vcpu.context:
        return vcpu_after_reset(vcpu.vcpu_id)
    state = xenoscope_hvm_vcpu.unpack(vcpu.context)
    if vcpu.run.nr >= 0 and vcpu.run.state is not Run.NEW:
        cpu, mask = state.cpu, (1 << 8 * min(state.result_size, 8)) - 1
        if mask:
            cpu.rax = vcpu.run.result & mask
            state.cpu = cpu
    state.result_size = 0
    return state


def _cpu_msrs(_vcpu: int, state: xenoscope_hvm_vcpu) -> bytes:
    if not state.misc_features_enables:
        return b""
    msr = hvm_one_msr(index=MSR_MISC_FEATURES_ENABLES, val=state.misc_features_enables)
    return xenoscope_hvm_msr_count(count=1).pack() + msr.pack()


WRITERS: Final[dict[int, Callable[[int, xenoscope_hvm_vcpu], bytes]]] = {
    HVM_SAVE_CODE_CPU: lambda _, state: state.cpu.pack(),
    HVM_SAVE_CODE_LAPIC: lambda vcpu, state: hidden_state(vcpu, state.lapic_regs.data).pack(),
    HVM_SAVE_CODE_LAPIC_REGS: lambda _, state: state.lapic_regs.pack(),
    HVM_SAVE_CODE_MTRR: lambda _, state: hvm_hw_mtrr(msr_pat_cr=state.pat).pack(),
    HVM_SAVE_CODE_VMCE_VCPU: lambda *_: hvm_vmce_vcpu(caps=MCG_CAP).pack(),
    HVM_SAVE_CODE_TSC_ADJUST: lambda *_: hvm_tsc_adjust().pack(),
    CPU_MSR_CODE: _cpu_msrs,
}
"""What is in a record of each type about a vCPU; nothing: there is no such record."""
MAX_RECORDS: Final = (
    sum(
        record.sizeof
        for record in (
            hvm_hw_cpu,
            hvm_hw_lapic,
            hvm_hw_lapic_regs,
            hvm_hw_mtrr,
            hvm_vmce_vcpu,
            hvm_tsc_adjust,
        )
    )
    + hvm_one_msr.sizeof
    + xenoscope_hvm_msr_count.sizeof
)
"""Bytes of one vCPU's records, without what stands before each."""


def saved_records(vcpus: list[Vcpu]) -> list[Record]:
    """The records of vCPUs whose state is saved, in Xen's order. A vCPU that is down has no registers."""
    states = [(vcpu, state_of(vcpu)) for vcpu in vcpus]
    records = [
        Record(typecode, vcpu.vcpu_id, write(vcpu.vcpu_id, state))
        for typecode, write in WRITERS.items()
        for vcpu, state in states
        if typecode != HVM_SAVE_CODE_CPU or vcpu.up
    ]
    return [record for record in records if record.content]


def saved_state(vcpus: list[Vcpu]) -> bytes:
    """All of them in a row."""
    return strung(saved_records(vcpus))


# --- what is to be -------------------------------------------------------------------------------


@dataclass
class Loaded:
    """What a saved state says of one vCPU so far. `registers`: it said so of its registers, too; `hidden`: and of its APIC."""

    vcpu: int
    state: xenoscope_hvm_vcpu
    registers: bool = False
    hidden: hvm_hw_lapic | None = None


def _read_cpu(loaded: Loaded, raw: bytes) -> None:
    cpu = hvm_hw_cpu.unpack(raw)
    check_cpu(cpu)
    if loaded.vcpu:
        raise XenError(Errno.EOPNOTSUPP, f"registers of vCPU {loaded.vcpu}: only vCPU 0 can run")
    loaded.state.cpu, loaded.registers = cpu, True


def _read_lapic(loaded: Loaded, raw: bytes) -> None:
    loaded.hidden = hvm_hw_lapic.unpack(raw)


def _read_lapic_regs(loaded: Loaded, raw: bytes) -> None:
    loaded.state.lapic_regs = hvm_hw_lapic_regs.unpack(raw)


def _read_mtrr(loaded: Loaded, raw: bytes) -> None:
    mtrr = hvm_hw_mtrr.unpack(raw)
    if mtrr.msr_mtrr_cap & 0xFF > MTRR_VCNT:
        raise XenError(Errno.EINVAL, f"{mtrr.msr_mtrr_cap & 0xFF} ranges of MTRRs")
    check_pat(mtrr.msr_pat_cr)
    if mtrr != hvm_hw_mtrr(msr_pat_cr=mtrr.msr_pat_cr):
        raise XenError(Errno.EINVAL, "the CPU here has no MTRRs")
    loaded.state.pat = mtrr.msr_pat_cr


def _read_vmce(_loaded: Loaded, raw: bytes) -> None:
    if hvm_vmce_vcpu.unpack(raw) != hvm_vmce_vcpu(caps=MCG_CAP):
        raise XenError(Errno.EINVAL, "machine checks that the CPU here does not make")


def _read_tsc_adjust(_loaded: Loaded, raw: bytes) -> None:
    if hvm_tsc_adjust.unpack(raw).tsc_adjust:
        raise XenError(Errno.EINVAL, "the CPU here has no TSC_ADJUST")


def _read_msrs(loaded: Loaded, raw: bytes) -> None:
    head, size = xenoscope_hvm_msr_count, hvm_one_msr.sizeof
    if len(raw) < head.sizeof + size:
        raise XenError(Errno.EINVAL, f"MSRs in {len(raw)} bytes")
    if len(raw) != head.sizeof + size * head.unpack(raw).count:
        raise XenError(Errno.EOPNOTSUPP, f"{head.unpack(raw).count} MSRs in {len(raw)} bytes")
    msrs = [hvm_one_msr.unpack(raw, at) for at in range(head.sizeof, len(raw), size)]
    if any(msr._rsvd for msr in msrs):
        raise XenError(Errno.EOPNOTSUPP, "more of an MSR than its number and value")
    for msr in msrs:
        if msr.index != MSR_MISC_FEATURES_ENABLES or msr.val & ~CPUID_FAULTING:
            raise XenError(Errno.ENXIO, f"MSR {msr.index:#x} cannot be {msr.val:#x}")
        loaded.state.misc_features_enables = msr.val


READERS: Final[dict[int, tuple[int | None, Errno, Callable[[Loaded, bytes], None]]]] = {
    HVM_SAVE_CODE_CPU: (hvm_hw_cpu.sizeof, Errno.EINVAL, _read_cpu),
    HVM_SAVE_CODE_LAPIC: (hvm_hw_lapic.sizeof, Errno.ENODATA, _read_lapic),
    HVM_SAVE_CODE_LAPIC_REGS: (hvm_hw_lapic_regs.sizeof, Errno.ENODATA, _read_lapic_regs),
    HVM_SAVE_CODE_MTRR: (hvm_hw_mtrr.sizeof, Errno.EINVAL, _read_mtrr),
    HVM_SAVE_CODE_VMCE_VCPU: (hvm_vmce_vcpu.sizeof, Errno.EINVAL, _read_vmce),
    HVM_SAVE_CODE_TSC_ADJUST: (hvm_tsc_adjust.sizeof, Errno.EINVAL, _read_tsc_adjust),
    CPU_MSR_CODE: (None, Errno.EINVAL, _read_msrs),
}
"""By type: the length, the error for another one, and what is done."""


def load_state(clock: Clock, domain: Domain, raw: bytes) -> None:
    """Give the vCPUs of a paused domain their state, all or none; those without registers are down.

    XenError: ENODATA, it is cut off; EINVAL, ENXIO, values that this CPU cannot have; ENODEV, EOPNOTSUPP, a device or XSAVE.
    """
    loaded = [Loaded(vcpu.vcpu_id, vcpu_after_reset(vcpu.vcpu_id)) for vcpu in domain.vcpus]
    for record in records_of(raw, MOST_RECORDS * len(loaded)):
        _read(loaded, record)
    for one in loaded:
        _check(domain, one)
    for vcpu, one in zip(domain.vcpus, loaded, strict=True):
        vcpu.context = one.state.pack()
        vcpu.up = one.registers
        vcpu.run.saved = vcpu.run.state is not Run.NEW
        if one.registers:
            vcpu.initialised = True
            domain.mailbox.set_tsc_offset(offset_for(clock, one.state.cpu.tsc))
            vcpu.effects.set_context(vcpu.context)


def _read(loaded: list[Loaded], record: Record) -> None:
    typecode, instance, content = record
    if typecode in DEVICES:
        raise XenError(Errno.ENODEV, f"a record of type {typecode}: this machine has no such device")
    if typecode == CPU_XSAVE_CODE:
        raise XenError(Errno.EOPNOTSUPP, "the CPU here has no XSAVE")
    if typecode not in READERS:
        raise XenError(Errno.EINVAL, f"a record of type {typecode}")
    if instance >= len(loaded):
        raise XenError(Errno.EINVAL, f"a record of vCPU {instance}, of {len(loaded)}")
    size, errno, read = READERS[typecode]
    if size not in (None, len(content)):
        raise XenError(errno, f"a record of type {typecode} in {len(content)} bytes")
    read(loaded[instance], content)


def _check(domain: Domain, loaded: Loaded) -> None:
    """What takes more than one record to see. XenError(EINVAL)."""
    hidden = loaded.hidden
    if hidden is not None and hidden != hidden_state(loaded.vcpu, loaded.state.lapic_regs.data):
        raise XenError(Errno.EINVAL, f"a local APIC that the registers of it do not make: {hidden}")
    cpu = loaded.state.cpu
    if loaded.registers and domain.is_shadowed and cpu.cr0 & X86_CR0_PG:
        assert domain.mem.p2m is not None
        if domain.mem.p2m.mfn(cpu.cr3 >> PAGE_SHIFT) is None:
            raise XenError(Errno.EINVAL, f"CR3 {cpu.cr3:#x}: there is no memory")


def offset_for(clock: Clock, tsc: int) -> int:
    """What the mailbox's TSC offset is for a TSC that reads `tsc` now."""
    return (tsc - clock.boot_ns - clock.now() + OFFSET & U64) - OFFSET
