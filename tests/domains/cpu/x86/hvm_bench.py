"""A bench for the engine of guests with nested paging: machine memory, a P2M that scrambles frames, and a stand-in for the core.

The guest has 512 frames, 2 MiB, of which frame HOLE is missing and frame READ_ONLY cannot be written. It starts as PVH guests do,
in 32-bit protected mode without paging. `long_mode` takes it to 64-bit code with 4 KiB pages, each at its guest-physical address.

    0x10000   page tables (L4, L3, L2, L1)      0x80000  STACK, top at 0x90000
    0x20000   IDT                               0x100000 CODE
    0x40000   DATA                              0x1f0000 HOLE, 0x1f1000 READ_ONLY
"""

from typing import NoReturn

from domains.cpu.x86.emulator.cpu_state import RIP
from domains.cpu.x86.hvm.engine import HvmCpu
from domains.lab.systems.ring0 import initial_registers as registers_at
from hypervisor.machine.hvm_reset import vcpu_after_reset
from hypervisor.machine.memory import MachineMemory
from hypervisor.machine.paging import PAGE_PRESENT, PAGE_RW, PAGE_USER
from hypervisor.public.arch_x86.hvm.save import hvm_hw_cpu
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE
from hypervisor.public.xen import Hypercall, shared_info
from hypervisor.wire.mailbox import Engine
from hypervisor.wire.messages import CALLBACK_HVM_VECTOR, Effect, EffectRecord
from tests.domains.cpu.x86.assembler import assemble_flat
from tests.domains.cpu.x86.bench import BenchGate, Done, new_memory

MACHINE, GUEST = 2048, 512
TABLES, IDT, DATA, STACK_TOP, CODE, HOLE, READ_ONLY = (
    *(0x10000, 0x20000, 0x40000, 0x90000),
    *(0x100000, 0x1F0000, 0x1F1000),
)
APIC = 0xFEE00000
P2M_L4, P2M_L3, P2M_L2, P2M_L1, SHARED = 1, 2, 3, 4, 5
RIGHTS = PAGE_PRESENT | PAGE_RW | PAGE_USER
DONE = 63
VECTOR = 0xF3
TSS32 = 0x08B
BOOT = {"msr": 2, "write cr4": 1, "vmmcall": 1, "hypercall": 1}
"""Exits of every run in long mode: CR4 is written, EFER read and written, and the run ends."""

PROLOGUE = f"""
    .set DATA, {DATA}; .set STACK_TOP, {STACK_TOP}; .set HOLE, {HOLE}; .set READ_ONLY, {READ_ONLY}; .set APIC, {APIC}
    .set IDT, {IDT}; .set TABLES, {TABLES}; .set CODE, {CODE}; .set VECTOR, {VECTOR}
    .set DONE, {DONE}; .set SCHED_OP, {int(Hypercall.sched_op)}
.macro hypercall nr
    mov $\\nr, %eax
    vmmcall
.endm
.macro done
    hypercall {DONE}
.endm
.macro done32                                   /* from 32-bit code, whose hypercalls are few */
    mov $DONE, %ebx
    hypercall SCHED_OP
.endm
.macro gate vector, handler, dpl=0              /* of the 64-bit IDT */
    lea \\handler(%rip), %rax
    mov %ax, IDT + 16 * \\vector
    movl $0x10, IDT + 16 * \\vector + 2
    movw $(0x8e00 | \\dpl << 13), IDT + 16 * \\vector + 4
    shr $16, %rax
    mov %ax, IDT + 16 * \\vector + 6
    movq $0, IDT + 16 * \\vector + 8
.endm
.macro long_mode
    .code32
    movl $(TABLES + 0x1007), TABLES
    movl $(TABLES + 0x2007), TABLES + 0x1000
    movl $(TABLES + 0x3007), TABLES + 0x2000
    xor %ecx, %ecx
771: mov %ecx, %eax
    shl $12, %eax
    or  $7, %eax
    mov %eax, TABLES + 0x3000(, %ecx, 8)
    inc %ecx
    cmp $512, %ecx
    jb  771b
    movl $(APIC | 7), TABLES + 0x3000 + 8 * 0x1f3  /* the local APIC, at 0x1f3000 */
    lgdt gdt_pointer
    mov $TABLES, %eax
    mov %eax, %cr3
    mov $0x220, %eax                            /* PAE, OSFXSR */
    mov %eax, %cr4
    mov $0xc0000080, %ecx
    rdmsr
    or  $0x901, %eax                            /* SCE, LME, NX */
    wrmsr
    mov $0x80010011, %eax                       /* PG, WP, ET, PE */
    mov %eax, %cr0
    ljmp $0x10, $772f
    .code64
772: mov $0x18, %eax
    mov %eax, %ds; mov %eax, %es; mov %eax, %ss
    mov $0x30, %eax
    ltr %ax
    lidt idt_pointer
    mov $STACK_TOP, %rsp
    jmp 773f
    .balign 8
gdt: .quad 0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cff3000000ffff, 0x00affb000000ffff
     .quad 0x0000890000000067 | (DATA + 0x8000) << 16, 0
gdt_pointer: .word 63; .quad gdt
idt_pointer: .word 4095; .quad IDT
773:
    movq $STACK_TOP - 0x4000, DATA + 0x8004     /* the TSS' RSP0 */
.endm
"""


USER_MODE = """
    .macro to_user target
        push $0x23; push $(STACK_TOP - 0x2000); push $0x202; push $0x2b; push $\\target
        iretq
    .endm
"""


class TripleFault(Exception):
    """The guest could not deliver a double fault; the text is the report."""


class HvmBenchGate(BenchGate):
    """As a PV bench's, and what HVM guests alone ask."""

    def triple_fault(self, _vcpu: int, registers: str) -> NoReturn:
        raise TripleFault(registers)


class HvmBench:
    """A guest's CPU on the bench; `q[RAX]` and so on are its registers."""

    def __init__(self, shadow_frames: int = 0, context: bytes | None = None) -> None:
        """`shadow_frames`: shadow paging, with a pool of so many frames; 0: nested paging. `context`: another guest's state."""
        self.gate = HvmBenchGate()
        self.gate.mailbox.set_engine(Engine.X86_64_SHADOW if shadow_frames else Engine.X86_64_NESTED)
        self.gate.mailbox.set_shadow_frames(shadow_frames)
        self.gate.memory = self.memory = machine_with_p2m()
        self.labels: dict[str, int] = {}
        self.gate.answers[Hypercall.sched_op] = sched_op
        self.cpu = HvmCpu(self.gate)  # type: ignore[arg-type]
        self.v = self.cpu.vcpu
        self.q = self.v.cpu.q
        effects: list[EffectRecord] = [[Effect.P2M, P2M_L4], [Effect.VCPU_INFO, 0, SHARED, 0]]
        context = context or vcpu_after_reset(0, initial_registers()).pack()
        self.cpu.boot([[Effect.CONTEXT, context], *effects])

    def mfn(self, gfn: int) -> int:
        """Where a guest's frame lies in the machine."""
        return mfn_of(gfn)

    def run(self, source: str) -> None:
        """Assemble 32-bit `source` at CODE and run it from its label `start` until hypercall DONE."""
        code, self.labels = assemble(source)
        self.write(CODE, code)
        self.q[RIP] = self.labels["start"]
        self.go_on()

    def go_on(self) -> None:
        """Run slices until DONE."""
        try:
            while True:
                self.cpu.run_slice()
        except Done:
            self.v.cpu.running = False

    def write(self, gpa: int, data: bytes) -> None:
        for at in range(0, len(data), PAGE_SIZE):
            self.memory.write(self.v.paging.machine(gpa + at), data[at : at + PAGE_SIZE])

    def words(self, gpa: int, count: int) -> list[int]:
        at = self.v.paging.machine(gpa)
        return memoryview(self.memory.read(at, 8 * count)).cast("Q").tolist()

    def callback(self, vector: int = VECTOR) -> None:
        self.cpu.apply([[Effect.CALLBACK, CALLBACK_HVM_VECTOR, vector, 0]])

    @property
    def exits(self) -> dict[str, int]:
        return dict(self.v.exits)

    @property
    def counts(self) -> dict[str, int]:
        return {name: count for name, count in self.cpu.stubs.counts().items() if count}

    @property
    def pending(self) -> memoryview:
        return self.memory.view((SHARED << PAGE_SHIFT) + shared_info.offsetof("evtchn_pending"), 512)


def mfn_of(gfn: int) -> int:
    """Where the bench's guest's frames lie in the machine."""
    return 1024 + gfn * 389 % GUEST


def machine_with_p2m() -> MachineMemory:
    """The machine's memory, and in it the P2M."""
    memory = new_memory(MACHINE)
    for table, entry in ((P2M_L4, P2M_L3), (P2M_L3, P2M_L2), (P2M_L2, P2M_L1)):
        memory.page(table)[0] = entry << PAGE_SHIFT | RIGHTS
    for gfn in range(GUEST):
        memory.page(P2M_L1)[gfn] = mfn_of(gfn) << PAGE_SHIFT | RIGHTS
    memory.page(P2M_L1)[HOLE >> PAGE_SHIFT] = 0
    memory.page(P2M_L1)[READ_ONLY >> PAGE_SHIFT] &= ~PAGE_RW & (1 << 64) - 1
    return memory


def sched_op(command: int, *_: int) -> int:
    """`done32`; whatever else is asked is done."""
    if command == DONE:
        raise Done
    return 0


def initial_registers() -> hvm_hw_cpu:
    """As libxenguest's vcpu_hvm sets them: 32-bit protected mode, flat, without paging."""
    return registers_at(CODE)


_assembled: dict[str, tuple[bytes, dict[str, int]]] = {}


def assemble(source: str) -> tuple[bytes, dict[str, int]]:
    """Machine code for CODE, 32-bit at first, and the addresses of its labels."""
    if source not in _assembled:
        text = PROLOGUE + ".globl _start\n.code32\n_start:\n" + source + "\n"
        _assembled[source] = assemble_flat(text, CODE)
    return _assembled[source]
