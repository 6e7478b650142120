"""A vCPU of an HVM domain as core and domain process hand it to each other; and the head of a record, which no header names."""

from typing import Annotated

from hypervisor.public.arch_x86.hvm.save import hvm_hw_cpu, hvm_hw_lapic_regs
from hypervisor.public.layout import Struct, u32, u64


class xenoscope_hvm_vcpu(Struct, size=2080):
    """All that a vCPU has: what Effect.CONTEXT carries to the process, and Request.SAVED back."""

    cpu: hvm_hw_cpu
    lapic_regs: hvm_hw_lapic_regs
    pat: u64
    misc_features_enables: u64
    result_size: u32  # back: so many bytes of RAX are the result of the hypercall that it waits for; 0: it waits for none
    _pad: u32


class xenoscope_hvm_msr_count(Struct, size=8):
    """The head of CPU_MSR's struct hvm_msr: then come `count` hvm_one_msr."""

    count: u32
    _pad: Annotated[bytes, 4]
