"""Kinds of PV guests: which paging and which ABI go together. run.py chooses; nothing else of the engine names these classes.

A guest with nested paging (PVH) has no part of it: its exceptions and page tables are the CPU's own affair (hvm_engine).
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from domains.cpu.x86.context import load_context, save_context
from domains.cpu.x86.cpu_state import CpuState
from domains.cpu.x86.direct_paging import DirectPaging
from domains.cpu.x86.mode import Mode
from domains.cpu.x86.paging import Paging
from domains.cpu.x86.pv64_mode import Pv64Mode
from domains.cpu.x86.unicorn_library import UnicornLibrary
from domains.cpu.x86.vcpu import X86Vcpu
from hypervisor.machine.memory import MachineMemory


class GuestKind(NamedTuple):
    """How the parts of an engine for one kind of guest are made, and how its vcpu_guest_context is read and written."""

    paging: Callable[[MachineMemory, CpuState, UnicornLibrary], Paging]
    mode: Callable[[CpuState, Paging], Mode]
    load_context: Callable[[X86Vcpu, bytes], None]
    save_context: Callable[[X86Vcpu], bytes]


PV64: Final = GuestKind(DirectPaging, Pv64Mode, load_context, save_context)
"""A 64-bit PV guest, whose page tables the CPU walks."""
