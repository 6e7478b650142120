"""A vCPU's local APIC as data: what its registers hold after a reset, and what follows from what they hold.

Source: Xen arch/x86/hvm/vlapic.c (vlapic_reset, vlapic_do_init, vlapic_set_tdcr); Intel SDM vol. 3A §10.4.
"""

from typing import Final

from hypervisor.public.arch_x86.hvm.save import hvm_hw_lapic, hvm_hw_lapic_regs

APIC_BASE: Final = 0xFEE00000 | 1 << 11
APIC_BASE_BSP: Final = 1 << 8
ID, VERSION, DFR, SPIV, ESR, ICR, LVT_ERROR, DIVIDER = 0x20, 0x30, 0xE0, 0xF0, 0x280, 0x300, 0x370, 0x3E0
"""Where registers lie."""
LVTS: Final = (0x320, 0x330, 0x340, 0x350, 0x360, 0x370)
LVT_MASKED: Final = 1 << 16
VERSION_OF_XEN: Final = 0x50014
"""Six entries of a local vector table, version 0x14."""
SPIV_ENABLED: Final = 1 << 8
SW_DISABLED: Final = 2
"""In hvm_hw_lapic.disabled (VLAPIC_SW_DISABLED)."""
REGISTER: Final = 4
"""Bytes of a register."""
STRIDE: Final = 16
"""Bytes from one register to the next."""


def apic_base(vcpu: int) -> int:
    """MSR_APIC_BASE, for good: this APIC neither moves nor is it switched off or to its second form."""
    return APIC_BASE | (0 if vcpu else APIC_BASE_BSP)


def apic_id(vcpu: int) -> int:
    """The register: an APIC's id is twice its vCPU's, as on Xen."""
    return 2 * vcpu << 24


def reset_registers(vcpu: int) -> bytearray:
    """All registers after a reset, as hvm_hw_lapic_regs has them."""
    registers = bytearray(hvm_hw_lapic_regs.sizeof)
    values = {ID: apic_id(vcpu), VERSION: VERSION_OF_XEN, SPIV: 0xFF, DFR: 0xFFFF_FFFF}
    for at, value in (values | dict.fromkeys(LVTS, LVT_MASKED)).items():
        registers[at : at + REGISTER] = value.to_bytes(REGISTER, "little")
    return registers


def register(registers: bytes | bytearray, at: int) -> int:
    """The register at an offset; zero where there is none."""
    if at % STRIDE or not 0 <= at < len(registers):
        return 0
    return int.from_bytes(registers[at : at + REGISTER], "little")


def hidden_state(vcpu: int, registers: bytes) -> hvm_hw_lapic:
    """What follows from the registers of this vCPU's APIC. No timer of it runs by the TSC."""
    divider = register(registers, DIVIDER)
    return hvm_hw_lapic(
        apic_base_msr=apic_base(vcpu),
        disabled=0 if register(registers, SPIV) & SPIV_ENABLED else SW_DISABLED,
        timer_divisor=1 << ((divider & 3 | (divider & 8) >> 1) + 1 & 7),
    )
