"""What faults in a guest with nested paging as on the processor that it sees, where Unicorn by itself would do otherwise."""

import pytest

from domains.cpu.x86.hvm.lapic import LocalApic
from domains.cpu.x86.registers import R8, R9, R10, R12
from tests.domains.cpu.x86.hvm_bench import USER_MODE, HvmBench


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


class TestSoftwareInterrupts:
    """What goes wrong when an INT n is delivered is a fault of that instruction."""

    @pytest.mark.parametrize(("instruction", "vector"), [("int $0x40", 0x40), ("int3", 3)])
    def test_one_that_user_space_may_not_make_faults_at_itself(
        self, hvm: HvmBench, instruction: str, vector: int
    ) -> None:
        hvm.run(
            USER_MODE
            + f"""start: long_mode; gate {vector}, end; gate 13, handler
            to_user user
            user: nop
            fault: {instruction}
            end: done
            handler: pop %r9; pop %r10; done"""
        )
        assert (hvm.q[R9], hvm.q[R10]) == (8 * vector + 2, hvm.labels["fault"])

    def test_a_gate_that_is_not_present_is_told_by_its_number(self, hvm: HvmBench) -> None:
        hvm.run(
            """start: long_mode; gate 0x40, end; andb $0x7f, IDT + 16 * 0x40 + 5; gate 11, handler
            fault: int $0x40
            end: done
            handler: pop %r9; pop %r10; done"""
        )
        assert (hvm.q[R9], hvm.q[R10]) == (8 * 0x40 + 2, hvm.labels["fault"])

    def test_icebp_is_a_debug_exception_behind_itself(self, hvm: HvmBench) -> None:
        hvm.run(
            """start: long_mode; gate 1, handler
            .byte 0xf1
            behind: done
            handler: pop %r9; done"""
        )
        assert hvm.q[R9] == hvm.labels["behind"]
        assert hvm.counts == {"#DB": 1}

    def test_one_that_is_delivered_returns_behind_itself(self, hvm: HvmBench) -> None:
        hvm.run(
            """start: long_mode; gate 0x40, handler
            int $0x40
            behind: done
            handler: pop %r9; done"""
        )
        assert hvm.q[R9] == hvm.labels["behind"]


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
