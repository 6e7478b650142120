"""Privileged instructions, CPUID and stores to read-only page tables, as a PV guest's kernel may use them."""

import pytest

from domains.cpu.x86.pv.pv_state import CR4_OF_XEN
from domains.cpu.x86.pv.vcpu import CR0_OF_XEN
from domains.cpu.x86.registers import R12, RBX, RCX, RDX
from hypervisor.machine.paging import PAGE_ACCESSED, PAGE_PRESENT, PAGE_USER
from hypervisor.public.xen import Hypercall, VMASST_TYPE_writable_pagetables
from hypervisor.wire.messages import Effect
from tests.domains.cpu.x86.bench import DATA, L4, Bench

GP = "#GP"


def gp_at(bench: Bench, source: str) -> bool:
    """Whether `source` gives #GP at its label `fault`."""
    labels: dict[str, int] = {}
    bench.run(
        f"start: {source}; done; handler: mov 24(%rsp), %rbx; done",
        setup=lambda found: (labels.update(found), bench.traps((13, 0, found["handler"]))),
    )
    return bench.v.exits[GP] == 1 and bench.q[RBX] == labels["fault"]


class TestControlRegisters:
    def test_reads_show_the_virtual_values(self, bench: Bench) -> None:
        bench.v.pv.cr2 = 0x1234
        bench.run(
            "start: mov %cr0, %rbx; mov %cr2, %rcx; mov %cr3, %rdx; mov %cr4, %r12; mov %rcx, DATA; done"
        )
        assert (bench.q[RBX], bench.q[RDX], bench.q[R12]) == (CR0_OF_XEN, L4 << 12, CR4_OF_XEN)
        assert bench.word(DATA) == 0x1234

    def test_only_ts_of_cr0_can_be_changed(self, bench: Bench) -> None:
        bench.run(
            "start: mov %cr0, %rbx; or $8, %rbx; mov %rbx, %cr0; mov %cr0, %rbx; clts; mov %cr0, %rcx; mov %rcx, DATA; done"
        )
        assert bench.q[RBX] == CR0_OF_XEN | 8
        assert bench.word(DATA) == CR0_OF_XEN

    def test_changing_another_bit_of_cr0_is_gp(self, bench: Bench) -> None:
        assert gp_at(bench, "mov %cr0, %rax; xor $0x10000, %rax; fault: mov %rax, %cr0")

    def test_bits_of_cr4_a_guest_may_not_have_are_ignored(self, bench: Bench) -> None:
        bench.run("start: mov $0xffffffff, %eax; mov %rax, %cr4; mov %cr4, %rbx; done")
        assert bench.q[RBX] == CR4_OF_XEN | 0xC

    @pytest.mark.parametrize(
        "instruction", ["hlt", "invlpg (%rax)", "lgdt DATA", "lidt DATA", "ltr %ax", "mov %rax, %cr8"]
    )
    def test_what_xen_does_not_emulate_is_gp(self, bench: Bench, instruction: str) -> None:
        assert gp_at(bench, f"fault: {instruction}")


class TestFpu:
    def test_the_fpu_traps_once_after_fpu_taskswitch(self, bench: Bench) -> None:
        bench.run(
            f"""
            start: mov $1, %edi; hypercall {int(Hypercall.fpu_taskswitch)}
            fault: addps %xmm0, %xmm1
            done
            handler: mov 16(%rsp), %rbx; mov 40(%rsp), %rsp; jmp fault
            """,
            setup=lambda found: bench.traps((7, 0, found["handler"])),
        )
        assert bench.v.exits["#NM"] == 1
        assert not bench.v.pv.cr0_ts


class TestMsr:
    def test_segment_bases_are_written_and_read(self, bench: Bench) -> None:
        bench.run(
            """
            start: mov $0xc0000100, %ecx; mov $DATA, %eax; xor %edx, %edx; wrmsr
            mov $0xc0000102, %ecx; mov $0x777, %eax; wrmsr
            movl $0x55, %fs:8
            mov $0xc0000100, %ecx; xor %eax, %eax; rdmsr; mov %eax, %ebx
            done
            """
        )
        assert bench.q[RBX] == DATA
        assert bench.word(DATA + 8) & 0xFF == 0x55
        assert bench.v.mode.inactive_gs == 0x777

    @pytest.mark.parametrize(
        ("number", "value"),
        [
            (0x17, 0),  # IA32_PLATFORM_ID: Linux asks at boot
            (0x8B, 0),
            (0xC1, 0),
            (0xCE, 0),
            (0x179, 0x01000C02),
            (0x186, 0),
            (0x19C, 0),
            (0x280, 0),
            (0x38F, 0),
            (0x400, 0xFFFFFFFF),
            (0x401, 0),
            (0x47F, 0),
            (0x40000000, 0),
        ],
    )
    def test_what_xen_answers_is_answered(self, bench: Bench, number: int, value: int) -> None:
        bench.run(f"start: mov ${number:#x}, %ecx; mov $7, %eax; rdmsr; mov %rax, %rbx; done")
        assert bench.q[RBX] == value

    @pytest.mark.parametrize("number", [0x79, 0x49, 0x4D0, 0x48, 0x802, 0xC0000103, 0x40000001, 0xC0010015])
    def test_what_xen_refuses_to_read_is_gp(self, bench: Bench, number: int) -> None:
        assert gp_at(bench, f"mov ${number:#x}, %ecx; fault: rdmsr")

    @pytest.mark.parametrize("number", [0x17, 0x79, 0xCE, 0x198, 0x19C, 0x401])
    def test_what_xen_refuses_to_write_is_gp(self, bench: Bench, number: int) -> None:
        assert gp_at(bench, f"mov ${number:#x}, %ecx; mov $1, %eax; xor %edx, %edx; fault: wrmsr")

    @pytest.mark.parametrize("number", [0xE7, 0xC1, 0x199, 0x1B0, 0x17A, 0x400, 0x47F])
    def test_what_xen_drops_may_be_written(self, bench: Bench, number: int) -> None:
        bench.run(f"start: mov ${number:#x}, %ecx; mov $1, %eax; xor %edx, %edx; wrmsr; mov $5, %ebx; done")
        assert bench.q[RBX] == 5

    def test_an_msr_there_is_not_is_gp(self, bench: Bench) -> None:
        assert gp_at(bench, "mov $0x12345, %ecx; fault: rdmsr")

    def test_a_non_canonical_base_is_gp(self, bench: Bench) -> None:
        assert gp_at(bench, "mov $0xc0000100, %ecx; mov $0x8000, %edx; fault: wrmsr")

    def test_efer_may_be_written_back_unchanged_only(self, bench: Bench) -> None:
        assert gp_at(bench, "mov $0xc0000080, %ecx; rdmsr; wrmsr; xor $1, %eax; fault: wrmsr")

    def test_set_segment_base_refuses_what_is_not_canonical(self, bench: Bench) -> None:
        nr = int(Hypercall.set_segment_base)
        bench.run(
            f"start: xor %edi, %edi; movabs $0x800000000000, %rsi; hypercall {nr}; mov %rax, %rbx; done"
        )
        assert bench.q[RBX] == (1 << 64) - 22


class TestIopl:
    @pytest.mark.parametrize("instruction", ["cli", "sti", "in $0x80, %al", "out %al, $0x80", "in %dx, %eax"])
    def test_io_and_cli_are_gp_with_iopl_0(self, bench: Bench, instruction: str) -> None:
        assert gp_at(bench, f"fault: {instruction}")

    def test_with_iopl_1_ports_read_as_ones_and_the_rest_is_ignored(self, bench: Bench) -> None:
        bench.v.pv.iopl = 1 << 12
        bench.run(
            "start: xor %eax, %eax; in $0x80, %al; mov %rax, %rbx; out %al, $0x80; cli; sti; in %dx, %eax; mov %rax, DATA; done"
        )
        assert bench.q[RBX] == 0xFF
        assert bench.word(DATA) == 0xFFFFFFFF

    def test_nothing_runs_past_a_refused_port_access(self, bench: Bench) -> None:
        assert gp_at(bench, "fault: in $0x80, %al; movl $1, DATA")
        assert bench.word(DATA) == 0


class TestCpuid:
    def test_forced_emulation_and_plain_cpuid_agree(self, bench: Bench) -> None:
        bench.run(
            """
            start: mov $1, %eax; xor %ecx, %ecx; cpuid; mov %ecx, DATA; mov %edx, DATA + 8
            mov $1, %eax; xor %ecx, %ecx; ud2; .ascii "xen"; cpuid; mov %ecx, DATA + 16; mov %edx, DATA + 24
            done
            """
        )
        assert bench.words(DATA, 2) == bench.words(DATA + 16, 2)
        assert bench.word(DATA) >> 31 & 1, "a hypervisor is present"

    def test_xens_leaves_are_found_at_their_base(self, bench: Bench) -> None:
        bench.run(
            "start: mov $0x40000000, %eax; cpuid; mov %ebx, DATA; mov %ecx, DATA + 4; mov %edx, DATA + 8; done"
        )
        assert bench.v.paging.read(DATA, 12) == b"XenVMMXenVMM"

    def test_the_tsc_goes_forward(self, bench: Bench) -> None:
        bench.run(
            "start: rdtsc; shl $32, %rdx; or %rdx, %rax; mov %rax, %rbx;"
            "rdtsc; shl $32, %rdx; or %rax, %rdx; mov %rdx, DATA; done"
        )
        assert bench.word(DATA) > bench.q[RBX]


class TestDebugRegisters:
    def test_they_are_kept_by_hypercall_and_by_instruction(self, bench: Bench) -> None:
        set_nr, get_nr = int(Hypercall.set_debugreg), int(Hypercall.get_debugreg)
        bench.run(
            f"""
            start: mov $2, %edi; mov $DATA, %esi; hypercall {set_nr}
            mov %dr2, %rbx
            mov $0x55, %eax; mov %rax, %dr1; mov $1, %edi; hypercall {get_nr}; mov %rax, DATA
            done
            """
        )
        assert bench.q[RBX] == DATA
        assert bench.word(DATA) == 0x55

    def test_a_breakpoint_in_the_hypervisor_is_refused(self, bench: Bench) -> None:
        """D4, XSA-444."""
        nr = int(Hypercall.set_debugreg)
        bench.run(
            f"start: xor %edi, %edi; movabs $0xffff800000000000, %rsi; hypercall {nr}; mov %rax, %rbx; done"
        )
        assert bench.q[RBX] == (1 << 64) - 1


class TestPageTableWrites:
    """P12: a store to a read-only page of the guest's kernel goes to the core as an entry's update."""

    @pytest.mark.parametrize(
        ("store", "size", "value"),
        [
            ("mov %rax, DATA + 16", 8, 0x1122334455667788),
            ("movl $0x11, DATA + 4", 4, 0x11),
            ("lock andq $0x0f, DATA", 8, 5),
            ("orq $0x10, DATA", 8, 0x15),
            ("lock btrq $2, DATA", 8, 1),
            ("xchg %rax, DATA", 8, 0x1122334455667788),
        ],
    )
    def test_a_store_is_asked_of_the_core(self, bench: Bench, store: str, size: int, value: int) -> None:
        bench.write(DATA, (5).to_bytes(8, "little"))
        bench.set_pte(DATA, PAGE_PRESENT | PAGE_USER | PAGE_ACCESSED)
        bench.cpu.apply([[Effect.VM_ASSIST, 1 << VMASST_TYPE_writable_pagetables]])
        bench.run(f"start: movabs $0x1122334455667788, %rax; {store}; done")
        assert [(call[1], call[2]) for call in bench.gate.pte_writes] == [(size, value)]
        assert bench.word(DATA) == 5, "the core writes, not the guest"

    def test_cmpxchg_that_does_not_match_loads_the_accumulator(self, bench: Bench) -> None:
        bench.write(DATA, (5).to_bytes(8, "little"))
        bench.set_pte(DATA, PAGE_PRESENT | PAGE_USER | PAGE_ACCESSED)
        bench.cpu.apply([[Effect.VM_ASSIST, 1 << VMASST_TYPE_writable_pagetables]])
        bench.run(
            "start: mov $9, %eax; mov $7, %ecx; lock cmpxchg %rcx, DATA; mov %rax, %rbx; sete %dl; movzx %dl, %edx; done"
        )
        assert (bench.q[RBX], bench.q[RDX]) == (5, 0)
        assert bench.gate.pte_writes == []
        assert bench.q[RCX]

    def test_a_store_the_core_refuses_is_a_page_fault(self, bench: Bench) -> None:
        bench.set_pte(DATA, PAGE_PRESENT | PAGE_USER | PAGE_ACCESSED)
        bench.cpu.apply([[Effect.VM_ASSIST, 1 << VMASST_TYPE_writable_pagetables]])
        bench.gate.pte_result = -14
        bench.run(
            "start: movl $1, DATA; done; handler: done",
            setup=lambda found: bench.traps((14, 0, found["handler"])),
        )
        assert bench.v.exits["#PF"] == 1

    @pytest.mark.parametrize("store", ["mov %ds, DATA", "movq %xmm0, DATA"])
    def test_a_store_that_is_not_known_is_a_page_fault(self, bench: Bench, store: str) -> None:
        bench.set_pte(DATA, PAGE_PRESENT | PAGE_USER | PAGE_ACCESSED)
        bench.cpu.apply([[Effect.VM_ASSIST, 1 << VMASST_TYPE_writable_pagetables]])
        bench.run(
            f"start: {store}; done; handler: done",
            setup=lambda found: bench.traps((14, 0, found["handler"])),
        )
        assert bench.v.exits["#PF"] == 1
        assert bench.gate.pte_writes == []

    def test_without_the_assist_it_is_a_page_fault(self, bench: Bench) -> None:
        bench.set_pte(DATA, PAGE_PRESENT | PAGE_USER | PAGE_ACCESSED)
        bench.run(
            "start: movl $1, DATA; done; handler: done",
            setup=lambda found: bench.traps((14, 0, found["handler"])),
        )
        assert bench.v.exits["#PF"] == 1
        assert bench.gate.pte_writes == []
