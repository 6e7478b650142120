"""Accesses of a guest to memory that is not there, carried out in the CPU's place: the CPU itself is asked what is right, by the
same instruction on memory full of ones. And limits of segments, which Unicorn does not check where something is found.
"""

import pytest

from domains.cpu.x86.registers import RBX, RCX, RDI, RSI, U32
from tests.domains.cpu.x86.hvm_bench import BOOT, DATA, READ_ONLY, HvmBench

INSTRUCTIONS = [
    *("mov (%rdi), %rax", "movb (%rdi), %al", "movzbl (%rdi), %eax", "movzwl (%rdi), %eax"),
    *("movsbl (%rdi), %eax", "movsbq (%rdi), %rax", "movsbw (%rdi), %ax", "movslq (%rdi), %rax"),
    *("mov %rcx, (%rdi)", "movw $5, (%rdi)"),
    *(
        "andl $0x10, (%rdi)",
        "lock orq %rcx, (%rdi)",
        "xorb $0x7f, (%rdi)",
        "xorl $-1, (%rdi)",
        "andb %al, (%rdi)",
    ),
    *("testl $0x80000000, (%rdi)", "testb %cl, (%rdi)", "testq %rax, (%rdi)"),
    *(
        "addl %ecx, (%rdi)",
        "lock addq $1, (%rdi)",
        "addb $0x80, (%rdi)",
        "subw $0x7fff, (%rdi)",
        "subl %eax, (%rdi)",
    ),
    *("cmpl $-1, (%rdi)", "cmpl %ecx, (%rdi)", "cmpb $0x7f, (%rdi)", "cmpq %rax, (%rdi)"),
    *("btl $3, (%rdi)", "bt %rdx, (%rdi)", "btsq $63, (%rdi)", "lock btrl $0, (%rdi)", "btcw $9, (%rdi)"),
    *("xchg %rax, (%rdi)", "xchg %cl, (%rdi)", "lock cmpxchg %ecx, (%rdi)", "lock cmpxchg8b (%rdi)"),
]
RESULTS = DATA + 0x1000
TRY = f"""
    .macro try at, place
        movq $-1, DATA
        mov $\\at, %edi; movabs $0x1122334455667788, %rax; movabs $0x80000001, %rcx; mov $5, %edx; mov $0x700, %ebx
        push $0x8d7; popfq
        tried
        pushfq; pop %r8
        mov %rax, {RESULTS} + \\place; mov %rcx, {RESULTS} + 8 + \\place
        mov %rdx, {RESULTS} + 16 + \\place; mov %r8, {RESULTS} + 24 + \\place
    .endm
"""


@pytest.fixture(params=[0, 64], ids=["nested", "shadow"])
def guest(request: pytest.FixtureRequest) -> HvmBench:
    return HvmBench(request.param)


def test_what_is_done_in_the_cpus_place_ends_as_the_cpu_does_it(guest: HvmBench) -> None:
    tries = "".join(
        f".purgem tried\n .macro tried\n {instruction}\n .endm\n try DATA, {64 * n}\n try HOLE, {64 * n + 32}\n"
        for n, instruction in enumerate(INSTRUCTIONS)
    )
    guest.run(f"{TRY}\n .macro tried\n .endm\n start: long_mode\n{tries} done")
    for n, instruction in enumerate(INSTRUCTIONS):
        words = guest.words(RESULTS + 64 * n, 8)
        assert words[4:] == words[:4], instruction
    assert guest.exits["no device"] == len(INSTRUCTIONS)


def test_memory_that_cannot_be_written_is_read_and_stays(guest: HvmBench) -> None:
    guest.write(READ_ONLY, (0x30).to_bytes(8, "little"))
    guest.run("start: long_mode; orl $1, READ_ONLY; sets %bl; cmpl $0x30, READ_ONLY; sete %bh; done")
    assert guest.q[RBX] & 0xFFFF == 0x100
    assert guest.words(READ_ONLY, 1) == [0x30]


@pytest.mark.parametrize(
    "instruction", ["mov %ds, HOLE", "movq %xmm0, HOLE", "and HOLE, %eax", "movsl", "incl HOLE"]
)
def test_what_is_not_known_is_a_fault_of_the_guests(guest: HvmBench, instruction: str) -> None:
    guest.run(
        f"start: long_mode; gate 13, handler; mov $HOLE, %esi; mov $DATA, %edi; {instruction}; done; handler: mov $1, %ebx; done"
    )
    assert guest.q[RBX] == 1
    assert guest.exits | BOOT == guest.exits


GATES_32 = """
    .macro gate32 vector, handler
        mov $\\handler, %eax; mov %ax, IDT + 8 * \\vector
        movw $8, IDT + 8 * \\vector + 2; movw $0x8e00, IDT + 8 * \\vector + 4
        shr $16, %eax; mov %ax, IDT + 8 * \\vector + 6
    .endm
    .macro limited                              /* 32-bit code, flat but for ES, which ends at 4 MiB as SS does */
        lgdt pointer; lidt idt
        ljmp $8, $1f
1:      mov $0x10, %eax; mov %eax, %ds
        mov $0x18, %eax; mov %eax, %es; mov %eax, %ss
        mov $STACK_TOP, %esp
        gate32 12, stack; gate32 13, protection; gate32 14, page
    .endm
    .macro paged                                /* 4 MiB at their places, and nothing above */
        movl $0x83, TABLES
        mov %cr4, %eax; or $0x10, %eax; mov %eax, %cr4
        mov $TABLES, %eax; mov %eax, %cr3
        mov %cr0, %eax; or $0x80000000, %eax; mov %eax, %cr0
    .endm
    .macro handlers
stack:      mov $12, %eax; jmp 2f
protection: mov $13, %eax; jmp 2f
page:       mov $14, %eax
2:          pop %esi; pop %edi; mov %eax, %ecx; done32
        .balign 8
descriptors: .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00c09300000003ff
pointer:    .word 31; .long descriptors
idt:        .word 255; .long IDT
    .endm
"""


@pytest.mark.parametrize("paged", ["", "paged"], ids=["no memory", "no page"])
@pytest.mark.parametrize(
    ("instruction", "vector"),
    [
        ("mov %es:0x800000, %eax", 13),
        ("movb $1, %es:0x800000(%ebx)", 13),
        ("mov 0x800000(%esp), %eax", 12),
        ("mov %ss:0x800000, %eax", 12),
    ],
)
def test_an_access_behind_a_segments_limit_is_its_fault(
    guest: HvmBench, paged: str, instruction: str, vector: int
) -> None:
    guest.run(
        f"{GATES_32}\n start: limited; {paged}; xor %ebx, %ebx\n fault: {instruction}\n done32\n handlers"
    )
    assert (guest.q[RCX], guest.q[RSI], guest.q[RDI]) == (vector, 0, guest.labels["fault"])


def test_control_within_the_limit_it_is_a_page_fault(guest: HvmBench) -> None:
    guest.run(f"{GATES_32}\n start: limited; paged\n fault: mov 0x800000, %eax\n done32\n handlers")
    assert (guest.q[RCX], guest.q[RDI]) == (14, guest.labels["fault"])


def test_control_without_a_limit_ones_are_read(guest: HvmBench) -> None:
    guest.run(f"{GATES_32}\n start: limited\n mov 0x800000, %eax; mov %eax, %ecx; done32\n handlers")
    assert guest.q[RCX] == U32
