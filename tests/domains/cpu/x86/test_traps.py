"""Exceptions, interrupts and system calls of a guest reach its kernel as Xen's bounce frames, and iret goes back."""

import pytest

from domains.cpu.x86.registers import R11, R12, R13, RAX, RBX, RCX, RDX, RSP
from hypervisor.machine.paging import PAGE_ACCESSED, PAGE_DIRTY, PAGE_PRESENT, PAGE_USER
from hypervisor.public.callback import CALLBACKF_mask_events, CALLBACKTYPE_event, CALLBACKTYPE_syscall
from hypervisor.public.xen import Hypercall
from tests.domains.cpu.x86.bench import DATA, HOLE, STACK_TOP, USER_L4, Bench, GuestCrashed

KERNEL_CS, USER_CS, SS = 0xE030, 0xE033, 0xE02B
IRET = int(Hypercall.iret)
MASK = 1 << 32
READ_ONLY = PAGE_PRESENT | PAGE_USER | PAGE_ACCESSED | PAGE_DIRTY

USER_MODE = f"""
    .macro to_user target
        push ${SS}; push $(DATA + 0x1000); push $0x202; push ${USER_CS}
        lea \\target(%rip), %rax; push %rax
        push $0; push %rcx; push %r11; push %rax
        hypercall {IRET}
    .endm
"""


def frame(bench: Bench, words: int) -> list[int]:
    return bench.words(bench.q[RSP], words)


class TestBounce:
    def test_a_fault_of_the_kernel_pushes_a_frame_below_its_stack(self, bench: Bench) -> None:
        labels: dict[str, int] = {}
        bench.run(
            "start: mov $0x11, %ecx; mov $0x22, %r11d; stc; push $1; fault: ud2; handler: mov %rsp, %rbx; done",
            setup=lambda found: (labels.update(found), bench.traps((6, 0, found["handler"]))),
        )
        rcx, r11, rip, cs, flags, rsp, ss = frame(bench, 7)
        assert (rcx, r11, rip, rsp, ss) == (0x11, 0x22, labels["fault"], STACK_TOP - 8, SS)
        assert cs == KERNEL_CS | MASK, "RPL 0 says that the kernel was interrupted; upcalls were masked"
        assert flags & 0x201 == 1, "IF is the inverse of the upcall mask"
        assert bench.q[RBX] % 16 == 0 or bench.q[RBX] % 16 == 8

    def test_the_frame_is_aligned_to_16_bytes_before_it_is_pushed(self, bench: Bench) -> None:
        bench.run(
            "start: sub $5, %rsp; ud2; handler: mov %rsp, %rbx; done",
            setup=lambda found: bench.traps((6, 0, found["handler"])),
        )
        assert bench.q[RBX] == (STACK_TOP - 5 & ~15) - 7 * 8

    def test_a_vector_with_an_error_code_pushes_it_above_r11(self, bench: Bench) -> None:
        bench.run(
            "start: mov $0x33, %eax; mov %ax, %ds; handler: done",
            setup=lambda found: bench.traps((13, 0, found["handler"])),
        )
        assert frame(bench, 3)[2] == 0x30

    def test_a_gate_that_masks_events_sets_the_upcall_mask(self, bench: Bench) -> None:
        bench.v.events.upcall_mask = False
        bench.run("start: ud2; handler: done", setup=lambda found: bench.traps((6, 4, found["handler"])))
        assert bench.v.events.upcall_mask
        assert frame(bench, 4)[3] == KERNEL_CS

    def test_tf_nt_rf_and_ac_are_clear_in_the_handler_but_saved(self, bench: Bench) -> None:
        bench.run(
            "start: pushfq; orl $0x44000, (%rsp); popfq; ud2; handler: pushfq; pop %rbx; done",
            setup=lambda found: bench.traps((6, 0, found["handler"])),
        )
        assert bench.q[RBX] & 0x44000 == 0
        assert frame(bench, 5)[4] & 0x44000 == 0x44000

    def test_a_missing_handler_ends_the_domain(self, bench: Bench) -> None:
        with pytest.raises(GuestCrashed, match="Unhandled: vec 13, #GP"):
            bench.run("start: hlt")

    def test_a_stack_in_the_hypervisors_range_ends_the_domain(self, bench: Bench) -> None:
        with pytest.raises(GuestCrashed, match="hypervisor's range"):
            bench.run(
                "start: movabs $0xffff800000001000, %rsp; ud2; handler: done",
                setup=lambda found: bench.traps((6, 0, found["handler"])),
            )

    def test_a_stack_that_is_not_mapped_ends_the_domain(self, bench: Bench) -> None:
        with pytest.raises(GuestCrashed, match="walk of"):
            bench.run(
                "start: mov $HOLE + 0x800, %esp; ud2; handler: done",
                setup=lambda found: bench.traps((6, 0, found["handler"])),
            )


class TestPageFault:
    @pytest.mark.parametrize(
        ("access", "error_code"),
        [("mov (%rdi), %eax", 0), ("movl $1, (%rdi)", 2), ("call *%rdi", 0x10)],
        ids=["read", "write", "fetch"],
    )
    def test_cr2_and_the_error_code_say_what_happened(
        self, bench: Bench, access: str, error_code: int
    ) -> None:
        bench.run(
            f"start: mov $HOLE + 0x123, %edi; {access}; handler: done",
            setup=lambda found: bench.traps((14, 0, found["handler"])),
        )
        assert frame(bench, 3)[2] == error_code
        assert bench.v.pv.cr2 == HOLE + 0x123
        vcpu_info_cr2 = bench.memory.frames[10][2]
        assert vcpu_info_cr2 == HOLE + 0x123

    def test_a_store_to_a_read_only_page_is_a_protection_fault(self, bench: Bench) -> None:
        bench.set_pte(DATA, READ_ONLY)
        bench.run(
            "start: movl $1, DATA; handler: done", setup=lambda found: bench.traps((14, 0, found["handler"]))
        )
        assert frame(bench, 3)[2] == 3

    def test_a_fault_in_user_space_has_the_user_bit(self, bench: Bench) -> None:
        bench.v.pv.kernel_sp = STACK_TOP
        bench.run(
            USER_MODE + "start: to_user user; user: mov HOLE, %eax; handler: done",
            setup=lambda found: bench.traps((14, 0, found["handler"])),
        )
        assert frame(bench, 3)[2] == 4

    def test_an_entry_that_was_added_without_a_flush_is_seen(self, bench: Bench) -> None:
        bench.run("start: mov DATA, %eax; hypercall 12; mov DATA, %ebx; done")
        assert bench.v.exits["#PF"] == 0


class TestUserMode:
    def test_iret_with_rpl_3_enters_user_space_with_its_table_and_gs(self, bench: Bench) -> None:
        bench.v.mode.inactive_gs = 0x5000
        bench.v.pv.kernel_sp = STACK_TOP
        bench.run(
            USER_MODE + "start: to_user user; user: syscall; handler: done",
            setup=lambda found: bench.callback(CALLBACKTYPE_syscall, found["handler"]),
        )
        assert bench.v.exits["system call"] == 1
        assert bench.v.mode.in_kernel
        assert bench.v.mode.inactive_gs == 0x5000

    def test_a_system_call_enters_the_kernel_on_its_own_stack(self, bench: Bench) -> None:
        labels: dict[str, int] = {}
        bench.v.pv.kernel_sp = DATA + 0x2000
        bench.v.events.upcall_mask = False
        bench.run(
            USER_MODE
            + "start: to_user user; user: mov $39, %eax; stc; syscall; after: handler: mov %rsp, %rbx; done",
            setup=lambda found: (
                labels.update(found),
                bench.callback(CALLBACKTYPE_syscall, found["handler"], CALLBACKF_mask_events),
            ),
        )
        assert bench.q[RBX] == DATA + 0x2000 - 7 * 8
        rcx, r11, rip, cs, flags, rsp, ss = bench.words(bench.q[RBX], 7)
        assert rcx == rip == labels["after"]
        assert (cs, rsp, ss) == (USER_CS, DATA + 0x1000, SS)
        assert r11 & 0x201 == flags & 0x201 == 0x201
        assert bench.v.events.upcall_mask

    def test_a_system_call_without_a_callback_is_an_invalid_opcode_there(self, bench: Bench) -> None:
        labels: dict[str, int] = {}
        bench.v.pv.kernel_sp = STACK_TOP
        bench.run(
            USER_MODE + "start: to_user user; user: syscall; handler: done",
            setup=lambda found: (labels.update(found), bench.traps((6, 0, found["handler"]))),
        )
        assert frame(bench, 3)[2] == labels["user"]

    def test_hypercalls_of_user_space_do_not_reach_the_core(self, bench: Bench) -> None:
        bench.v.pv.kernel_sp = STACK_TOP
        bench.run(
            USER_MODE + "start: to_user user; user: hypercall 12; handler: done",
            setup=lambda found: bench.callback(CALLBACKTYPE_syscall, found["handler"]),
        )
        assert 17 not in [call[0] for call in bench.gate.calls]

    def test_iret_to_user_space_without_a_table_ends_the_domain(self, bench: Bench) -> None:
        bench.v.pv64.user_l4 = 0
        with pytest.raises(GuestCrashed, match="no user page tables"):
            bench.run(USER_MODE + "start: to_user user; user: syscall")
        assert USER_L4


class TestIret:
    def test_iret_restores_every_register_of_its_frame(self, bench: Bench) -> None:
        bench.run(
            f"""
            start: push ${SS}; push $(DATA + 0x800); push $0xa01; push ${KERNEL_CS}
            lea target(%rip), %rax; push %rax
            push $0; push $0x33; push $0x44; push $0x55
            hypercall {IRET}
            target: mov %rax, %rbx; mov %rcx, %rdx; mov %r11, %r12; pushfq; pop %r13; done
            """
        )
        q = bench.q
        assert (q[RBX], q[RDX], q[R12], q[RSP]) == (0x55, 0x33, 0x44, DATA + 0x800)
        assert q[R13] & 0xA01 == 0xA01
        assert not bench.v.events.upcall_mask, "IF set: upcalls are let through"

    def test_iret_in_syscall_loses_rcx_and_r11(self, bench: Bench) -> None:
        labels: dict[str, int] = {}
        bench.run(
            f"""
            start: push ${SS}; push $(DATA + 0x800); push $0x202; push ${KERNEL_CS}
            lea target(%rip), %rax; push %rax
            push $0x100; push $0x33; push $0x44; push $0x55
            hypercall {IRET}
            target: mov %rcx, %rbx; mov %r11, %r12; done
            """,
            setup=labels.update,
        )
        assert bench.q[RBX] == labels["target"]
        assert bench.q[R12] & 0x202 == 0x202

    def test_iret_to_a_bad_selector_is_a_fault_at_its_target(self, bench: Bench) -> None:
        labels: dict[str, int] = {}
        bench.run(
            f"""
            start: push ${SS}; push $(DATA + 0x800); push $0x202; push $0x10
            lea target(%rip), %rax; push %rax
            push $0; push $0; push $0; push $0
            hypercall {IRET}
            target: nop
            handler: done
            """,
            setup=lambda found: (labels.update(found), bench.traps((13, 0, found["handler"]))),
        )
        _, _, error_code, rip = frame(bench, 4)
        assert (error_code, rip) == (0x10, labels["target"])

    def test_iret_reading_no_frame_ends_the_domain(self, bench: Bench) -> None:
        with pytest.raises(GuestCrashed, match="iret"):
            bench.run(f"start: mov $HOLE, %esp; hypercall {IRET}")

    def test_compatibility_mode_code_runs_after_iret_to_it(self, bench: Bench) -> None:
        bench.run(
            f"""
            start: push ${SS}; push $(DATA + 0x800); push $0x202; push $0xe020
            lea target(%rip), %rax; push %rax
            push $0; push $0; push $0; push $0
            hypercall {IRET}
            .code32
            target: mov $5, %ebx; dec %ebx; inc %ebx; ud2
            .code64
            handler: done
            """,
            setup=lambda found: bench.traps((6, 0, found["handler"])),
        )
        assert bench.q[RBX] == 5, "0x4b is DEC in 32-bit code and a REX prefix in 64-bit code"
        assert frame(bench, 4)[3] & 0xFFFF == 0xE020


class TestUpcall:
    def test_a_raised_port_becomes_pending_and_makes_one_upcall(self, bench: Bench) -> None:
        bench.v.events.upcall_mask = False
        bench.gate.answers[12] = lambda *_: bench.gate.mailbox.raise_port(70, 0) or 0
        bench.run(
            "start: hypercall 12; after: nop; handler: mov %rsp, %rbx; done",
            setup=lambda found: bench.callback(CALLBACKTYPE_event, found["handler"]),
        )
        assert bench.pending[8] == 1 << 6
        assert bench.v.exits["upcall"] == 1
        assert bench.v.events.upcall_mask, "an upcall masks the next one"
        assert bench.words(bench.q[RBX], 4)[3] == KERNEL_CS

    def test_a_masked_port_makes_no_upcall(self, bench: Bench) -> None:
        bench.v.events.upcall_mask = False
        bench.memory.view((10 << 12) + 2560, 1)[0] = 1 << 5
        bench.gate.answers[12] = lambda *_: bench.gate.mailbox.raise_port(5, 0) or 0
        bench.run("start: hypercall 12; done")
        assert bench.v.exits["upcall"] == 0
        assert bench.pending[0] == 1 << 5

    def test_unmasking_by_iret_delivers_what_was_held_back(self, bench: Bench) -> None:
        bench.gate.answers[12] = lambda *_: bench.gate.mailbox.raise_port(5, 0) or 0
        labels: dict[str, int] = {}
        bench.run(
            f"""
            start: hypercall 12
            push ${SS}; push $(DATA + 0x800); push $0x202; push ${KERNEL_CS}
            lea target(%rip), %rax; push %rax
            push $0; push $0; push $0; push $0
            hypercall {IRET}
            target: nop
            handler: done
            """,
            setup=lambda found: (labels.update(found), bench.callback(CALLBACKTYPE_event, found["handler"])),
        )
        assert frame(bench, 3)[2] == labels["target"]


class TestSoftwareInterrupts:
    @pytest.mark.parametrize("instruction", ["int $0x20", ".byte 0x2e, 0x67, 0xcd, 0x20"])
    def test_int_n_needs_the_gates_permission(self, bench: Bench, instruction: str) -> None:
        labels: dict[str, int] = {}
        bench.run(
            f"start: {instruction}; after: nop; handler: done",
            setup=lambda found: (
                labels.update(found),
                bench.traps((0x20, 0, found["handler"]), (13, 0, found["handler"])),
            ),
        )
        _, _, error_code, rip = frame(bench, 4)
        assert (error_code, rip) == (0x20 << 3 | 2, labels["start"])

    def test_a_permitted_int_n_is_a_trap_without_error_code(self, bench: Bench) -> None:
        labels: dict[str, int] = {}
        bench.run(
            "start: int $0x0d; after: nop; handler: done",
            setup=lambda found: (labels.update(found), bench.traps((13, 1, found["handler"]))),
        )
        assert frame(bench, 3)[2] == labels["after"]

    def test_int3_and_int80_go_to_their_handlers(self, bench: Bench) -> None:
        labels: dict[str, int] = {}
        bench.run(
            "start: int3; one: int $0x80; two: hlt; bp: mov 16(%rsp), %rbx; mov 40(%rsp), %rsp; jmp one; syscall80: done",
            setup=lambda found: (
                labels.update(found),
                bench.traps((3, 0, found["bp"]), (0x80, 0, found["syscall80"])),
            ),
        )
        assert bench.q[RBX] == labels["one"]
        assert frame(bench, 3)[2] == labels["two"]

    @pytest.mark.parametrize("instruction", [".byte 0xf1", ".byte 0x67, 0xf1", ".byte 0x66, 0x48, 0xf1"])
    def test_icebp_is_a_debug_exception_behind_itself(self, bench: Bench, instruction: str) -> None:
        labels: dict[str, int] = {}
        bench.run(
            f"start: {instruction}; after: nop; handler: done",
            setup=lambda found: (labels.update(found), bench.traps((1, 0, found["handler"]))),
        )
        assert frame(bench, 3)[2] == labels["after"]

    def test_single_stepping_traps_after_each_instruction(self, bench: Bench) -> None:
        labels: dict[str, int] = {}
        bench.run(
            "start: pushfq; orl $0x100, (%rsp); popfq; nop; after: nop; handler: done",
            setup=lambda found: (labels.update(found), bench.traps((1, 0, found["handler"]))),
        )
        assert frame(bench, 3)[2] == labels["after"]
        assert bench.v.pv.dr6 & 1 << 14

    def test_single_stepping_goes_on_after_each_iret(self, bench: Bench) -> None:
        """The iret hypercall loads TF: the next trap comes after the instruction at which it returns, not before it."""
        labels: dict[str, int] = {}
        bench.run(
            f"""start: xor %ebx, %ebx; pushfq; orl $0x100, (%rsp); popfq; nop; one: nop; two: nop; three: nop
            handler: pop %rcx; pop %r11; inc %ebx; cmp $3, %ebx; je over
                push $0; push %rcx; push %r11; push %rax; mov ${IRET}, %eax; syscall
            over: push %r11; push %rcx; done""",
            setup=lambda found: (labels.update(found), bench.traps((1, 0, found["handler"]))),
        )
        assert frame(bench, 3)[2] == labels["three"]

    def test_a_non_canonical_stack_access_is_a_stack_fault(self, bench: Bench) -> None:
        bench.run(
            "start: movabs $0x800000000000, %rbp; mov (%rbp), %eax; handler: done",
            setup=lambda found: bench.traps((12, 0, found["handler"])),
        )
        assert bench.v.exits["#SS"] == 1

    def test_a_fault_has_exact_registers(self, bench: Bench) -> None:
        bench.run(
            "start: mov $1, %eax; mov $2, %ebx; mov $3, %ecx; xor %edx, %edx; xor %esi, %esi; div %esi; handler: done",
            setup=lambda found: bench.traps((0, 0, found["handler"])),
        )
        assert frame(bench, 1)[0] == 3
        assert (bench.q[RBX], bench.q[RCX] != 3, bench.q[R11] != 0, bench.q[RAX]) == (2, True, True, 63)
