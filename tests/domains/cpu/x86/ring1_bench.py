"""A bench for the engine of guests in ring 1: the machine and the P2M of hvm_bench, and a board with ports and an interrupt line.

The guest ends with interrupts off and HLT. The line, VECTOR, is raised when it halts with interrupts on; the byte at LINE
says so, and the guest clears it.
"""

from collections import Counter
from collections.abc import Callable, Collection
from typing import NoReturn

from domains.cpu.x86.registers import RSP
from domains.cpu.x86.ring1.engine import Ring1Cpu
from hypervisor.machine.memory import MachineMemory
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE
from tests.domains.cpu.x86.assembler import assemble_flat
from tests.domains.cpu.x86.bench import Done, GuestCrashed
from tests.domains.cpu.x86.hvm_bench import (
    CODE,
    P2M_L4,
    STACK_TOP,
    TripleFault,
    machine_with_p2m,
    mfn_of,
)

POOL = 128
SMALLEST_POOL = 42
"""With so many frames trees are recycled all the time."""
LINE, VECTOR = 0x9000, 0x20

PROLOGUE = f"""
    .set DATA, 0x40000; .set TABLES, 0x10000; .set IDT, 0x20000; .set TSS, 0x48000; .set STACK_TOP, {STACK_TOP}
    .set LINE, {LINE}; .set VECTOR, {VECTOR}
.macro done
    cli; hlt
.endm
.macro gate vector, handler, dpl=0
    movl $\\handler, %eax
    movw %ax, IDT + 8 * \\vector
    movw $8, IDT + 8 * \\vector + 2
    movw $(0x8e00 | \\dpl << 13), IDT + 8 * \\vector + 4
    shr $16, %eax
    movw %ax, IDT + 8 * \\vector + 6
.endm
.macro protected                                /* GDT, IDT, TSS, two-level tables; each page at its address */
    lgdt gdt_pointer
    lidt idt_pointer
    ljmp $8, $771f
771: mov $0x10, %eax
    mov %eax, %ds; mov %eax, %es; mov %eax, %ss
    movl $(STACK_TOP - 0x4000), TSS + 4; movl $0x10, TSS + 8
    mov $0x28, %eax
    ltr %ax
    mov $STACK_TOP, %esp
    movl $(TABLES + 0x1007), TABLES
    xor %ecx, %ecx
772: mov %ecx, %eax; shl $12, %eax; or $7, %eax
    mov %eax, TABLES + 0x1000(, %ecx, 4)
    inc %ecx
    cmp $0x1f0, %ecx
    jb 772b
    mov $TABLES, %eax
    mov %eax, %cr3
    mov $0x80010011, %eax
    mov %eax, %cr0
    jmp 773f
    .balign 8
gdt: .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00cffb000000ffff, 0x00cff3000000ffff, 0x0000890480000067, 0, 0
gdt_pointer: .word 63; .long gdt
idt_pointer: .word 2047; .long IDT
773:
.endm
.macro to_user target
    pushl $0x23; pushl $(STACK_TOP - 0x2000); pushl $0x202; pushl $0x1b; pushl $\\target
    iret
.endm
.globl _start
.code32
_start:
"""


class Board:
    """Ports that log, and the interrupt line."""

    def __init__(self, memory: MachineMemory) -> None:
        self.memory = memory
        self.written: list[tuple[int, int, int]] = []
        self.halts = 0
        self.exits: Counter[str] = Counter()
        self.seen: list[Counter[str]] = []
        """The exits so far, at each OUT."""
        self.on_out: Callable[[], object] = lambda: None

    def read_port(self, _port: int, size: int) -> int:
        return (1 << 8 * size) - 1

    def write_port(self, port: int, size: int, value: int) -> None:
        self.written.append((port, size, value))
        self.seen.append(self.exits.copy())
        self.on_out()

    @property
    def line(self) -> memoryview:
        return self.memory.view(mfn_of(LINE >> PAGE_SHIFT) << PAGE_SHIFT, 1)

    def interrupt(self) -> int | None:
        return VECTOR if self.line[0] else None

    def halt(self, *, interrupts: bool) -> None:
        if not interrupts:
            raise Done
        self.halts += 1
        self.line[0] = 1

    def triple_fault(self, report: str) -> NoReturn:
        raise TripleFault(report)

    def crash(self, reason: str) -> NoReturn:
        raise GuestCrashed(reason)


class Ring1Bench:
    """A guest on the bench; `q[RAX]` and so on are its registers."""

    def __init__(
        self, pool: int = POOL, *, traces_tables: bool = True, untranslated: Collection[str] = ()
    ) -> None:
        self.memory = machine_with_p2m()
        self.board = Board(self.memory)
        self.cpu = Ring1Cpu(self.board, P2M_L4, pool, traces_tables=traces_tables, untranslated=untranslated)
        self.v = self.cpu.vcpu
        self.board.exits = self.v.exits
        self.q = self.v.cpu.q
        self.labels: dict[str, int] = {}

    def write(self, gpa: int, data: bytes) -> None:
        for at in range(0, len(data), PAGE_SIZE):
            self.memory.write(self.v.paging.machine(gpa + at), data[at : at + PAGE_SIZE])

    def word(self, gpa: int) -> int:
        return int.from_bytes(self.memory.read(self.v.paging.machine(gpa), 4), "little")

    def run(self, source: str) -> None:
        """Assemble `source` at CODE and run it from label `start` until it ends."""
        self.load(source)
        self.go_on()

    def load(self, source: str) -> None:
        """It is about to begin."""
        code, self.labels = assembled(source)
        self.load_image(code, self.labels["start"])

    def load_image(self, image: bytes, entry: int = CODE) -> None:
        """This one, for CODE, is."""
        self.write(CODE, image)
        self.cpu.start(entry)
        self.q[RSP] = STACK_TOP

    def go_on(self) -> None:
        """Run slices until the guest ends."""
        try:
            while True:
                self.cpu.run_slice()
        except Done:
            self.v.cpu.running = False

    @property
    def exits(self) -> dict[str, int]:
        return dict(self.v.exits)


_assembled: dict[str, tuple[bytes, dict[str, int]]] = {}


def assembled(source: str) -> tuple[bytes, dict[str, int]]:
    """Machine code for CODE, and its symbols."""
    if source not in _assembled:
        _assembled[source] = assemble_flat(PROLOGUE + source + "\n", CODE)
    return _assembled[source]
