"""What a vCPU of an HVM domain has besides the registers that its toolstack gives it, and what never changes."""

from typing import Final

from hypervisor.machine.local_apic import reset_registers
from hypervisor.public.arch_x86.hvm.save import hvm_hw_cpu, hvm_hw_lapic_regs
from hypervisor.public.xenoscope_hvm import xenoscope_hvm_vcpu

PAT_AFTER_RESET: Final = 0x0007_0406_0007_0406
MCG_BANKS: Final = 2
MCG_CAP: Final = 1 << 24 | 1 << 11 | 1 << 10 | MCG_BANKS
"""SER_P, TES_P, CMCI_P."""


def vcpu_after_reset(vcpu: int, cpu: hvm_hw_cpu | None = None) -> xenoscope_hvm_vcpu:
    """A vCPU that begins with these registers."""
    return xenoscope_hvm_vcpu(
        cpu=cpu or hvm_hw_cpu(),
        lapic_regs=hvm_hw_lapic_regs(data=bytes(reset_registers(vcpu))),
        pat=PAT_AFTER_RESET,
    )
