"""Kinds of HVM guests: which paging goes with which exits. The engine takes one; nothing else of it names these classes.

pv/kinds has those of PV guests.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from domains.cpu.gate import Gate
from domains.cpu.x86.emulator.cpu_state import CpuState
from domains.cpu.x86.emulator.svm import PAGE_FAULT_BIT
from domains.cpu.x86.emulator.unicorn_library import UnicornLibrary
from domains.cpu.x86.hvm.control_exits import ControlExits
from domains.cpu.x86.hvm.exits import HANDLERS
from domains.cpu.x86.hvm.native_paging import NativePaging
from domains.cpu.x86.hvm.nested_paging import NestedPaging
from domains.cpu.x86.hvm.paging import HvmPaging
from domains.cpu.x86.hvm.shadow_exits import ShadowExits
from domains.cpu.x86.hvm.shadow_paging import ShadowPaging
from domains.cpu.x86.hvm.vcpu import ExitHandlers
from hypervisor.wire.mailbox import Engine


class HvmKind(NamedTuple):
    """How the parts of an engine for one kind of guest are made; and which exceptions are exits, one bit a vector."""

    paging: Callable[[Gate, CpuState, UnicornLibrary], HvmPaging]
    handlers: Callable[[HvmPaging], ExitHandlers]
    exceptions: int = 0


def nested_paging(gate: Gate, cpu: CpuState, library: UnicornLibrary) -> HvmPaging:
    """The CPU walks the guest's tables and the core's P2M."""
    return NestedPaging(gate.memory, cpu, library)


def shadow_paging(gate: Gate, cpu: CpuState, library: UnicornLibrary) -> HvmPaging:
    """The CPU walks tables of ours, as many as the domain's shadow memory holds."""
    return ShadowPaging(gate.memory, cpu, library, gate.mailbox.shadow_frames)


def native_paging(gate: Gate, cpu: CpuState, library: UnicornLibrary) -> HvmPaging:
    """The CPU walks the guest's tables, and there is nothing below."""
    return NativePaging(gate.memory, cpu, library)


def common_exits(_paging: HvmPaging) -> ExitHandlers:
    """Those that every guest has."""
    return HANDLERS


def nested_exits(paging: HvmPaging) -> ExitHandlers:
    """Stores to CR4 beside them."""
    return HANDLERS | ControlExits(paging).handlers


def shadow_exits(paging: HvmPaging) -> ExitHandlers:
    """Faults, control registers and INVLPG beside them."""
    assert isinstance(paging, ShadowPaging)
    return HANDLERS | ShadowExits(paging).handlers


NESTED: Final = HvmKind(nested_paging, nested_exits)
"""PVH with hap = 1."""
SHADOW: Final = HvmKind(shadow_paging, shadow_exits, PAGE_FAULT_BIT)
"""PVH with hap = 0."""
NATIVE: Final = HvmKind(native_paging, common_exits)
"""A guest that is alone on the CPU. No domain is of this kind."""
HVM_KINDS: Final = {Engine.X86_64_NESTED: NESTED, Engine.X86_64_SHADOW: SHADOW}
"""By what the core writes into the mailbox."""
