"""The kernel in ring 0: alone on the CPU, or under hardware assistance with nested page tables or with shadow page tables."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import Any, Final, NoReturn

import unicorn.x86_const as uc_x86

from domains.cpu.event_words import EventWords
from domains.cpu.x86.emulator.cpu_state import RIP
from domains.cpu.x86.emulator.svm import HF_GUEST, HF_SVME
from domains.cpu.x86.emulator.unicorn_library import HOOK_INSN, UnicornLibrary
from domains.cpu.x86.hvm.context import load_registers
from domains.cpu.x86.hvm.engine import INSTRUCTIONS, HvmCpu
from domains.cpu.x86.hvm.kinds import NATIVE, NESTED, HvmKind
from domains.cpu.x86.hvm.paging import HvmPaging
from domains.cpu.x86.registers import EFLAGS_IF, RBX, RSP, U32
from domains.lab.image import Image
from domains.lab.systems.ports import GuardedPort
from domains.lab.systems.system import Crashed, Ended, checked
from domains.lab.systems.traced_shadow import TRACED_SHADOW
from domains.lab.systems.unported import P2M_TOP, STACK, Unported, attach
from domains.lab.systems.walks import hvm_entries, p2m_entry
from domains.lab.trace import Entry, Observer
from hypervisor.machine.memory import create_memfd
from hypervisor.public.arch_x86.hvm.save import hvm_hw_cpu
from hypervisor.public.errno import Errno
from hypervisor.public.types import PAGE_SIZE
from hypervisor.public.xen import Hypercall
from hypervisor.wire.mailbox import MAILBOX_FRAMES, Mailbox
from hypervisor.wire.messages import Effect, EffectRecord

SHADOW_FRAMES: Final = 256
CODE, DATA, TASK = 0xC9B, 0xC93, 0x08B
"""Attributes of flat segments and of an empty task."""
IN_HOOK = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_void_p)
OUT_HOOK = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint32, ctypes.c_void_p
)
KINDS: Final = {"native": NATIVE, "nested": NESTED, "vtx": TRACED_SHADOW}
MONITORS: Final = {"native": "CPU", "nested": "hypervisor", "vtx": "hypervisor"}


class LineGate:
    """What the engine asks of the core, answered by the board: memory, a mailbox, waiting."""

    domid = 1
    meter = None
    """Nobody counts its work."""

    def __init__(self, machine: Ring0) -> None:
        self._machine = machine
        self.memory = machine.memory
        fd = create_memfd("laboratory", MAILBOX_FRAMES)
        self.mailbox = Mailbox(fd)
        os.close(fd)
        self.mailbox.set_vcpus(1)
        self.mailbox.set_shadow_frames(SHADOW_FRAMES)

    def hypercall(self, _vcpu: int, nr: int, *_args: int) -> tuple[int, list[EffectRecord]]:
        """HLT comes as SCHEDOP_block or VCPUOP_down; the guest itself makes none."""
        if nr == Hypercall.vcpu_op:
            raise Ended
        if nr == Hypercall.sched_op:
            self._machine.halted()
            return 0, []
        return -Errno.ENOSYS, []

    def stopped(self, _vcpu: int) -> tuple[int, list[EffectRecord]]:
        """Nobody stops it."""
        return 0, []

    def raised(self, _vcpu: int = 0) -> list[int]:
        """There are no event channels."""
        return []

    def crash(self, _vcpu: int, reason: str) -> NoReturn:
        """The guest did what this machine has not."""
        raise Crashed(reason)

    def triple_fault(self, _vcpu: int, registers: str) -> NoReturn:
        """The guest could not deliver a double fault."""
        raise Crashed(registers)


class PortCpu(HvmCpu):
    """The engine, with this board's ports: an access is an exit under a hypervisor."""

    def __init__(self, machine: Ring0, kind: HvmKind) -> None:
        self._machine = machine
        super().__init__(LineGate(machine), kind=kind)  # type: ignore[arg-type]

    def _add_instructions(self, library: UnicornLibrary) -> None:
        hooks: dict[int, Any] = {
            uc_x86.UC_X86_INS_IN: IN_HOOK(self._on_in),
            uc_x86.UC_X86_INS_OUT: OUT_HOOK(self._on_out),
        }
        cpu = self.vcpu.cpu
        self._ports = [GuardedPort(library, cpu, *hook) for hook in hooks.items()]
        for instruction, routine in INSTRUCTIONS.items():
            if instruction not in hooks:
                library.add_code_hook(HOOK_INSN, self.stubs.address(routine), 0, instruction)

    def _on_in(self, _uc: int, port: int, size: int, _data: int) -> int:
        self._machine.port_exit("in")
        return self._machine.devices.read_port(port, size) & U32

    def _on_out(self, _uc: int, port: int, size: int, value: int, _data: int) -> None:
        self._machine.port_exit("out")
        self._machine.devices.write_port(port, size, value)
        self._machine.settle_line()


class Ring0(Unported):
    """A `System`: "native", "nested" or "vtx". `image`: another kernel than the usual."""

    def __init__(self, name: str, image: Image | None = None) -> None:
        super().__init__(image, direct=name == "native")
        self.name, self.monitor = name, MONITORS[name]
        self.cpu = PortCpu(self, KINDS[name])
        self.v = self.cpu.vcpu
        self._page = create_line_page()
        self.v.events = EventWords(memoryview(self._page).cast("B"))
        if name != "native":
            self.cpu.boot([[Effect.P2M, P2M_TOP]])
        load_registers(self.v, initial_registers(self.image.entry))
        if name == "native":
            self.v.cpu.set_hflags(HF_GUEST | HF_SVME, 0)
        self.cpu.stubs.watch(ctypes.addressof(self._page))

    def observe(self, observer: Observer) -> None:
        """See System."""
        self.v.exits = attach(observer, self.cpu.library, self.v.cpu, self.image, self.cpu.emulation)
        observer.cr3 = lambda: self.v.paging.control(3)
        self.devices.tell(observer.beside)

    def tables(self, va: int) -> list[Entry]:
        """See System; what is below a guest's tables, too."""
        paging = self.v.paging
        assert isinstance(paging, HvmPaging)
        below = p2m_entry(paging, va) if self.name == "nested" else []
        return hvm_entries(paging, va) + below

    def port_exit(self, which: str) -> None:
        """A port access: the CPU's own affair when it is alone."""
        if self.name != "native":
            self.v.exits[which] += 1

    def halted(self) -> None:
        """HLT with interrupts on."""
        self.devices.halted()
        self.settle_line()

    def settle_line(self) -> None:
        """The interrupt line is up while a device has something to say."""
        pending = self.devices.pending
        self._page[0] = bool(pending)
        if pending:
            self.cpu.stubs.set_vector(pending[0])
            self.cpu.stubs.request()

    def run(self, programs: Sequence[str]) -> int:
        """See System."""
        self.load(programs)
        q = self.v.cpu.q
        q[RIP], q[RSP] = self.image.entry, STACK
        try:
            while True:
                self.cpu.run_slice()
                if self.name == "native":  # HLT has ended emulation
                    if not self.v.cpu.rflags & EFLAGS_IF:
                        raise Ended
                    self.halted()
        except Ended:
            self.v.cpu.running = False
        return checked(int(q[RBX]) & U32)


def create_line_page() -> Any:
    """A page whose first byte is the interrupt line."""
    return (ctypes.c_uint8 * PAGE_SIZE)()


def initial_registers(entry: int) -> hvm_hw_cpu:
    """32-bit protected mode, flat, without paging, as PVH guests start."""
    context = hvm_hw_cpu(
        cr0=0x11, rip=entry, rflags=2, dr6=0xFFFF0FF0, dr7=0x400, tr_limit=0x67, tr_arbytes=TASK
    )
    context.cs_arbytes, context.cs_limit = CODE, U32
    for name in ("ds", "es", "ss"):
        setattr(context, f"{name}_arbytes", DATA)
        setattr(context, f"{name}_limit", U32)
    return context
