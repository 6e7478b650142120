"""Model-specific registers that mean the same for all guests: those that read as one value, and those whose writes do nothing.

What is neither here nor in the tables of a kind of guest (pv/msr, hvm/msr) is #GP, as on Xen; nothing reads as zero by accident.
Source: Xen arch/x86/msr.c (guest_rdmsr, guest_wrmsr), arch/x86/pv/emul-priv-op.c (read_msr, write_msr),
arch/x86/cpu/mcheck/vmce.c, arch/x86/cpu/vpmu.c.
"""

from typing import Final

from domains.cpu.x86.registers import (
    MSR_FEATURE_CONTROL,
    MSR_MISC_ENABLE,
    MSR_PAT,
    MSR_UCODE_REV,
    U64,
)
from hypervisor.machine.hvm_reset import MCG_BANKS, MCG_CAP

XEN_MSR_PAT: Final = 0x050100070406
MISC_ENABLE_OF_XEN: Final = 1 | 1 << 11 | 1 << 12 | 1 << 23
"""Fast strings; no branch trace store, no PEBS, xTPR disabled."""
FEATURE_CONTROL_LOCK: Final = 1
MSR_P5_MC_ADDR: Final = 0x00
MSR_P5_MC_TYPE: Final = 0x01
MSR_PLATFORM_ID: Final = 0x17
MSR_PLATFORM_INFO: Final = 0xCE
MSR_MPERF: Final = 0xE7
MSR_APERF: Final = 0xE8
MSR_MISC_FEATURES_ENABLES: Final = 0x140
MSR_MCG_CAP: Final = 0x179
MSR_MCG_STATUS: Final = 0x17A
MSR_MCG_CTL: Final = 0x17B
MSR_PERF_STATUS: Final = 0x198
MSR_PERF_CTL: Final = 0x199
MSR_THERM_CONTROL: Final = 0x19A
MSR_THERM_STATUS: Final = 0x19C
MSR_ENERGY_PERF_BIAS: Final = 0x1B0
MSR_DEBUGCTL: Final = 0x1D9
MSR_PERF_CAPABILITIES: Final = 0x345
MSR_XEN_HYPERCALL_PAGE: Final = 0x40000000

PERFORMANCE_COUNTERS: Final = (
    *range(0xC1, 0xC9),  # P6_PERFCTR0 … 7
    *range(0x186, 0x18A),  # P6_EVNTSEL0 … 3
    *range(0x309, 0x30C),  # FIXED_CTR0 … 2
    *range(0x38D, 0x391),  # FIXED_CTR_CTRL, GLOBAL_STATUS, GLOBAL_CTRL, GLOBAL_OVF_CTRL
)
"""They read as zero and forget what is written: there is no virtual PMU."""
MACHINE_CHECK_BANKS: Final = range(0x400, 0x480)
"""IA32_MCi_CTL, STATUS, ADDR, MISC for 32 banks, of which MCG_BANKS exist. No machine check ever happens: none keeps a value."""
MACHINE_CHECK_CTL2: Final = range(0x280, 0x2A0)

CONSTANTS: Final[dict[int, int]] = {
    MSR_DEBUGCTL: 0,
    MSR_FEATURE_CONTROL: FEATURE_CONTROL_LOCK,
    MSR_MCG_CAP: MCG_CAP,
    MSR_MCG_CTL: 0,
    MSR_MCG_STATUS: 0,
    MSR_MISC_ENABLE: MISC_ENABLE_OF_XEN,
    MSR_MISC_FEATURES_ENABLES: 0,
    MSR_P5_MC_ADDR: 0,
    MSR_P5_MC_TYPE: 0,
    MSR_PAT: XEN_MSR_PAT,
    MSR_PERF_CAPABILITIES: 0,
    MSR_PERF_CTL: 0,
    MSR_PERF_STATUS: 0,
    MSR_PLATFORM_ID: 0,
    MSR_PLATFORM_INFO: 0,
    MSR_THERM_STATUS: 0,
    MSR_UCODE_REV: 0,
    MSR_XEN_HYPERCALL_PAGE: 0,
    **dict.fromkeys(PERFORMANCE_COUNTERS, 0),
    **dict.fromkeys(MACHINE_CHECK_CTL2, 0),
    **dict.fromkeys(MACHINE_CHECK_BANKS, 0),
    **dict.fromkeys(MACHINE_CHECK_BANKS[: 4 * MCG_BANKS : 4], U64),
}
"""Registers that read as one value, whatever is written."""
IGNORED: Final = frozenset(
    {
        *(MSR_APERF, MSR_ENERGY_PERF_BIAS, MSR_MISC_ENABLE, MSR_MPERF, MSR_PERF_CTL, MSR_THERM_CONTROL),
        *(MSR_MCG_CAP, MSR_MCG_CTL, MSR_MCG_STATUS),
        *PERFORMANCE_COUNTERS,
        *MACHINE_CHECK_CTL2,
        *MACHINE_CHECK_BANKS[: 4 * MCG_BANKS : 4],
        *MACHINE_CHECK_BANKS[4 * MCG_BANKS :],
    }
)
"""Writes of any value are done with."""
ZERO_ALONE: Final = frozenset({MSR_UCODE_REV, MSR_MISC_FEATURES_ENABLES, *MACHINE_CHECK_BANKS})
"""Writes of zero are done with."""
