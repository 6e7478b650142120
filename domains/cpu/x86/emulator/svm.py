"""The emulated CPU as an AMD processor that runs a guest, with a second page table below the guest's own or with none.

Unicorn carries QEMU's model of AMD's SVM whole. It is switched on by its fields, without VMRUN: the guest flag of hflags, the
intercepts, the nested table if there is one. From then on each address that the guest's own tables give is walked through that
too, and what is intercepted ends in the interrupt hook, as 0x100 + the exit's code, before anything was done (AMD64
Architecture Programmer's Manual vol. 2, §15; the codes: appendix C).

    old_exception +8    vm_vmcb u64: physical address of the VMCB, where an exit's details are written
                  +24   intercept u64: bit n is exit code 0x60 + n
                  +32   intercept_cr_read u16, intercept_cr_write u16: bit n is CRn     +40   intercept_exceptions u32
                  +48   nested_cr3 u64             +56   nested_pg_mode u32

The VMCB and the map of intercepted MSRs are this process's own memory, which the CPU sees behind the machine's.
"""

import ctypes
import mmap
import struct
from enum import IntEnum
from typing import Any, Final

from domains.cpu.x86.emulator.cpu_state import OLD_EXCEPTION, RIP, CpuState
from domains.cpu.x86.emulator.unicorn_library import (
    HOOK_INTERRUPT,
    INSTALLED,
    INTERRUPT_HOOK,
    UnicornLibrary,
    UnsupportedLibrary,
)
from hypervisor.machine.paging import PAGE_PRESENT, PAGE_RW, PAGE_USER
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE

EXIT: Final = 0x100
"""Where exits begin among the interrupt hook's vectors."""


class Exit(IntEnum):
    """Exit codes (VMEXIT_…)."""

    READ_CR0 = 0x00
    READ_CR3 = 0x03
    READ_CR4 = 0x04
    WRITE_CR0 = 0x10
    WRITE_CR3 = 0x13
    WRITE_CR4 = 0x14
    PAGE_FAULT = 0x4E
    INVLPG = 0x79
    INVLPGA = 0x7A
    HLT = 0x78
    MSR = 0x7C
    SHUTDOWN = 0x7F
    VMRUN = 0x80
    VMMCALL = 0x81
    VMLOAD = 0x82
    VMSAVE = 0x83
    STGI = 0x84
    CLGI = 0x85
    SKINIT = 0x86
    MONITOR = 0x8A
    MWAIT = 0x8B
    NPF = 0x400


FIRST_INTERCEPT: Final = 0x60
SHADOW_ALONE: Final = frozenset(code for code in Exit if code <= Exit.INVLPG and code != Exit.HLT)
"""What exits of a guest without a nested table: whatever its own tables, and so the shadows of them, hang on."""
INTERCEPTED: Final = tuple(code for code in Exit if code < 0xA0 and code not in SHADOW_ALONE)

VMCB: Final = (OLD_EXCEPTION * 4 + 8) // 8  # indices into `q`, in u64
INTERCEPT: Final = VMCB + 2
CR_READ: Final = 4 * (VMCB + 3)  # an index in u16; CR_WRITE is the next
INTERCEPT_EXCEPTIONS: Final = 2 * (VMCB + 4)
NESTED_CR3: Final = VMCB + 5
NESTED_MODE: Final = 2 * (VMCB + 6)  # indices into `d`, in u32
HFLAGS2: Final = 45
PAGE_FAULT_BIT: Final = 1 << 14

HF_SVME: Final = 1 << 20
"""Of hflags: VMMCALL exists."""
HF_GUEST: Final = 1 << 21
HF2_NESTED: Final = 1 << 6
NESTED_LONG_MODE: Final = 7
"""The nested table is one of long mode: PAE, LMA, NXE."""

MSRPM_BASE: Final = 0x48  # in the VMCB, in bytes
EXIT_INFO_2: Final = 0x80
EVENT_INJECTED: Final = 0xA8
EVENT_VALID: Final = 1 << 31
NOTHING: Final = 0
"""No event, in the same form."""
MSRPM_RANGES: Final = ((0x0000_0000, 0), (0xC000_0000, 0x800), (0xC001_0000, 0x1000))
"""The MSRs from `first` on are described from byte `at` of the map on, two bits each."""
MSRPM_SIZE: Final = 2 * PAGE_SIZE
NESTED_RIGHTS: Final = PAGE_PRESENT | PAGE_RW | PAGE_USER

PAGES: Final = 8
"""What a Svm takes of physical memory: VMCB, two of the MSRs' map, then those of the trial: four tables and code."""
_TRIAL_TABLES, _TRIAL_CODE = 3, 7
_TRIAL_AT: Final = 0x5000
_TRIAL_HOLE: Final = 0x7008
_TRIAL: Final = bytes.fromhex("0f01d9 b9ffff0000 0f32 8b042508700000")
"""vmmcall; mov $0xffff, %ecx; rdmsr; mov 0x7008, %eax"""
_TRIAL_LENGTHS: Final[dict[int, int]] = {Exit.VMMCALL: 3, Exit.MSR: 2}


def exception(vector: int, error_code: int = 0) -> int:
    """An exception for the guest, in EVENTINJ's form."""
    return error_code << 32 | EVENT_VALID | vector


class Svm:
    """One CPU's guest mode, on from `enable` on. Raises UnsupportedLibrary if its fields are not where they are known to be."""

    def __init__(self, library: UnicornLibrary, cpu: CpuState, physical: int) -> None:
        """`physical`: where the CPU is to see our pages; nothing else may be there."""
        self._cpu = cpu
        self._library = library
        self._physical = physical
        self._memory = mmap.mmap(-1, PAGES * PAGE_SIZE)
        self._octets = (ctypes.c_uint8 * (PAGES * PAGE_SIZE)).from_buffer(self._memory)
        library.map_memory(ctypes.addressof(self._octets), PAGES * PAGE_SIZE, physical)
        self._memory[PAGE_SIZE : PAGE_SIZE + MSRPM_SIZE] = b"\xff" * MSRPM_SIZE
        struct.pack_into("<Q", self._memory, MSRPM_BASE, physical + PAGE_SIZE)
        self._try_out()

    def enable_nested(self, nested_root: int) -> None:
        """Guest mode, with the nested table whose top is this frame."""
        q, d = self._cpu.q, self._cpu.d
        q[VMCB] = self._physical
        q[INTERCEPT] = sum(1 << code - FIRST_INTERCEPT for code in INTERCEPTED)
        q[NESTED_CR3] = nested_root << PAGE_SHIFT
        d[NESTED_MODE] = NESTED_LONG_MODE
        d[HFLAGS2] |= HF2_NESTED
        self._cpu.octets.cast("H")[CR_READ + 1] = 1 << 4
        self._cpu.set_hflags(0, HF_GUEST | HF_SVME)
        self._library.tlb_flush()

    def enable_shadow(self) -> None:
        """Guest mode without a nested table: CR3 is Xen's, and page faults are exits."""
        q = self._cpu.q
        q[VMCB] = self._physical
        q[INTERCEPT] = sum(1 << code - FIRST_INTERCEPT for code in (*INTERCEPTED, Exit.INVLPG))
        self._cpu.d[INTERCEPT_EXCEPTIONS] = PAGE_FAULT_BIT
        self._cpu.octets.cast("H")[CR_READ + 1] = 1 | 1 << 3 | 1 << 4
        self.intercept_reads(0, 3, 4)
        self._cpu.set_hflags(0, HF_GUEST | HF_SVME)
        self._library.tlb_flush()

    def intercept_reads(self, *registers: int) -> None:
        """Of the control registers, reads of these are exits from now on."""
        self._cpu.octets.cast("H")[CR_READ] = sum(1 << number for number in registers)

    def disable(self) -> None:
        """As before `enable_nested`."""
        self._cpu.d[HFLAGS2] &= ~HF2_NESTED
        self._cpu.octets.cast("H")[CR_READ + 1] = 0
        self._cpu.set_hflags(HF_GUEST | HF_SVME, 0)
        self._library.tlb_flush()

    def let_msr(self, number: int) -> None:
        """The guest's reads and writes of this MSR are the CPU's affair from now on."""
        for first, at in MSRPM_RANGES:
            if first <= number < first + 0x2000:
                byte, bit = divmod(2 * (number - first), 8)
                self._memory[PAGE_SIZE + at + byte] &= ~(3 << bit) & 0xFF

    @property
    def exit_info(self) -> tuple[int, int]:
        """Of the exit whose hook is running: EXITINFO1 (of an MSR: 1 if it was to be written; of a nested fault: its error code)
        and EXITINFO2 (of a nested fault: the guest-physical address).
        """
        (second,) = struct.unpack_from("<Q", self._memory, EXIT_INFO_2)
        return self._cpu.error_code, second

    @property
    def event_address(self) -> int:
        """Where in this process the event lies that `take_event` takes."""
        return ctypes.addressof(self._octets) + EVENT_INJECTED

    def take_event(self) -> int:
        """The event (EXITINTINFO, its error code from bit 32 on) whose delivery the exit broke off, taken back; 0: none."""
        (event,) = struct.unpack_from("<Q", self._memory, EVENT_INJECTED)
        if not event & EVENT_VALID:
            return 0
        struct.pack_into("<Q", self._memory, EVENT_INJECTED, 0)
        return int(event)

    def _try_out(self) -> None:
        """Three exits of ten bytes of code that a nested table of its own maps. The registers are not as before afterwards."""
        first = (self._physical >> PAGE_SHIFT) + _TRIAL_TABLES
        slots = (0, 0, 0, _TRIAL_AT >> PAGE_SHIFT)
        for level, slot in enumerate(slots):
            entry = first + level + 1 << PAGE_SHIFT | NESTED_RIGHTS
            struct.pack_into("<Q", self._memory, (_TRIAL_TABLES + level) * PAGE_SIZE + 8 * slot, entry)
        at = _TRIAL_CODE * PAGE_SIZE
        self._memory[at : at + len(_TRIAL)] = _TRIAL
        seen: list[tuple[int, ...]] = []

        def on_interrupt(_uc: Any, vector: int, _data: Any) -> None:
            rip = self._cpu.q[RIP] - _TRIAL_AT
            seen.append((vector - EXIT, rip, *(self.exit_info if vector == EXIT + Exit.NPF else ())))
            self._cpu.take_exception()
            self._cpu.q[RIP] += _TRIAL_LENGTHS.get(vector - EXIT, 0)
            if len(seen) >= 3 or vector < EXIT:
                self._library.emu_stop()

        hook = self._library.add_hook(HOOK_INTERRUPT, INTERRUPT_HOOK(on_interrupt))
        self.enable_nested(first)
        self._library.emu_start(_TRIAL_AT)
        self.disable()
        self._library.remove_hook(hook)
        expected = [(Exit.VMMCALL, 0), (Exit.MSR, 8), (Exit.NPF, 10, seen[-1][2] if seen else 0, _TRIAL_HOLE)]
        if seen != expected:
            raise UnsupportedLibrary(
                f"unicorn {INSTALLED}: nested paging is not switched on as known; seen {seen}"
            )
