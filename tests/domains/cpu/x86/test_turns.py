"""Two vCPUs on one emulated CPU: each finds its registers again, whatever it was doing when the other's turn came.

The gate here is a script: it says whose answer comes next.
"""

from __future__ import annotations

from collections import deque

import pytest

from domains.cpu.gate import TurnOver
from domains.cpu.x86.emulator.cpu_state import RIP
from domains.cpu.x86.registers import R12, R13, RBX, RSP
from hypervisor.public.xen import VMASST_TYPE_writable_pagetables
from hypervisor.wire.messages import Effect, EffectRecord
from tests.domains.cpu.x86.bench import DATA, DONE, FLAGS, L4, STACK_TOP, USER_L4, Bench, BenchGate

ASK, PAGE_TABLE_WRITE, STOPPED = 40, -5, -2


class TurnGate(BenchGate):
    """`answers_to`: the vCPUs that are answered, in order. Another's than the one that asks ends a turn."""

    def __init__(self) -> None:
        super().__init__(2)
        self.answers_to: deque[int] = deque()
        self.asked: list[tuple[int, int]] = []
        self.results = {ASK: 7, PAGE_TABLE_WRITE: 0, STOPPED: 0}
        self.waiting: dict[int, int] = {}

    def _ask(self, vcpu: int, nr: int) -> tuple[int, list[EffectRecord]]:
        self.asked.append((vcpu, nr))
        self.waiting[vcpu] = nr
        if self.answers_to[0] != vcpu:
            raise TurnOver
        return self.receive()[1:]

    def receive(self) -> tuple[int, int, list[EffectRecord]]:
        vcpu = self.answers_to.popleft()
        return vcpu, self.results[self.waiting.pop(vcpu)] + 10 * vcpu, []

    def hypercall(self, vcpu: int, nr: int, *args: int) -> tuple[int, list[EffectRecord]]:
        return super().hypercall(vcpu, nr, *args) if nr == DONE else self._ask(vcpu, nr)

    def stopped(self, vcpu: int) -> tuple[int, list[EffectRecord]]:
        self.mailbox.set_stop(vcpu, False)
        return self._ask(vcpu, STOPPED)

    def pte_write(
        self, vcpu: int, va: int, size: int, value: int, old: int | None
    ) -> tuple[int, list[EffectRecord]]:
        super().pte_write(vcpu, va, size, value, old)
        return self._ask(vcpu, PAGE_TABLE_WRITE)


class TwoVcpus(Bench):
    """vCPU 1 has the same tables; it is at the label `second` when its turn comes, as if it had been stopped there."""

    gate: TurnGate

    def __init__(self) -> None:
        super().__init__(TurnGate())
        self.turns = self.cpu.turns
        self.first, self.second = self.turns.vcpus
        self.turns.switch_to(self.second)
        self.cpu.apply([[Effect.LOAD_CR3, L4], [Effect.LOAD_USER_CR3, USER_L4]])
        self.second.rest = lambda _result, _effects: None
        self.gate.waiting[1] = STOPPED
        self.q[RSP] = STACK_TOP - 0x1000
        self.second.cpu.rflags = 0x202
        self.turns.switch_to(self.first)

    def play(self, source: str, *answers_to: int, **registers: int) -> None:
        """Run both from `start` and `second` until somebody is DONE."""
        self.gate.answers_to = deque(answers_to)

        def setup(symbols: dict[str, int]) -> None:
            self.turns.switch_to(self.second)
            self.q[RIP] = symbols["second"]
            self.turns.switch_to(self.first)
            if "handler" in symbols:
                self.traps((1, 0, symbols["handler"]))

        self.run(source, setup=setup)


@pytest.fixture
def two() -> TwoVcpus:
    return TwoVcpus()


def test_a_hypercall_is_finished_after_another_turn(two: TwoVcpus) -> None:
    """vCPU 0 asks, vCPU 1 is answered and asks, vCPU 0 is answered: its own registers, flags and result."""
    two.play(
        f"start: mov $1, %rbx; mov $2, %r12; stc; hypercall {ASK}; setc %r13b; done\n"
        f"second: mov $100, %rbx; mov $200, %r12; clc; hypercall {ASK}; mov %rax, %r12; done",
        *(1, 0),
    )
    assert two.turns.current is two.first
    assert [two.q[register] for register in (RBX, R12)] == [1, 2]
    assert two.q[R13] & 1 == 1
    assert two.gate.asked == [(0, ASK), (1, ASK)]
    two.gate.answers_to.append(1)
    two.first.rest = lambda _result, _effects: None
    two.go_on()
    assert two.turns.current is two.second
    assert [two.q[register] for register in (RBX, R12)] == [100, 17]


def test_the_answer_of_who_asked_comes_next_and_nothing_is_switched(two: TwoVcpus) -> None:
    two.play(f"start: hypercall {ASK}; mov %rax, %rbx; done; second: ud2", 0)
    assert (two.q[RBX], two.turns.current) == (7, two.first)


def test_a_store_to_a_page_table_is_finished_after_another_turn(two: TwoVcpus) -> None:
    """It is an exception, not a hypercall: the instruction is done once, and the guest goes on behind it."""
    two.cpu.apply([[Effect.VM_ASSIST, 1 << VMASST_TYPE_writable_pagetables]])
    two.set_pte(DATA, FLAGS & ~2)
    two.play(
        f"start: mov $5, %rbx; movq $9, DATA; inc %rbx; done\nsecond: mov $50, %rbx; hypercall {ASK}",
        *(1, 0),
    )
    assert two.q[RBX] == 6
    assert [write[2] for write in two.gate.pte_writes] == [9]


def test_a_stopped_vcpu_gives_its_turn_away(two: TwoVcpus) -> None:
    two.gate.mailbox.set_stop(0, True)
    two.cpu.stop_stub.ask()
    two.play("start: jmp start\nsecond: mov $3, %rbx; done", 1)
    assert (two.turns.current, two.q[RBX]) == (two.second, 3)
    assert two.gate.asked == [(0, STOPPED)]


def test_the_floating_point_unit_is_each_ones_own(two: TwoVcpus) -> None:
    two.play(
        f"start: fld1; mov $11, %eax; movd %eax, %xmm5; hypercall {ASK}; movd %xmm5, %ebx; fstpl DATA; done\n"
        f"second: fldpi; mov $22, %eax; movd %eax, %xmm5; hypercall {ASK}",
        *(1, 0),
    )
    assert (two.q[RBX], two.word(DATA)) == (11, 0x3FF0_0000_0000_0000)


def test_a_breakpoint_is_the_vcpus_that_set_it(two: TwoVcpus) -> None:
    """vCPU 1 stores to what vCPU 0 watches: no #DB; then vCPU 0 does, and has one."""
    watched = f"mov ${DATA + 64}, %rax; mov %rax, %dr0; mov ${1 | 1 << 16 | 3 << 18}, %rax; mov %rax, %dr7"
    two.play(
        f"start: {watched}; hypercall {ASK}; movl $1, DATA + 64; ud2\n"
        f"second: mov $1, %ebx; movl $2, DATA + 64; movl $3, DATA + 64; hypercall {ASK}; ud2\n"
        "handler: mov $77, %r13; done",
        *(1, 0),
    )
    assert two.turns.current is two.first
    assert (two.q[R13], two.word(DATA + 64)) == (77, 1)
    assert two.gate.asked == [(0, ASK), (1, ASK)]
