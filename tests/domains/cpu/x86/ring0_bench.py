"""The guests of ring1_bench in ring 0, alone on the CPU, or under nested or shadow paging: what ring 1 is compared with.

The interrupt line is where an event's vector comes from: the byte at LINE takes the place of evtchn_upcall_pending.
"""

import hashlib
from typing import Literal

from domains.cpu.event_words import EventWords
from domains.cpu.x86.emulator.cpu_state import RIP
from domains.cpu.x86.emulator.svm import HF_GUEST, HF_SVME
from domains.cpu.x86.hvm.context import load_registers
from domains.cpu.x86.hvm.engine import HvmCpu
from domains.cpu.x86.hvm.kinds import NATIVE
from domains.cpu.x86.registers import CS, DS, EFLAGS_IF, ES, RSP, SS
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE
from hypervisor.public.xen import Hypercall
from hypervisor.wire.mailbox import Engine
from hypervisor.wire.messages import Effect
from tests.domains.cpu.x86.bench import Done, new_memory
from tests.domains.cpu.x86.hvm_bench import (
    GUEST,
    HOLE,
    MACHINE,
    P2M_L4,
    SHARED,
    HvmBenchGate,
    initial_registers,
    machine_with_p2m,
    mfn_of,
)
from tests.domains.cpu.x86.ring1_bench import LINE, POOL, VECTOR, Ring1Bench

Kind = Literal["native", "nested", "shadow"]
KINDS: tuple[Kind, ...] = ("native", "nested", "shadow")


class Ring0Bench:
    """A guest in ring 0."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.gate = HvmBenchGate()
        self.gate.mailbox.set_engine(Engine.X86_64_SHADOW if kind == "shadow" else Engine.X86_64_NESTED)
        self.gate.mailbox.set_shadow_frames(POOL)
        self.gate.memory = self.memory = machine_with_p2m()
        if kind == "native":
            self.gate.memory = self.memory = new_memory(MACHINE)
        self.gate.answers[Hypercall.sched_op] = self._block
        self.gate.answers[Hypercall.vcpu_op] = self._down
        self.cpu = HvmCpu(self.gate, kind=NATIVE if kind == "native" else None)  # type: ignore[arg-type]
        self.v, self.q = self.cpu.vcpu, self.cpu.vcpu.cpu.q
        if kind != "native":
            self.cpu.boot([[Effect.P2M, P2M_L4], [Effect.VCPU_INFO, 0, SHARED, 0]])
        load_registers(self.v, initial_registers())
        if kind == "native":
            self.v.cpu.set_hflags(HF_GUEST | HF_SVME, 0)
        line = self.machine(LINE)
        self.line = self.memory.view(line, PAGE_SIZE)
        self.v.events = EventWords(self.line)
        self.cpu.stubs.watch(self.memory.base + line)
        self.cpu.stubs.set_vector(VECTOR)

    def machine(self, gpa: int) -> int:
        """Where guest memory lies."""
        return gpa if self.kind == "native" else mfn_of(gpa >> PAGE_SHIFT) << PAGE_SHIFT | gpa % PAGE_SIZE

    def _block(self, *_: int) -> int:
        self.line[0] = 1
        return 0

    def _down(self, *_: int) -> int:
        raise Done

    def start(self, image: bytes, at: int, entry: int, esp: int) -> None:
        """Load `image` and run it until it ends."""
        for offset in range(0, len(image), PAGE_SIZE):
            self.memory.write(self.machine(at + offset), image[offset : offset + PAGE_SIZE])
        self.q[RIP], self.q[RSP] = entry, esp
        try:
            while True:
                self.cpu.run_slice()
                if self.kind == "native":  # HLT has ended emulation
                    self._block() if self.v.cpu.rflags & EFLAGS_IF else self._down()
        except Done:
            self.v.cpu.running = False


def registers(bench: Ring0Bench | Ring1Bench) -> list[int]:
    """General registers, flags, control registers, selectors, as the guest sees them."""
    v, q = bench.v, bench.q
    controls = [v.paging.control(number) for number in (0, 2, 3, 4)]
    if isinstance(bench, Ring1Bench):
        selectors = [bench.v.selector(segment) for segment in (CS, DS, ES, SS)]
        return [*q[:8], bench.v.flags, *controls, *selectors]
    selectors = [v.cpu.selector(segment) & 0xFFFF for segment in (CS, DS, ES, SS)]
    return [*q[:8], v.cpu.rflags, *controls, *selectors]


def memory_of(bench: Ring0Bench | Ring1Bench) -> dict[int, str]:
    """A digest of each of the guest's frames."""
    digests = {}
    for gfn in range(GUEST):
        if gfn != HOLE >> PAGE_SHIFT:
            native = isinstance(bench, Ring0Bench) and bench.kind == "native"
            digests[gfn] = hashlib.sha256(
                bench.memory.page(gfn if native else mfn_of(gfn)).tobytes()
            ).hexdigest()
    return digests
