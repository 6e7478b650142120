"""A guest with nested paging does what a CPU can do by itself, and exits for what only Xen can.

`exits` counts by cause what came to Python, `counts` what machine code did. The bench's P2M scrambles frames, so that what skips
it is seen. Negative control: an access that the P2M forbids comes to Python and is counted (the last test of TestNative).
"""

import pytest

from domains.cpu.x86.registers import R8, R9, R10, R12, R13, R14, R15, RBP, RBX, RCX, RDX, RSP
from hypervisor.public.errno import Errno
from hypervisor.public.xen import Hypercall, shared_info
from hypervisor.wire.messages import Effect
from tests.domains.cpu.x86.hvm_bench import BOOT, SHARED, STACK_TOP, USER_MODE, HvmBench, TripleFault

U64 = (1 << 64) - 1
PENDING = shared_info.offsetof("evtchn_pending")
"""At the same place in both layouts."""


class TestNative:
    """No exit."""

    def test_a_page_fault_of_the_kernel_goes_to_its_own_idt(self, hvm: HvmBench) -> None:
        hvm.run(
            """start: long_mode
            gate 14, handler
            movq $0, TABLES + 0x3000 + 8 * 0x50; invlpg 0x50000
            mov $1, %r8d
            fault: movb $1, 0x50123
            handler: mov %cr2, %r9; pop %r10; pop %r12; done"""
        )
        assert (hvm.q[R9], hvm.q[R10]) == (0x50123, 2)
        assert hvm.exits == BOOT
        assert hvm.counts == {"#PF": 1}

    def test_a_page_that_the_kernel_maps_in_its_fault_handler_is_used_at_once(self, hvm: HvmBench) -> None:
        hvm.run(
            """start: long_mode
            gate 14, handler
            movq $0, TABLES + 0x3000 + 8 * 0x50; invlpg 0x50000
            movb $7, 0x50123
            mov 0x50123, %bl
            done
            handler: movq $0x50007, TABLES + 0x3000 + 8 * 0x50; add $8, %rsp; iretq"""
        )
        assert hvm.q[RBX] & 0xFF == 7
        assert hvm.exits == BOOT
        assert hvm.v.paging.read(0x50123, 1) == b"\7"

    def test_stores_to_page_tables_and_loads_of_cr3_are_the_cpus(self, hvm: HvmBench) -> None:
        hvm.run(
            """start: long_mode
            mov $100, %ecx
            1: movq $0x51007, TABLES + 0x3000 + 8 * 0x50; invlpg 0x50000
            mov %rcx, 0x50000
            movq $0x50007, TABLES + 0x3000 + 8 * 0x50; mov %cr3, %rax; mov %rax, %cr3
            dec %ecx; jnz 1b
            mov 0x51000, %rbx
            done"""
        )
        assert hvm.q[RBX] == 1
        assert hvm.exits == BOOT

    def test_a_system_call_enters_the_kernel_and_sysret_goes_back(self, hvm: HvmBench) -> None:
        hvm.run(
            USER_MODE
            + """start: long_mode
            mov $0xc0000081, %ecx; xor %eax, %eax; mov $0x00180010, %edx; wrmsr
            mov $0xc0000082, %ecx; lea entry(%rip), %rax; xor %edx, %edx; wrmsr
            mov $0xc0000084, %ecx; mov $0x200, %eax; wrmsr
            gate 3, end, 3
            to_user user
            user: std; stc; mov $5, %eax; syscall
            after: mov %eax, %ebx; pushfq; pop %r14; cld; mov %cs, %r15d; int3
            entry: mov %rcx, %r9; mov %r11, %r10; pushfq; pop %r12; mov %cs, %r13d; add $1, %eax; sysretq
            end: done"""
        )
        assert hvm.q[RBX] == 6
        assert hvm.q[R9] == hvm.labels["after"]
        assert hvm.q[R10] & 0x601 == 0x601, "R11 holds the caller's flags: IF, DF, CF"
        assert hvm.q[R12] & 0x601 == 0x401, "FMASK clears IF alone"
        assert (hvm.q[R13] & 0xFFFF, hvm.q[R15] & 0xFFFF) == (0x10, 0x2B)
        assert hvm.q[R14] & 0x601 == 0x601
        assert hvm.exits == BOOT
        assert hvm.counts["syscalls"] == 1
        assert hvm.counts["#BP"] == 1

    def test_a_system_call_that_is_not_switched_on_is_undefined(self, hvm: HvmBench) -> None:
        hvm.run(
            """start: long_mode; gate 6, handler
            mov $0xc0000080, %ecx; rdmsr; and $~1, %eax; wrmsr
            fault: syscall
            handler: pop %r9; done"""
        )
        assert hvm.q[R9] == hvm.labels["fault"]

    def test_user_space_faults_enter_on_the_stack_of_the_tss(self, hvm: HvmBench) -> None:
        hvm.run(
            USER_MODE
            + """start: long_mode; gate 13, handler
            to_user user
            user: hlt
            handler: mov %rsp, %rbx; done"""
        )
        assert hvm.q[RBX] == STACK_TOP - 0x4000 - 6 * 8
        assert hvm.exits == BOOT

    def test_the_time_stamp_counter_is_the_hosts_clock(self, hvm: HvmBench) -> None:
        before = hvm.v.clock.tsc()
        hvm.run("start: long_mode; rdtsc; shl $32, %rdx; or %rdx, %rax; mov %rax, %rbx; done")
        assert before < hvm.q[RBX] < hvm.v.clock.tsc()
        assert hvm.exits == BOOT
        assert hvm.counts == {"tsc_reads": 1}

    def test_ports_read_as_ones_up_to_the_iopl_and_are_protected_beyond(self, hvm: HvmBench) -> None:
        hvm.run(
            USER_MODE
            + """start: long_mode; gate 13, handler
            xor %eax, %eax; in $0x42, %al; mov %eax, %ebx; out %al, $0x42
            to_user user
            user: in $0x42, %al
            handler: pop %r9; done"""
        )
        assert hvm.q[RBX] == 0xFF
        assert hvm.q[R9] == 0
        assert hvm.exits == BOOT
        assert hvm.counts == {"port_reads": 1, "port_writes": 1, "#GP": 1}

    def test_an_invalid_opcode_is_the_guests_own(self, hvm: HvmBench) -> None:
        hvm.run("start: long_mode; gate 6, handler; ud2; handler: mov $1, %ebx; done")
        assert hvm.q[RBX] == 1
        assert hvm.counts == {"#UD": 1}
        assert hvm.exits == BOOT

    @pytest.mark.parametrize(
        ("vector", "code"),
        [
            (
                1,
                "lea fault(%rip), %rax; mov %rax, %dr0; mov $0x401, %eax; mov %rax, %dr7; jmp fault; fault: nop",
            ),
            (1, "pushfq; orl $0x100, (%rsp); popfq; nop; fault: nop"),
            (7, "mov %cr0, %rax; or $8, %rax; mov %rax, %cr0; fault: fninit"),
            (0, "xor %ecx, %ecx; fault: div %ecx"),
            (
                19,
                "mov $0x620, %eax; mov %rax, %cr4; push $0x1f00; ldmxcsr (%rsp); xorpd %xmm0, %xmm0; fault: divsd %xmm0, %xmm0",
            ),
        ],
        ids=["breakpoint", "single step", "#NM", "#DE", "#XM"],
    )
    def test_other_exceptions_are_delivered_at_their_instruction(
        self, hvm: HvmBench, vector: int, code: str
    ) -> None:
        hvm.run(
            f"start: long_mode; gate {vector}, handler; {code}; done; handler: pop %r9; mov $1, %ebx; done"
        )
        assert (hvm.q[R9], hvm.q[RBX]) == (hvm.labels["fault"], 1)
        assert hvm.exits | {"write cr4": 1} == BOOT

    def test_control_a_fault_that_comes_to_python_is_counted(self, hvm: HvmBench) -> None:
        hvm.run("start: long_mode; gate 13, handler; movb $1, READ_ONLY; handler: done")
        assert hvm.exits == BOOT | {"nested fault": 1, "no device": 1}


class TestHypercalls:
    def test_arguments_and_result_of_64_bit_code(self, hvm: HvmBench) -> None:
        hvm.gate.answers[40] = lambda *args: sum(args)
        hvm.run(
            """start: long_mode
            mov $1, %edi; mov $2, %esi; mov $3, %edx; mov $4, %r10d; movabs $0x5000000000, %r8
            hypercall 40; mov %rax, %rbx; done"""
        )
        assert hvm.gate.calls[0] == (40, 1, 2, 3, 4, 0x5000000000)
        assert hvm.q[RBX] == 0x500000000A

    def test_vmcall_does_it_too(self, hvm: HvmBench) -> None:
        hvm.gate.answers[40] = lambda *_: 7
        hvm.run("start: long_mode; mov $40, %eax; vmcall; mov %rax, %rbx; done")
        assert hvm.q[RBX] == 7
        assert hvm.exits["vmcall"] == 1

    def test_arguments_and_result_of_32_bit_code(self, hvm: HvmBench) -> None:
        hvm.gate.answers[Hypercall.console_io] = lambda *_: -Errno.EINVAL
        hvm.run(
            """start: mov $1, %ebx; mov $2, %ecx; mov $3, %edx; mov $4, %esi; mov $5, %edi; hypercall 18; mov %eax, %ebp
            done32"""
        )
        assert hvm.gate.calls[0] == (18, 1, 2, 3, 4, 5)
        assert hvm.q[RBP] == -Errno.EINVAL & 0xFFFFFFFF
        assert hvm.gate.mailbox.in_32bit_code(0)

    def test_the_core_is_told_the_width_of_the_code_that_calls(self, hvm: HvmBench) -> None:
        seen = []
        hvm.gate.answers[40] = lambda *_: seen.append(hvm.gate.mailbox.in_32bit_code(0)) or 0
        hvm.run("start: hypercall 40; long_mode; hypercall 40; done")
        assert seen == [True, False]

    @pytest.mark.parametrize(("mode", "is_32bit"), [("", True), ("long_mode", False)])
    def test_the_hypercall_page_latches_the_layout_of_shared_info(
        self, hvm: HvmBench, mode: str, is_32bit: bool
    ) -> None:
        hvm.run(
            f"""start: {mode}
            mov $0x40000000, %ecx; mov $0x60000, %eax; xor %edx, %edx; wrmsr
            {"done32" if is_32bit else "done"}"""
        )
        assert hvm.gate.mailbox.has_32bit_shinfo is is_32bit
        hvm.v.events.set_pending(33)
        page = hvm.memory.read(SHARED << 12, 4096)
        assert page[PENDING + 33 // 8] == 2
        assert page[4 if is_32bit else 8] == (2 if is_32bit else 1)

    def test_user_space_makes_none(self, hvm: HvmBench) -> None:
        hvm.run(
            USER_MODE
            + """start: long_mode; gate 3, end, 3
            to_user user
            user: hypercall 40; mov %rax, %rbx; int3
            end: done"""
        )
        assert hvm.q[RBX] == -Errno.EPERM & U64
        assert [call[0] for call in hvm.gate.calls] == [63]

    def test_the_page_that_wrmsr_asks_for_holds_them(self, hvm: HvmBench) -> None:
        hvm.gate.answers[40] = lambda *_: 7
        hvm.run(
            """start: long_mode
            mov $0x40000002, %eax; cpuid; mov %ebx, %ecx
            mov $0x60000, %eax; xor %edx, %edx; wrmsr
            mov $0x60000 + 32 * 40, %eax; call *%rax; mov %rax, %rbx; done"""
        )
        assert hvm.q[RBX] == 7
        assert hvm.exits["hypercall page"] == 1

    def test_the_core_is_told_where_the_guests_tables_are(self, hvm: HvmBench) -> None:
        seen = []
        hvm.gate.answers[Hypercall.sched_op] = lambda *_: seen.append(hvm.gate.mailbox.guest_paging(0)) or 0
        hvm.gate.answers[40] = hvm.gate.answers[Hypercall.sched_op]
        hvm.run("start: xor %ebx, %ebx; hypercall 29; long_mode; hypercall 40; done")
        assert seen == [(0, 0), (0x10000, 4)]


class TestExits:
    def test_an_msr_that_there_is_not_faults(self, hvm: HvmBench) -> None:
        hvm.run(
            """start: long_mode; gate 13, handler; mov $0x12345, %ecx
            fault: rdmsr
            handler: pop %r9; pop %r10; done"""
        )
        assert (hvm.q[R9], hvm.q[R10]) == (0, hvm.labels["fault"])

    @pytest.mark.parametrize("instruction", ["vmrun", "vmload", "vmsave", "stgi", "clgi", "monitor", "mwait"])
    def test_an_instruction_that_is_not_advertised_is_undefined(
        self, hvm: HvmBench, instruction: str
    ) -> None:
        hvm.run(
            f"""start: long_mode; gate 6, handler
            mov $DATA, %eax; xor %ecx, %ecx; xor %edx, %edx; {instruction}; done
            handler: mov $1, %ebx; done"""
        )
        assert hvm.q[RBX] == 1

    def test_the_local_apic_can_be_found_and_written(self, hvm: HvmBench) -> None:
        hvm.run(
            """start: long_mode
            mov 0x1f3030, %ebx; mov $0x1f3080, %rdi; movl $0x20, (%rdi); mov (%rdi), %r12d; mov 0x1f3020, %r13d; done"""
        )
        assert (hvm.q[RBX], hvm.q[R12], hvm.q[R13]) == (0x50014, 0x20, 0)
        assert hvm.exits == BOOT | {"nested fault": 4, "local APIC": 4}

    def test_where_nothing_is_ones_are_read_and_writes_are_dropped(self, hvm: HvmBench) -> None:
        hvm.run("start: long_mode; mov $5, %ecx; mov %rcx, HOLE; mov HOLE, %rbx; movzbl HOLE, %r12d; done")
        assert (hvm.q[RBX], hvm.q[R12]) == (U64, 0xFF)

    def test_what_cannot_be_emulated_there_faults(self, hvm: HvmBench) -> None:
        hvm.run("start: long_mode; gate 13, handler; incl HOLE; handler: mov $1, %ebx; done")
        assert hvm.counts == {"#GP": 1}

    def test_a_triple_fault_ends_the_domain(self, hvm: HvmBench) -> None:
        with pytest.raises(TripleFault, match="triple fault"):
            hvm.run("start: long_mode; ud2")

    def test_code_that_runs_into_nothing_ends_the_domain_or_faults(self, hvm: HvmBench) -> None:
        hvm.run("start: long_mode; gate 13, handler; mov $HOLE, %eax; jmp *%rax; handler: mov $1, %ebx; done")
        assert hvm.q[RBX] == 1

    def test_cpuid_is_the_documented_model(self, hvm: HvmBench) -> None:
        hvm.run(
            """start: long_mode
            xor %eax, %eax; cpuid; mov %rbx, %r8; mov %rdx, %r9; mov %rcx, %r10
            mov $0x40000004, %eax; cpuid; mov %rax, %r12; mov %rcx, %r13
            mov $1, %eax; cpuid; done"""
        )
        words = (hvm.q[R8], hvm.q[R9], hvm.q[R10])
        assert b"".join(word.to_bytes(4, "little") for word in words) == b"AuthenticAMD"
        assert (hvm.q[R12], hvm.q[R13]) == (0x18, 1)
        assert hvm.q[RDX] & 1 << 9, "there is a local APIC"
        assert hvm.q[RCX] & 1 << 31, "there is a hypervisor"


class TestContext:
    def test_breakpoints_go_with_it(self, hvm: HvmBench) -> None:
        hvm.run(
            """start: long_mode; gate 1, handler
            lea fault(%rip), %rax; mov %rax, %dr0; mov $0x401, %eax; mov %rax, %dr7; done
            jmp fault; fault: done
            handler: mov $1, %ebx; done"""
        )
        saved, other = hvm.cpu.save_context(), HvmBench()
        other.memory.octets[:] = hvm.memory.octets
        other.cpu.apply([[Effect.CONTEXT, saved]])
        other.go_on()
        assert other.q[RBX] == 1

    def test_it_starts_in_32_bit_protected_mode(self, hvm: HvmBench) -> None:
        hvm.q[RSP] = STACK_TOP
        hvm.run("start: mov %cr0, %ebp; push $3; done32")
        assert hvm.q[RBP] == 0x11
        assert hvm.v.paging.level_count == 0
        assert hvm.q[RSP] == STACK_TOP - 4
