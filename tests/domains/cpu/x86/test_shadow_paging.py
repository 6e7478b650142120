"""A guest with shadow paging does what one with nested paging does, and its page faults, control registers and flushes are exits.

The same programs run under both, and end with the same registers and the same memory. Negative control: a program whose memory
must differ (it stores its time stamp counter) is told apart.
"""

import hashlib

import pytest

from domains.cpu.x86.emulator.cpu_state import CR
from domains.cpu.x86.hvm.shadow_paging import ShadowPaging
from domains.cpu.x86.registers import CR0_TS, R8, R9, R10, R12, RBX, RSI
from hypervisor.wire.messages import Effect
from tests.domains.cpu.x86.hvm_bench import GUEST, HOLE, P2M_L1, USER_MODE, HvmBench, TripleFault

POOL = 64
A, D = 0x20, 0x40

PROGRAMS = {
    "tables": """start: long_mode
        mov $100, %ecx
        1: movq $0x51007, TABLES + 0x3000 + 8 * 0x50; invlpg 0x50000
        mov %rcx, 0x50000
        movq $0x50007, TABLES + 0x3000 + 8 * 0x50; mov %cr3, %rax; mov %rax, %cr3
        addq $1, 0x50000
        dec %ecx; jnz 1b
        done""",
    "demand": """start: long_mode
        gate 14, handler
        mov $0x50, %ecx
        1: movq $0, TABLES + 0x3000(, %rcx, 8); inc %ecx; cmp $0x60, %ecx; jb 1b
        mov %cr3, %rax; mov %rax, %cr3
        mov $0x50, %ecx
        2: mov %ecx, %ebx; shl $12, %ebx; mov %ecx, 4(%rbx); inc %ecx; cmp $0x60, %ecx; jb 2b
        done
        handler: push %rbx; mov %cr2, %rbx; shr $12, %rbx; mov %rbx, %rdx; shl $12, %rdx; or $7, %rdx
        mov %rdx, TABLES + 0x3000(, %rbx, 8); pop %rbx; add $8, %rsp; iretq""",
    "user": USER_MODE
    + """start: long_mode
        mov $0xc0000081, %ecx; xor %eax, %eax; mov $0x00180010, %edx; wrmsr
        mov $0xc0000082, %ecx; lea entry(%rip), %rax; xor %edx, %edx; wrmsr
        gate 3, end, 3
        gate 14, fault
        andq $~4, TABLES + 0x3000 + 8 * 0x52; invlpg 0x52000
        to_user user
        user: mov $7, %eax; syscall; mov %eax, 0x50000; mov %eax, 0x52000; int3
        entry: add $1, %eax; sysretq
        fault: orq $4, TABLES + 0x3000 + 8 * 0x52; add $8, %rsp; iretq
        end: done""",
    "large": """start: long_mode
        movq $0x83, TABLES + 0x2008; mov %cr3, %rax; mov %rax, %cr3
        mov 0x250000, %rbx; movb $5, 0x250100; mov 0x50100, %bl
        done""",
    "a control register at a page's end": """start: long_mode
        gate 14, end
        movl $0xd8200f, 0x51ffd; movq $0, TABLES + 0x3000 + 8 * 0x52; invlpg 0x52000
        mov $0x51ffd, %eax; jmp *%rax
        end: pop %rbx; mov %cr2, %rsi; done""",
    "CLTS at a page's end": """start: long_mode
        gate 14, end
        mov %cr0, %rax; or $8, %rax; mov %rax, %cr0
        movw $0x060f, 0x51ffe; movq $0, TABLES + 0x3000 + 8 * 0x52; invlpg 0x52000
        mov $0x51ffe, %eax; jmp *%rax
        end: pop %rbx; mov %cr0, %rsi; done""",
    "reserved: a frame beyond the machine": """start: long_mode
        gate 14, end
        movabs $0x8000000050007, %rax; mov %rax, TABLES + 0x3000 + 8 * 0x50; invlpg 0x50000
        mov 0x50000, %ecx
        end: pop %rbx; done""",
    "reserved: a large page's offset": """start: long_mode
        gate 14, end
        movq $0x2083, TABLES + 0x2008; mov %cr3, %rax; mov %rax, %cr3
        mov 0x250000, %ecx
        end: pop %rbx; done""",
    "write protect": """start: long_mode
        movq $0x50005, TABLES + 0x3000 + 8 * 0x50; invlpg 0x50000
        mov %cr0, %rax; and $~0x10000, %rax; mov %rax, %cr0
        movb $9, 0x50000
        mov %cr0, %rax; or $0x10000, %rax; mov %rax, %cr0
        gate 14, end
        movb $8, 0x50000
        end: pop %rbx; done""",
    "32 bits": """start: movl $(TABLES + 0x1007), TABLES; movl $0x40007, TABLES + 0x1000 + 4 * 0x50
        xor %ecx, %ecx
        1: mov %ecx, %eax; shl $12, %eax; or $7, %eax; mov %eax, TABLES + 0x1000(, %ecx, 4)
        inc %ecx; cmp $0x1f0, %ecx; jb 1b
        movl $0x183, TABLES + 4; movl $0x41007, TABLES + 0x1000 + 4 * 0x50
        mov $TABLES, %eax; mov %eax, %cr3; mov $0x10, %eax; mov %eax, %cr4
        mov $0x80010011, %eax; mov %eax, %cr0
        movl $77, 0x50010; mov 0x441010, %ebx; mov %cr4, %esi
        xor %eax, %eax; inc %eax; mov %eax, %cr0
        mov 0x41010, %edx
        done32""",
    "three levels": """start: movl $(TABLES + 0x1001), TABLES; movl $(TABLES + 0x2007), TABLES + 0x1000
        movl $0x83, TABLES + 0x1008; xor %ecx, %ecx
        1: mov %ecx, %eax; shl $12, %eax; or $7, %eax; mov %eax, TABLES + 0x2000(, %ecx, 8)
        inc %ecx; cmp $0x1f0, %ecx; jb 1b
        mov $TABLES, %eax; mov %eax, %cr3; mov $0x20, %eax; mov %eax, %cr4
        mov $0x80010011, %eax; mov %eax, %cr0
        movl $78, 0x250010; mov 0x50010, %ebx
        done32""",
}


def ends(source: str, frames: int) -> tuple[list[int], str]:
    """The registers and the memory in which a program ends; RAX may hold the machine's."""
    hvm = HvmBench(frames)
    hvm.run(source)
    digest = hashlib.sha256()
    for gfn in range(GUEST):
        if gfn not in (HOLE >> 12,):
            digest.update(hvm.memory.page(hvm.mfn(gfn)).tobytes())
    return [
        *(hvm.q[n] for n in range(16)),
        *(hvm.v.paging.control(n) for n in (0, 2, 3, 4)),
    ], digest.hexdigest()


@pytest.mark.parametrize("source", PROGRAMS.values(), ids=PROGRAMS)
def test_the_same_work_ends_with_the_same_memory(source: str) -> None:
    nested = ends(source, 0)
    assert ends(source, POOL) == nested
    assert ends(source, 12) == nested, "with shadows that are recycled all the time"


def test_an_instruction_that_ends_before_a_hole_is_done() -> None:
    """CLTS in the last two bytes of a page, behind which the guest has no frame."""
    hvm = HvmBench(POOL)
    hvm.run(
        """start: long_mode
        gate 13, end
        mov %cr0, %rax; or $8, %rax; mov %rax, %cr0
        movw $0x060f, HOLE - 2; mov $(HOLE - 2), %eax; jmp *%rax
        end: mov %cr0, %rsi; done"""
    )
    assert not hvm.q[RSI] & CR0_TS


def test_memory_that_differs_is_told_apart() -> None:
    source = "start: long_mode; rdtsc; mov %eax, DATA; xor %eax, %eax; xor %edx, %edx; done"
    assert ends(source, 0)[1] != ends(source, POOL)[1]


@pytest.fixture
def hvm() -> HvmBench:
    return HvmBench(POOL)


def entry(hvm: HvmBench, slot: int) -> int:
    return hvm.words(0x13000 + 8 * slot, 1)[0]


def test_accessed_and_dirty_are_the_guests(hvm: HvmBench) -> None:
    hvm.run("start: long_mode; mov 0x50000, %al; movb $1, 0x51000; done")
    assert [entry(hvm, slot) & (A | D) for slot in (0x50, 0x51, 0x52)] == [A, A | D, 0]
    for table in (0x10000, 0x11000, 0x12000):
        assert hvm.words(table, 1)[0] & (A | D) == A


def test_a_page_that_was_read_is_seen_to_be_written(hvm: HvmBench) -> None:
    hvm.run("start: long_mode; mov 0x50000, %al; nop; movb $1, 0x50000; done")
    assert entry(hvm, 0x50) & (A | D) == A | D
    assert hvm.exits["hidden fault"] > 0


def test_a_guests_fault_is_its_own_and_the_shadows_are_hidden(hvm: HvmBench) -> None:
    hvm.run(
        """start: long_mode
        gate 14, handler
        movq $0, TABLES + 0x3000 + 8 * 0x50; invlpg 0x50000
        fault: movb $1, 0x50123
        handler: mov %cr2, %r9; pop %r10; pop %r12; mov %cr3, %rbx; mov %cr4, %rsi; mov %cr0, %r8; done"""
    )
    assert (hvm.q[R9], hvm.q[R10], hvm.q[R12]) == (0x50123, 2, hvm.labels["fault"])
    assert (hvm.q[RBX], hvm.q[RSI], hvm.q[R8]) == (0x10000, 0x220, 0x80010011)
    assert hvm.q[CR + 3] != 0x10000, "the CPU's own"
    assert hvm.exits["guest's own fault"] == 1
    assert {name for name in hvm.exits if name.startswith("read")} == {"read cr3"}


def test_an_event_whose_delivery_meets_a_hole_in_the_shadows_is_delivered(hvm: HvmBench) -> None:
    """IDT, TSS and the stack that it names are not shadowed when user code executes INT3, INT n and an undefined instruction."""
    hvm.run(
        USER_MODE
        + """start: long_mode
        gate 3, handler, 3; gate 0x80, handler, 3; gate 6, undefined; gate 13, end
        .macro holes
            invlpg IDT; invlpg DATA + 0x8000; invlpg STACK_TOP - 0x4000 - 8
        .endm
        xor %ebx, %ebx
        holes
        to_user user
        user: int3; int $0x80; .byte 0xcd, 3; ud2; hlt
        handler: incl %ebx; holes; iretq
        undefined: addl $2, (%rsp); incl %ebx; holes; iretq
        end: done"""
    )
    assert hvm.q[RBX] == 4
    assert hvm.exits["event delivered again"] >= 5


def test_a_fault_in_the_delivery_of_a_fault_is_a_double_fault(hvm: HvmBench) -> None:
    hvm.run(
        USER_MODE
        + """start: long_mode
        gate 14, nothing; gate 8, double
        movw $1, IDT + 16 * 8 + 4; movb $0x8e, IDT + 16 * 8 + 5
        movq $STACK_TOP, DATA + 0x8024                  /* IST 1 */
        movq $0, TABLES + 0x3000 + 8 * 0x50; invlpg 0x50000
        mov $0x50800, %rsp
        mov 0x50000, %al
        nothing: hlt
        double: mov %cr2, %r9; mov $1, %ebx; done"""
    )
    assert hvm.q[RBX] == 1


def test_a_triple_fault_is_reported(hvm: HvmBench) -> None:
    with pytest.raises(TripleFault):
        hvm.run("start: long_mode; movq $0, TABLES + 0x3000 + 8 * 0x20; invlpg IDT; ud2")


def test_an_upcall_is_delivered_through_a_hole_in_the_shadows(hvm: HvmBench) -> None:
    hvm.callback()
    hvm.gate.mailbox.raise_port(7, 0)
    hvm.run(
        """start: long_mode
        gate VECTOR, handler
        mov $3, %ebx
        invlpg IDT; invlpg STACK_TOP - 8
        sti; 1: jmp 1b
        handler: pop %r9; done"""
    )
    assert hvm.exits["event delivered again"] >= 1


def test_a_change_of_the_p2m_reaches_the_guest(hvm: HvmBench) -> None:
    hvm.run("start: long_mode; mov 0x50000, %rbx; done; mov 0x50000, %rbx; done")
    page = hvm.memory.page(P2M_L1)
    page[0x50] = int(page[0x51])
    hvm.write(0x51000, b"moved!!!")
    hvm.cpu.apply([[Effect.FLUSH_TLB]])
    hvm.go_on()
    assert hvm.q[RBX].to_bytes(8, "little") == b"moved!!!"


def test_shadows_are_counted(hvm: HvmBench) -> None:
    hvm.run(PROGRAMS["tables"])
    assert isinstance(hvm.v.paging, ShadowPaging)
    counters = hvm.v.paging.counters
    assert (counters["CR3 write"], counters["INVLPG"]) == (101, 100)
    assert hvm.exits["write cr3"] == 101
    assert hvm.exits["page fault"] == hvm.exits["hidden fault"]
