"""What faults in a guest with nested paging as on the processor that it sees, where Unicorn by itself would do otherwise."""

import pytest

from domains.cpu.x86.hvm.context import save_registers
from domains.cpu.x86.hvm.lapic import LocalApic
from domains.cpu.x86.registers import CR0_EM as EM
from domains.cpu.x86.registers import CR0_MP as MP
from domains.cpu.x86.registers import CR0_TS as TS
from domains.cpu.x86.registers import CR4_OSFXSR, R8, R9, R10, R12, RBX, RDI
from domains.cpu.x86.registers import XEC_EXT as EXTERNAL
from tests.domains.cpu.x86.hvm_bench import TABLES, TSS32, USER_MODE, VECTOR, HvmBench, TripleFault


@pytest.fixture(params=[0, 64], ids=["nested", "shadow"])
def guest(request: pytest.FixtureRequest) -> HvmBench:
    """With either way of paging: under shadow paging the first delivery is broken off, for the shadow is empty."""
    return HvmBench(request.param)


class TestControlRegisters:
    @pytest.mark.parametrize("bit", [6, 11, 13, 16, 20, 63])
    def test_bits_of_cr4_that_are_not_advertised_cannot_be_set(self, hvm: HvmBench, bit: int) -> None:
        hvm.run(
            f"""start: long_mode; gate 13, handler
            mov %cr4, %rax; mov %rax, %r8; bts ${bit}, %rax
            fault: mov %rax, %cr4
            handler: pop %r9; pop %r10; mov %cr4, %r12; done"""
        )
        assert (hvm.q[R9], hvm.q[R10]) == (0, hvm.labels["fault"])
        assert hvm.q[R12] == hvm.q[R8]

    def test_those_that_are_can(self, hvm: HvmBench) -> None:
        hvm.run("start: long_mode; mov %cr4, %r10; bts $7, %r10; mov %r10, %cr4; mov %cr4, %r9; done")
        assert hvm.q[R9] == 0x2A0

    def test_long_mode_keeps_pae(self, hvm: HvmBench) -> None:
        hvm.run(
            """start: long_mode; gate 13, handler; mov %cr4, %rax; btr $5, %rax
            fault: mov %rax, %cr4
            handler: pop %r9; pop %r10; done"""
        )
        assert (hvm.q[R9], hvm.q[R10]) == (0, hvm.labels["fault"])


INTERRUPTS = [
    *(("int $0x40", 0x40), (".byte 0x67, 0xcd, 0x40", 0x40), (".byte 0x2e, 0x67, 0xcd, 0x40", 0x40)),
    *(
        ("int3", 3),
        (".byte 0x67, 0xcc", 3),
        (".byte 0xcd, 3", 3),
        (".byte 0x67, 0xcd, 3", 3),
        ("int $0xcc", 0xCC),
    ),
]
"""In every length that rip may be behind them."""
ICEBPS = [".byte 0xf1", ".byte 0x67, 0xf1", ".byte 0x2e, 0x66, 0x48, 0xf1"]


class TestControlRegistersByAnyInstruction:
    @pytest.mark.parametrize("prefix", ["", ".byte 0x66; ", ".byte 0x2e, 0xf3; "])
    def test_prefixes_that_say_nothing_change_nothing(self, guest: HvmBench, prefix: str) -> None:
        guest.run(
            f"""start: long_mode; mov %cr0, %rax; or $8, %rax; {prefix}mov %rax, %cr0
            mov %cr0, %r8; {prefix}clts; {prefix}mov %cr0, %r9
            mov %cr4, %r10; bts $7, %r10; {prefix}.byte 0x41, 0x0f, 0x22, 0xe2; {prefix}mov %cr4, %r12
            {prefix}mov %cr3, %rbx; {prefix}mov %rbx, %cr3; done"""
        )
        assert (guest.q[R8] & TS, guest.q[R9] & TS) == (TS, 0)
        assert (guest.q[R12], guest.q[RBX]) == (guest.q[R10], TABLES)

    def test_lock_makes_them_undefined(self, guest: HvmBench) -> None:
        guest.run(
            "start: long_mode; gate 6, handler; .byte 0xf0, 0x0f, 0x22, 0xe0; handler: mov $6, %ebx; done"
        )
        assert guest.q[RBX] == 6

    @pytest.mark.parametrize("segment", ["", "%es:"])
    def test_the_machine_status_word_in_memory(self, guest: HvmBench, segment: str) -> None:
        guest.run(
            f"""start: long_mode; movq $0, DATA; smsw {segment}DATA; mov DATA, %r9
            movw $9, DATA; lmsw {segment}DATA; mov %cr0, %r8; clts; done"""
        )
        assert (guest.q[R9], guest.q[R8] & 0xF) == (0x11, 9)

    @pytest.mark.parametrize(("instruction", "error"), [("lmsw 0x50000", 0), ("smsw 0x50000", 2)])
    def test_the_machine_status_word_where_there_is_no_page(
        self, guest: HvmBench, instruction: str, error: int
    ) -> None:
        guest.run(
            f"""start: long_mode; gate 14, handler; movl $0, TABLES + 0x3000 + 8 * 0x50; invlpg 0x50000
            fault: {instruction}
            handler: pop %r9; pop %r10; mov %cr2, %rbx; done"""
        )
        assert (guest.q[R9], guest.q[R10], guest.q[RBX]) == (error, guest.labels["fault"], 0x50000)

    def test_a_hypercall_page_beyond_any_memory_is_refused(self, guest: HvmBench) -> None:
        guest.run(
            """start: long_mode; gate 13, handler
            mov $0x40000000, %ecx; mov $0x60000, %eax; mov $0x80000000, %edx
            fault: wrmsr
            handler: pop %r9; pop %r10; done"""
        )
        assert (guest.q[R9], guest.q[R10]) == (0, guest.labels["fault"])


RING_3 = """
    .macro ring_3 esp0, ss0                     /* to 32-bit user code behind this, with handlers but without an LTR */
    .code32
        mov $handler, %eax
        .irp vector, 6, 13, 0x40
            mov %ax, IDT + 8 * \\vector; movw $8, IDT + 8 * \\vector + 2; movw $0xee00, IDT + 8 * \\vector + 4
            movw $(CODE >> 16), IDT + 8 * \\vector + 6
        .endr
        lgdt pointer; lidt idt; movl $\\esp0, 4; movl $\\ss0, 8
        mov $STACK_TOP, %esp
        push $0x23; push $STACK_TOP - 0x2000; push $2; push $0x1b; push $user
        iret
        .balign 8
    table:   .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00cffb000000ffff, 0x00cff3000000ffff
    pointer: .word 39; .long table
    idt:     .word 4095; .long IDT
    .endm
"""


class TestWithoutATaskOfItsOwn:
    """TR at the start is a busy 32-bit TSS at 0. A failure ends the whole test process."""

    @pytest.mark.parametrize("instruction", ["ud2", "cli", "int $0x40"])
    def test_user_code_s_exceptions_find_no_stack(self, guest: HvmBench, instruction: str) -> None:
        with pytest.raises(TripleFault):
            guest.run(RING_3 + f"start: ring_3 0, 0; user: {instruction}; handler: done32")

    @pytest.mark.parametrize("instruction", ["ud2", "cli", "int $0x40"])
    def test_or_the_one_that_is_there(self, guest: HvmBench, instruction: str) -> None:
        guest.run(
            RING_3 + f"start: ring_3 0x85000, 0x10; user: {instruction}; handler: mov %esp, %edi; done32"
        )
        assert guest.q[RDI] & -0x20 == 0x84FE0

    def test_a_null_selector_is_none(self, guest: HvmBench) -> None:
        guest.run(
            """start: long_mode; gate 13, handler; xor %eax, %eax
            fault: ltr %ax
            handler: pop %r9; pop %r10; str %ebx; done"""
        )
        assert (guest.q[R9], guest.q[R10], guest.q[RBX]) == (0, guest.labels["fault"], 0x30)

    def test_what_is_saved_is_a_task_that_runs(self, guest: HvmBench) -> None:
        assert save_registers(guest.v).tr_arbytes == TSS32


class TestSoftwareInterrupts:
    """What goes wrong when an INT n is delivered is a fault of that instruction."""

    @pytest.mark.parametrize(("instruction", "vector"), INTERRUPTS)
    def test_one_that_user_space_may_not_make_faults_at_itself(
        self, guest: HvmBench, instruction: str, vector: int
    ) -> None:
        guest.run(
            USER_MODE
            + f"""start: long_mode; gate {vector}, end; gate 13, handler
            to_user user
            user: nop
            fault: {instruction}
            end: done
            handler: pop %r9; pop %r10; done"""
        )
        assert (guest.q[R9], guest.q[R10]) == (8 * vector + 2, guest.labels["fault"])

    @pytest.mark.parametrize(("instruction", "vector"), INTERRUPTS)
    def test_a_gate_that_is_not_present_is_told_by_its_number(
        self, guest: HvmBench, instruction: str, vector: int
    ) -> None:
        guest.run(
            f"""start: long_mode; gate {vector}, end; andb $0x7f, IDT + 16 * {vector} + 5; gate 11, handler
            fault: {instruction}
            end: done
            handler: pop %r9; pop %r10; done"""
        )
        assert (guest.q[R9], guest.q[R10]) == (8 * vector + 2, guest.labels["fault"])

    @pytest.mark.parametrize("instruction", ICEBPS)
    def test_icebp_is_a_debug_exception_behind_itself(self, guest: HvmBench, instruction: str) -> None:
        guest.run(
            f"""start: long_mode; gate 1, handler
            {instruction}
            behind: done
            handler: pop %r9; done"""
        )
        assert guest.q[R9] == guest.labels["behind"]
        assert "#UD" not in guest.counts

    @pytest.mark.parametrize("instruction", ICEBPS)
    def test_one_that_cannot_be_delivered_is_told_at_its_beginning(
        self, guest: HvmBench, instruction: str
    ) -> None:
        guest.run(
            f"""start: long_mode; gate 1, end; andb $0x7f, IDT + 16 + 5; gate 11, handler
            fault: {instruction}
            end: done
            handler: pop %r9; pop %r10; done"""
        )
        assert (guest.q[R9], guest.q[R10]) == (8 + 2 + EXTERNAL, guest.labels["fault"])

    def test_the_next_exception_is_told_where_it_is(self, guest: HvmBench) -> None:
        """An ICEBP whose delivery was broken off leaves nothing behind."""
        guest.run(
            """start: long_mode; gate 1, end; andb $0x7f, IDT + 16 + 5; gate 11, first; gate 6, second
            .byte 0xf1
            end: done
            first: pop %rax; pop %rax
            fault: ud2
            second: pop %r10; done"""
        )
        assert guest.q[R10] == guest.labels["fault"]

    def test_lock_makes_icebp_undefined(self, guest: HvmBench) -> None:
        guest.run(
            """start: long_mode; gate 6, handler
            fault: .byte 0xf0, 0xf1
            handler: pop %r9; done"""
        )
        assert guest.q[R9] == guest.labels["fault"]

    @pytest.mark.parametrize("instruction", [text for text, _ in INTERRUPTS if "0xcc" not in text])
    def test_one_that_is_delivered_returns_behind_itself(self, guest: HvmBench, instruction: str) -> None:
        guest.run(
            f"""start: long_mode; gate 0x40, handler; gate 3, handler
            {instruction}
            behind: done
            handler: pop %r9; done"""
        )
        assert guest.q[R9] == guest.labels["behind"]


class TestEventsThatCannotBeDelivered:
    """The error code of a fault in the delivery of an event says so, unless the event is an INT n (Intel SDM vol. 3A §6.13)."""

    @pytest.mark.parametrize(
        ("vector", "code", "error"),
        [(0, "xor %ecx, %ecx; fault: div %ecx", 0x8), (6, "fault: ud2", 6 * 8 + 2 + EXTERNAL)],
        ids=["double fault", "#UD"],
    )
    def test_by_an_exception(self, guest: HvmBench, vector: int, code: str, error: int) -> None:
        double = error == 8
        guest.run(
            f"""start: long_mode; gate {vector}, end; andb $0x7f, IDT + 16 * {vector} + 5
            gate 11, absent; gate 8, twice
            {code}
            end: done
            absent: pop %r9; pop %r10; done
            twice: pop %rax; mov $8, %r9d; pop %r10; done"""
        )
        assert guest.q[R9] == (8 if double else error)
        assert guest.q[R10] == guest.labels["fault"]

    def test_by_an_interrupt(self, guest: HvmBench) -> None:
        guest.callback()
        guest.pending[0] = 1
        guest.v.events.set_pending(9)
        guest.run(
            """start: long_mode; gate VECTOR, end; andb $0x7f, IDT + 16 * VECTOR + 5; gate 11, absent
            sti
            end: jmp end
            absent: pop %r9; done"""
        )
        assert guest.q[R9] == 8 * VECTOR + 2 + EXTERNAL


class TestCpuidFaulting:
    """Each HVM guest of Xen's can forbid CPUID to its user space, whatever the processor (MSR_MISC_FEATURES_ENABLES)."""

    def test_user_space_gets_a_fault_at_the_instruction_once_it_is_switched_on(self, guest: HvmBench) -> None:
        guest.run(
            USER_MODE
            + """start: long_mode; gate 13, handler
            mov $0xce, %ecx; rdmsr; mov %eax, %ebx
            mov $0x140, %ecx; mov $1, %eax; xor %edx, %edx; wrmsr
            xor %eax, %eax; cpuid; mov %eax, %r12d
            to_user user
            user: nop
            fault: cpuid
            handler: pop %r9; pop %r10; mov $0x140, %ecx; rdmsr; mov %eax, %r8d; done"""
        )
        assert (guest.q[R9], guest.q[R10], guest.q[R8]) == (0, guest.labels["fault"], 1)
        assert guest.q[R12] == 0xD, "the kernel's goes through"

    @pytest.mark.parametrize(("value", "faults"), [(0, False), (2, True), (3, True)])
    def test_it_can_be_switched_off_and_nothing_else_can_be_set(
        self, guest: HvmBench, value: int, faults: bool
    ) -> None:
        guest.run(
            USER_MODE
            + f"""start: long_mode; gate 13, handler; gate 6, over
            mov $0x140, %ecx; mov $1, %eax; xor %edx, %edx; wrmsr
            mov ${value}, %eax; wrmsr
            to_user user
            user: xor %eax, %eax; cpuid; mov %eax, %r12d; ud2
            handler: mov $1, %r9d
            over: done"""
        )
        assert (guest.q[R9] == 1, guest.q[R12] == 0xD) == (faults, not faults)


class TestInPlaceOfAnother:
    """Where Unicorn raises another exception than a processor."""

    @pytest.mark.parametrize(
        ("cr0", "osfxsr", "instruction", "vector"),
        [
            (TS, True, "movups %xmm0, %xmm0", 7),
            (TS, True, "movq %mm0, %mm0", 7),
            (TS | EM, True, "movups %xmm0, %xmm0", 6),
            (TS | EM | MP, True, "movq %mm0, %mm0", 6),
            (TS | EM, True, "emms", 6),
            (TS, False, "movups %xmm0, %xmm0", 6),
            (TS, False, "movq %mm0, %mm0", 7),
            (TS | EM, True, "fnop", 7),
            (TS | EM, False, "fld1", 7),
            (TS | MP, False, "fwait", 7),
            (TS | EM, True, "fxsave DATA", 7),
        ],
    )
    def test_sse_that_is_off_is_undefined_before_it_is_not_available(
        self, guest: HvmBench, cr0: int, osfxsr: bool, instruction: str, vector: int
    ) -> None:
        guest.run(
            f"""start: long_mode; gate 6, undefined; gate 7, absent
            mov %cr4, %rax; and ${-1 if osfxsr else ~CR4_OSFXSR}, %rax; mov %rax, %cr4
            mov %cr0, %rax; or ${cr0}, %rax; mov %rax, %cr0
            fault: {instruction}
            done
            undefined: mov $6, %r9d; pop %r10; done
            absent: mov $7, %r9d; pop %r10; done"""
        )
        assert (guest.q[R9], guest.q[R10]) == (vector, guest.labels["fault"])

    @pytest.mark.parametrize(
        ("instruction", "vector"),
        [
            ("mov (%rsp), %eax", 12),
            ("mov 8(%rbp, %rdx), %eax", 12),
            ("mov %es:(%rbp), %eax", 12),
            ("push %rax", 12),
            ("mov (%rcx), %eax", 13),
            ("mov %gs:(%rbp), %eax", 13),
        ],
    )
    def test_a_stack_address_that_is_not_canonical_is_a_stack_fault(
        self, guest: HvmBench, instruction: str, vector: int
    ) -> None:
        """The stack is the TSS', for the guest's own cannot take a frame."""
        guest.run(
            f"""start: long_mode; gate 12, stack; gate 13, other; xor %edx, %edx
            movq $STACK_TOP - 0x1000, DATA + 0x8024; movb $1, IDT + 16 * 12 + 4; movb $1, IDT + 16 * 13 + 4
            movabs $0x8000000040000000, %rbp; mov %rbp, %rcx; mov %rbp, %rsp
            fault: {instruction}
            stack: mov $12, %ebx; pop %r9; pop %r10; done
            other: mov $13, %ebx; pop %r9; pop %r10; done"""
        )
        assert (guest.q[RBX], guest.q[R9], guest.q[R10]) == (vector, 0, guest.labels["fault"])


def test_errors_of_the_local_apic_are_shown_when_its_register_is_written() -> None:
    """Sending an illegal vector, and being told of it by another (XSA-462)."""
    apic = LocalApic(0)
    apic.write(0x370, 0xF)
    apic.write(0x300, 0xF)
    assert apic.read(0x280) == 0
    apic.write(0x280, 0)
    assert apic.read(0x280) == 0x60
    apic.write(0x300, 0x4500)  # INIT has no vector
    apic.write(0x280, 0)
    assert apic.read(0x280) == 0
