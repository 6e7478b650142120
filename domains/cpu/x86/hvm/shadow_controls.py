"""The control registers of a guest with shadow paging: kept here, while the CPU has others in force.

The CPU runs with paging, PAE and write protection whatever the guest's own are; of its CR3 the guest knows nothing. Reads of CR0
and CR4 are exits only as long as the guest's differ from the CPU's.
Source: Xen arch/x86/hvm/hvm.c (hvm_set_cr0, hvm_set_cr3, hvm_set_cr4).
"""

from domains.cpu.x86.emulator.cpu_state import CR, EFER, CpuState
from domains.cpu.x86.emulator.unicorn_library import UnicornLibrary
from domains.cpu.x86.hvm.paging import HvmPaging
from domains.cpu.x86.registers import (
    CR0_CD,
    CR0_NW,
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_PAE,
    CR4_PGE,
    CR4_PSE,
    EFER_LME,
    U32,
)
from hypervisor.machine.memory import MachineMemory


class ShadowControls(HvmPaging):
    """What of a `Paging` concerns them."""

    def __init__(self, memory: MachineMemory, cpu: CpuState, library: UnicornLibrary) -> None:
        super().__init__(memory, cpu, library)
        self._cr0 = self._cr3 = self._cr4 = 0

    def switch(self) -> None:
        """The guest's CR3 was loaded, or the way in which its tables are read has changed."""
        raise NotImplementedError

    def flush_global(self) -> None:
        """At the next switch global pages are looked at, too."""
        raise NotImplementedError

    def control(self, number: int) -> int:
        """CR0, CR2, CR3 or CR4 as the guest has it."""
        if number == 3:
            return self._cr3
        if number == 2:
            return self._cpu.q[CR + 2]
        return self._cr4 if number else self._cr0

    def load_controls(self, cr0: int, cr2: int, cr3: int, cr4: int) -> None:
        """Put the guest's control registers in force; the caller flushes."""
        self._cr0, self._cpu.q[CR + 2], self._cr3, self._cr4 = cr0, cr2, cr3, cr4
        self._put_in_force()

    def _put_in_force(self) -> None:
        """The CPU's own CR0 and CR4, and whether the guest's reads of them are exits."""
        q = self._cpu.q
        q[CR] = self._cr0 | CR0_PG | CR0_WP
        q[CR + 4] = self._cr4 | CR4_PAE
        self.svm.intercept_reads(3, *(number for number in (0, 4) if q[CR + number] != self.control(number)))

    def write_control(self, number: int, value: int) -> bool:
        """The guest's MOV to CR0, CR3 or CR4. False: #GP."""
        self.counters[f"CR{number} write"] += 1
        if number == 3:
            self._cr3 = value
            self.switch()
            return True
        return self._write_cr4(value) if number else self._write_cr0(value)

    def _write_cr0(self, value: int) -> bool:
        old, efer = self._cr0, self._cpu.q[EFER]
        rises = value & ~old & CR0_PG
        if value > U32 or (value & CR0_PG and not value & CR0_PE) or (value & CR0_NW and not value & CR0_CD):
            return False
        if rises and efer & EFER_LME and not self._cr4 & CR4_PAE:
            return False
        self._cpu.q[CR] = old
        self._library.update_cr0(self._cpu.env, value)  # with the guest's own, for it sees to EFER.LMA
        self._cr0 = self._cpu.q[CR]
        self._put_in_force()
        if (value ^ old) & (CR0_PG | CR0_WP):
            self.switch()
        return True

    def _write_cr4(self, value: int) -> bool:
        changed = value ^ self._cr4
        if not self.may_be_cr4(value):
            return False
        self._library.update_cr4(self._cpu.env, value | CR4_PAE)
        self._cr4 = self._cpu.q[CR + 4] & ~CR4_PAE | value & CR4_PAE
        self._put_in_force()
        if changed & (CR4_PGE | CR4_PSE | CR4_PAE):
            self.flush_global()
            self.switch()
        return True
