"""Events of a guest with nested paging come by a vector of its own IDT, when it can take one."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from domains.cpu.x86.emulator.stop_stub import set_handler
from domains.cpu.x86.registers import R9, RBX
from hypervisor.public.sched import SCHEDOP_block
from hypervisor.public.vcpu import VCPUOP_down
from hypervisor.public.xen import Hypercall
from hypervisor.wire.messages import Effect
from tests.domains.cpu.x86.hvm_bench import BOOT, DATA, HvmBench


class TestEvents:
    def test_an_event_comes_by_its_vector_when_interrupts_are_on(self, hvm: HvmBench) -> None:
        hvm.callback()
        hvm.gate.mailbox.raise_port(7, 0)
        hvm.run(
            """start: long_mode; gate VECTOR, handler
            mov $1, %ebx; mov $2, %ebx; sti; nop; in_shadow: nop; 1: jmp 1b
            handler: pop %r9; done"""
        )
        assert hvm.q[RBX] == 2
        assert hvm.q[R9] == hvm.labels["in_shadow"]
        assert hvm.pending[0] == 1 << 7
        assert hvm.exits == BOOT
        assert hvm.counts == {"interrupts": 1}

    def test_one_that_a_hypercall_raises_comes_before_the_next_instruction(self, hvm: HvmBench) -> None:
        hvm.callback()
        hvm.gate.answers[40] = lambda *_: hvm.gate.mailbox.raise_port(7, 0) or 0
        hvm.run(
            """start: long_mode; gate VECTOR, handler; sti
            hypercall 40
            after: mov $1, %ebx; 1: jmp 1b
            handler: pop %r9; done"""
        )
        assert hvm.q[R9] == hvm.labels["after"]

    def test_one_that_stays_pending_comes_again_when_its_handler_returns(self, hvm: HvmBench) -> None:
        hvm.callback()
        hvm.gate.mailbox.raise_port(7, 0)
        hvm.run(
            """start: long_mode; gate VECTOR, handler
            xor %ebx, %ebx; sti; 1: jmp 1b
            handler: inc %ebx; cmp $3, %ebx; je 2f; iretq
            2: done"""
        )
        assert hvm.counts == {"interrupts": 3}

    def test_without_a_vector_nothing_comes(self, hvm: HvmBench) -> None:
        hvm.gate.mailbox.raise_port(7, 0)
        hvm.run("start: long_mode; sti; mov $1000, %ecx; 1: loop 1b; done")
        assert hvm.pending[0] == 1 << 7
        assert hvm.counts == {}

    def test_hlt_waits_in_the_core_and_goes_on_behind_itself(self, hvm: HvmBench) -> None:
        hvm.callback()
        hvm.gate.answers[Hypercall.sched_op] = lambda *_: hvm.gate.mailbox.raise_port(7, 0) or 0
        hvm.run(
            """start: long_mode; gate VECTOR, handler
            sti; hlt
            after: mov $1, %ebx; 1: jmp 1b
            handler: pop %r9; done"""
        )
        assert hvm.q[R9] == hvm.labels["after"]
        assert hvm.gate.calls[0] == (Hypercall.sched_op, SCHEDOP_block)
        assert hvm.exits == BOOT | {"hlt": 1}

    def test_hlt_with_interrupts_off_takes_the_vcpu_down(self, hvm: HvmBench) -> None:
        hvm.run("start: long_mode; cli; hlt; done")
        assert hvm.gate.calls[0] == (Hypercall.vcpu_op, VCPUOP_down, 0)

    def test_a_moved_vcpu_info_is_watched(self, hvm: HvmBench) -> None:
        hvm.callback()
        moved = [Effect.VCPU_INFO, 0, hvm.mfn(DATA >> 12), 64]
        hvm.gate.answers[40] = lambda *_: (0, [moved])
        hvm.run(
            """start: long_mode; gate VECTOR, handler; sti
            hypercall 40; 1: jmp 1b
            handler: mov DATA + 64, %bl; done"""
        )
        assert hvm.q[RBX] & 0xFF == 1


@pytest.fixture
def heeding(hvm: HvmBench) -> Iterator[HvmBench]:
    """A bench whose CPU heeds SIGUSR1, as in its own process."""
    set_handler(hvm.cpu.stubs.address("ask"))
    yield hvm
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)


def test_interrupted_stores_are_done_once(heeding: HvmBench) -> None:
    finished = threading.Event()

    def interrupt_often() -> None:
        while not finished.wait(0.0002):
            heeding.gate.mailbox.set_stop(0, True)
            os.kill(os.getpid(), signal.SIGUSR1)

    thread = threading.Thread(target=interrupt_often)
    thread.start()
    try:
        heeding.run(
            "start: long_mode; xor %ebx, %ebx; mov $2000000, %ecx; 1: incq DATA; incq %rbx; dec %ecx; jnz 1b; done"
        )
    finally:
        finished.set()
        thread.join()
    assert heeding.gate.stops > 10
    assert (heeding.q[RBX], heeding.words(DATA, 1)[0]) == (2000000, 2000000)


def test_an_event_interrupts_a_running_guest(heeding: HvmBench) -> None:
    def raise_when_running() -> None:
        heeding.gate.mailbox.raise_port(7, 0)
        os.kill(os.getpid(), signal.SIGUSR1)

    heeding.callback()
    thread = threading.Thread(target=raise_when_running)
    thread.start()
    heeding.run("start: long_mode; gate VECTOR, handler; sti; 1: jmp 1b; handler: mov $7, %ebx; done")
    thread.join()
    assert heeding.q[RBX] == 7
