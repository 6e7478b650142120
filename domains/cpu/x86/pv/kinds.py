"""Kinds of PV guests: which paging and which ABI go together. run.py chooses; nothing else of the engine names these classes.

A guest with nested paging (PVH) has no part of it: its exceptions and page tables are the CPU's own affair (hvm/engine).
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from domains.cpu.x86.emulator.cpu_state import CpuState
from domains.cpu.x86.emulator.unicorn_library import UnicornLibrary
from domains.cpu.x86.pv.bounce import bounce
from domains.cpu.x86.pv.compat_paging import CompatPaging
from domains.cpu.x86.pv.compat_segments import CompatSegments
from domains.cpu.x86.pv.context import load_context, save_context
from domains.cpu.x86.pv.direct_paging import DirectPaging
from domains.cpu.x86.pv.entry import Entry
from domains.cpu.x86.pv.exceptions import handle_software_interrupt
from domains.cpu.x86.pv.local_hypercalls import LOCAL_EFFECTS, LOCAL_HYPERCALLS
from domains.cpu.x86.pv.mode import Mode
from domains.cpu.x86.pv.page_fault import handle_page_fault
from domains.cpu.x86.pv.pv32_bounce import compat_bounce
from domains.cpu.x86.pv.pv32_calls import (
    COMPAT_LOCAL_EFFECTS,
    COMPAT_LOCAL_HYPERCALLS,
    handle_compat_interrupt,
    handle_compat_syscall,
)
from domains.cpu.x86.pv.pv32_context import load_compat_context, save_compat_context
from domains.cpu.x86.pv.pv32_mode import Pv32Mode
from domains.cpu.x86.pv.pv32_page_fault import handle_compat_page_fault
from domains.cpu.x86.pv.pv64_mode import Pv64Mode
from domains.cpu.x86.pv.segments import Segments
from domains.cpu.x86.pv.syscall import handle_syscall
from domains.cpu.x86.pv.vcpu import X86Vcpu
from hypervisor.machine.cpuid import compat_cpuid, guest_cpuid
from hypervisor.machine.entries import adjust_l1e, unadjusted
from hypervisor.machine.memory import MachineMemory
from hypervisor.public.abi import COMPAT, NATIVE


class GuestKind(NamedTuple):
    """How the parts of an engine for one kind of guest are made, and what its entry code does."""

    paging: Callable[[MachineMemory, CpuState, UnicornLibrary], DirectPaging]
    mode: Callable[[CpuState, DirectPaging], Mode]
    segments: Callable[[CpuState, MachineMemory, int], Segments]
    entry: Entry[X86Vcpu]
    adjust_l1e: Callable[[int], int]
    """An L1 entry as Xen writes it (P6)."""


PV64: Final = GuestKind(
    DirectPaging,
    Pv64Mode,
    Segments,
    Entry(
        bounce=bounce,
        load_context=load_context,
        save_context=save_context,
        software_interrupt=handle_software_interrupt,
        page_fault=handle_page_fault,
        syscall=handle_syscall,
        cpuid=guest_cpuid,
        local_calls=LOCAL_HYPERCALLS,
        local_effects=LOCAL_EFFECTS,
        abi=NATIVE,
    ),
    adjust_l1e,
)
"""A 64-bit PV guest, whose page tables the CPU walks."""
PV32: Final = GuestKind(
    CompatPaging,
    Pv32Mode,
    CompatSegments,
    Entry(
        bounce=compat_bounce,
        load_context=load_compat_context,
        save_context=save_compat_context,
        software_interrupt=handle_compat_interrupt,
        page_fault=handle_compat_page_fault,
        syscall=handle_compat_syscall,
        cpuid=compat_cpuid,
        local_calls=COMPAT_LOCAL_HYPERCALLS,
        local_effects=COMPAT_LOCAL_EFFECTS,
        abi=COMPAT,
    ),
    unadjusted,
)
"""A 32-bit PV guest: its kernel runs in ring 1, in the CPU's compatibility mode."""
