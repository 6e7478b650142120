"""SMSW by its operand in memory, other exits whose instruction must be looked at, and stores to CR0 that are refused.

With nested paging the CPU does SMSW by itself, with shadow paging that is an exit as soon as the guest's CR0 is not the CPU's.
"""

import pytest

from domains.cpu.x86.registers import R9, R10, RBX, RDI, RSI
from tests.domains.cpu.x86.hvm_bench import HvmBench

EXITS = """
    .macro exits
        mov %cr0, %rax; btr $16, %rax; mov %rax, %cr0       /* without WP */
    .endm
"""


@pytest.fixture(params=[0, 64], ids=["nested", "shadow"])
def guest(request: pytest.FixtureRequest) -> HvmBench:
    """With either way of paging."""
    return HvmBench(request.param)


class TestMachineStatusWord:
    """As SMSW stores it, which user code may do."""

    @pytest.mark.parametrize(("ring", "error"), [(1, 2), (3, 6)])
    def test_a_page_that_is_not_there_is_told_with_who_wanted_it(
        self, guest: HvmBench, ring: int, error: int
    ) -> None:
        guest.run(
            EXITS
            + f"""start: long_mode; exits; gate 14, handler; movl $0, TABLES + 0x3000 + 8 * 0x50; invlpg 0x50000
            movb ${0x93 | ring << 5}, gdt + 0x25; movb ${0x9B | ring << 5}, gdt + 0x2d
            push ${0x20 | ring}; push $(STACK_TOP - 0x2000); push $2; push ${0x28 | ring}; push $fault; iretq
            fault: smsw 0x50000
            handler: pop %r9; pop %r10; mov %cr2, %rbx; done"""
        )
        assert (guest.q[R9], guest.q[R10], guest.q[RBX]) == (error, guest.labels["fault"], 0x50000)

    @pytest.mark.parametrize(("register", "vector"), [("rbx", 13), ("rbp", 12)])
    def test_no_page_can_be_at_an_address_that_is_not_canonical(
        self, guest: HvmBench, register: str, vector: int
    ) -> None:
        guest.run(
            EXITS
            + f"""start: long_mode; exits; gate 14, handler; gate {vector}, right; mov $1, %{register}; ror $1, %{register}
            fault: smsw (%{register})
            right: pop %r9; pop %r10; mov $7, %edi
            handler: done"""
        )
        assert (guest.q[RDI], guest.q[R9], guest.q[R10]) == (7, 0, guest.labels["fault"])

    def test_it_goes_through_a_segment_of_32_bit_code(self, guest: HvmBench) -> None:
        guest.run(
            EXITS
            + """start: lgdt pointer; mov $8, %eax; mov %eax, %ds
            mov $0xffffff00, %ebx; smsw 0x110(%ebx); xor %edi, %edi; mov %es:DATA + 0x10, %di; done32
            .balign 8
            table: .quad 0, 0x00cf93000000ffff | DATA << 16
            pointer: .word 15; .long table"""
        )
        assert guest.q[RDI] == 0x11

    def test_the_page_is_accessed_and_dirty(self, guest: HvmBench) -> None:
        guest.run(
            EXITS
            + """start: long_mode; exits; andb $~0x60, TABLES + 0x3000 + 8 * 0x50; invlpg 0x50000
            smsw 0x50000; mov TABLES + 0x3000 + 8 * 0x50, %ebx; done"""
        )
        assert guest.q[RBX] & 0x60 == 0x60

    def test_on_two_pages_it_is_stored_whole_or_not_at_all(self, guest: HvmBench) -> None:
        guest.run(
            EXITS
            + """start: long_mode; exits; gate 14, handler; movl $0, TABLES + 0x3000 + 8 * 0x50; invlpg 0x50000
            movb $7, 0x4ffff; smsw 0x4ffff
            handler: mov %cr2, %rbx; movzb 0x4ffff, %edi; done"""
        )
        assert (guest.q[RBX], guest.q[RDI]) == (0x50000, 7)

    def test_it_may_be_code(self, guest: HvmBench) -> None:
        guest.run(
            EXITS
            + """start: long_mode; exits; xor %eax, %eax; call code; smsw code + 2; call code; mov %rax, %rbx; done
            .balign 4096
            code: mov $1, %ax; ret"""
        )
        assert guest.q[RBX] == 0x11


@pytest.mark.parametrize("instruction", ["mov %cr3, %rax", "invlpg 0x60000"])
def test_an_exit_by_code_that_is_mapped_no_more(instruction: str) -> None:
    """The CPU may still have what it was translated to; the shadow went with a hidden fault."""
    guest = HvmBench(64)
    guest.run(
        EXITS
        + f"""start: long_mode; exits; gate 14, handler; jmp code
        .balign 4096
        code: call there; movl $0, TABLES + 0x3000 + 8 * 0x101; mov 0x61000, %al
        fault: {instruction}; done
        .balign 4096
        there: ret
        handler: pop %r9; pop %r10; mov %cr2, %rbx; done"""
    )
    assert (guest.q[R9] & ~0x10, guest.q[R10], guest.q[RBX]) == (
        0,
        guest.labels["fault"],
        guest.labels["fault"],
    )


class TestWhatNoCr0CanBe:
    @pytest.mark.parametrize("value", ["0xa0010011", "0x80010010", "0x180010011"])
    def test_is_refused(self, guest: HvmBench, value: str) -> None:
        guest.run(
            f"""start: long_mode; gate 13, handler; mov %cr0, %rdi; mov ${value}, %rax
            fault: mov %rax, %cr0
            handler: pop %r9; pop %r10; mov %cr0, %rbx; done"""
        )
        assert (guest.q[R9], guest.q[R10], guest.q[RBX]) == (0, guest.labels["fault"], guest.q[RDI])

    def test_long_mode_needs_pae(self, guest: HvmBench) -> None:
        guest.run(
            """start: lgdt pointer; lidt idt; mov $STACK_TOP, %esp
            mov $handler, %eax; mov %ax, IDT + 8 * 13; movw $8, IDT + 8 * 13 + 2
            movw $0x8e00, IDT + 8 * 13 + 4; movw $(CODE >> 16), IDT + 8 * 13 + 6
            mov $0xc0000080, %ecx; rdmsr; or $0x100, %eax; wrmsr
            mov %cr0, %eax; bts $31, %eax
            fault: mov %eax, %cr0
            handler: pop %esi; pop %edi; done32
            .balign 8
            table:   .quad 0, 0x00cf9b000000ffff
            pointer: .word 15; .long table
            idt:     .word 4095; .long IDT"""
        )
        assert (guest.q[RSI], guest.q[RDI]) == (0, guest.labels["fault"])

    def test_without_a_cache_it_may_be_written_through(self, guest: HvmBench) -> None:
        guest.run("start: long_mode; mov $0xe0010011, %eax; mov %rax, %cr0; mov %cr0, %rbx; done")
        assert guest.q[RBX] == 0xE0010011
