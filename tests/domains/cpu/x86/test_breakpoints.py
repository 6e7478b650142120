"""Hardware breakpoints of a guest, by its debug registers: each fires when and where a CPU's would, and none costs anything
while none is enabled.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import pytest

from domains.cpu.x86.emulator.cpu_state import RIP
from domains.cpu.x86.registers import R12, R13, RBX, RSP
from hypervisor.machine.paging import table_index
from hypervisor.public.types import PAGE_SHIFT
from hypervisor.public.xen import Hypercall
from hypervisor.wire.messages import Effect
from tests.domains.cpu.x86.bench import DATA, FIRST_FREE, FLAGS, HOLE, L1, STACK_TOP, Bench

WATCHED = DATA + 64
EXECUTE, WRITE, ACCESS = 0, 1, 3
LENGTHS = {1: 0, 2: 1, 4: 3, 8: 2}
MAP = 50
"""A hypercall of the bench that changes the guest's tables."""
LOOPS = 30_000


def enable(number: int, kind: int, length: int = 4) -> int:
    return 1 << 2 * number | kind << 16 + 4 * number | LENGTHS[length] << 18 + 4 * number


def arm(dr7: int, *addresses: int | str) -> str:
    """Debug registers from 0 up, then DR7."""
    values = [*enumerate(addresses), (7, dr7)]
    return "".join(f"mov ${value}, %rax; mov %rax, %dr{number};" for number, value in values)


def run(bench: Bench, program: str) -> dict[str, int]:
    """Run to the first #DB, or to the end; labels. R12: rip in the frame, or 0; R13: DR6."""
    labels: dict[str, int] = {}
    bench.run(
        f"start: {program}; xor %r12d, %r12d; done; handler: mov 16(%rsp), %r12; mov %dr6, %r13; done",
        setup=lambda found: (labels.update(found), bench.traps((1, 0, found["handler"]))),
    )
    return labels


@pytest.mark.parametrize(
    ("kind", "instruction", "hits"),
    [
        (WRITE, "movl $1, DATA + 64", True),
        (WRITE, "mov DATA + 64, %ebx", False),
        (ACCESS, "mov DATA + 64, %ebx", True),
        (WRITE, "incl DATA + 64", True),
        (WRITE, "lock xaddl %ebx, DATA + 64", True),
        (WRITE, "movb $1, DATA + 67", True),
        (WRITE, "movb $1, DATA + 68", False),
        (WRITE, "movb $1, DATA + 63", False),
        (WRITE, "movq $1, DATA + 57", True),
        (WRITE, "movq $1, DATA + 56", False),
        (WRITE, "movups %xmm0, DATA + 50", True),
        (WRITE, "movups %xmm0, DATA + 48", False),
        (ACCESS, "mov $DATA + 64, %rsp; pop %rbx", True),
        (WRITE, "mov $DATA + 72, %rsp; push %rbx", True),
    ],
)
def test_data_is_watched_to_the_byte_and_the_trap_comes_after_it(
    bench: Bench, kind: int, instruction: str, hits: bool
) -> None:
    labels = run(bench, f"{arm(enable(0, kind), WATCHED)} {instruction}; behind: mov ${STACK_TOP}, %rsp")
    assert bench.q[R12] == (labels["behind"] if hits else 0)
    if hits:
        assert bench.q[R13] & 0xF == 1
        assert not bench.q[R13] & 1 << 14, "it was no single step"


def test_a_hypercall_sets_breakpoints_as_the_instruction_does(bench: Bench) -> None:
    set_debugreg = f"mov $%d, %%edi; mov $%d, %%rsi; hypercall {int(Hypercall.set_debugreg)};"
    program = set_debugreg % (0, WATCHED) + set_debugreg % (7, enable(0, WRITE))
    labels = run(bench, f"{program} movl $1, DATA + 64; behind: nop")
    assert bench.q[R12] == labels["behind"]


def test_each_breakpoint_has_its_bit(bench: Bench) -> None:
    dr7 = enable(1, WRITE, 8) | enable(2, ACCESS, 1) | enable(3, WRITE, 2)
    run(bench, f"{arm(dr7, 0, WATCHED, WATCHED + 7, WATCHED + 8)} movq $0, DATA + 64")
    assert bench.q[R13] & 0xF == 0b0110


def test_after_a_move_to_ss_the_trap_waits_for_one_more_instruction(bench: Bench) -> None:
    bench.write(WATCHED, (0xE02B).to_bytes(8, "little"))
    labels = run(bench, f"{arm(enable(0, ACCESS), WATCHED)} mov DATA + 64, %ss; nop; after: nop")
    assert bench.q[R12] == labels["after"]


def test_a_system_call_in_the_shadow_of_ss_loses_the_trap(bench: Bench) -> None:
    """XSA-260: on a CPU it would come in Xen, which drops it."""
    bench.write(WATCHED, (0xE02B).to_bytes(8, "little"))
    bench.gate.answers[MAP] = lambda *_: 0
    run(bench, f"{arm(enable(0, ACCESS), WATCHED)} mov ${MAP}, %eax; mov DATA + 64, %ss; syscall; nop")
    assert bench.q[R12] == 0


RETURN = f"pop %rcx; pop %r11; incq DATA; push $0; push %rcx; push %r11; push %rax; hypercall {int(Hypercall.iret)};"


def test_an_instruction_is_caught_before_it_each_time_and_done_after_the_return(bench: Bench) -> None:
    bench.write(DATA, bytes(8))
    labels: dict[str, int] = {}
    program = f"start: {arm(enable(0, EXECUTE, 1), '(spot)')} xor %ebx, %ebx; mov $3, %r12d;"
    bench.run(
        f"{program} 1: spot: inc %ebx; dec %r12d; jnz 1b; done; handler: mov 16(%rsp), %r13; {RETURN}",
        setup=lambda found: (labels.update(found), bench.traps((1, 0, found["handler"]))),
    )
    assert (bench.q[RBX], bench.word(DATA), bench.q[R13]) == (3, 3, labels["spot"])


def remapped(bench: Bench, va: int, frame: int) -> None:
    """Hypercall MAP puts another frame under a page, and says so to the CPU."""

    def answer(*_: int) -> Any:
        bench.memory.page(L1)[table_index(va, 1)] = frame << PAGE_SHIFT | FLAGS
        return 0, [[Effect.INVLPG, va]]

    bench.gate.answers[MAP] = answer


@pytest.mark.parametrize("va", [WATCHED, HOLE + 64])
def test_what_is_watched_is_an_address_whatever_frame_lies_there(bench: Bench, va: int) -> None:
    """The second is mapped nowhere at first."""
    remapped(bench, va, FIRST_FREE + 31)
    labels = run(bench, f"{arm(enable(0, WRITE), va)} hypercall {MAP}; movl $1, {va}; after: nop")
    assert bench.q[R12] == labels["after"]


def test_a_stop_between_any_two_instructions_does_nothing_twice(bench: Bench) -> None:
    """Also while every instruction is looked at: calls, returns and stores are the ones that would show."""
    bench.cpu.stop_stub.install()
    finished = threading.Event()

    def interrupt_often() -> None:
        while not finished.wait(0.0005):
            bench.gate.mailbox.set_stop(0, True)
            os.kill(os.getpid(), signal.SIGUSR1)

    thread = threading.Thread(target=interrupt_often)
    thread.start()
    bench.write(DATA, bytes(8))
    try:
        run(
            bench,
            f"{arm(enable(0, WRITE), WATCHED)} xor %ebx, %ebx; mov ${LOOPS}, %ecx;"
            "1: incq DATA; call 2f; dec %ecx; jnz 1b; mov %rsp, %r13; xor %r12d, %r12d; done; 2: inc %rbx; ret",
        )
    finally:
        finished.set()
        thread.join()
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    assert bench.gate.stops > 5
    assert (bench.word(DATA), bench.q[RBX], bench.q[R13]) == (LOOPS, LOOPS, STACK_TOP)


def test_nothing_is_left_once_none_is_enabled(bench: Bench) -> None:
    """No hook, and no code that was made for one: what would make it raise #DB has no effect."""
    run(bench, f"{arm(enable(0, WRITE), WATCHED)} {arm(0)} movl $1, DATA + 64")
    points = bench.v.breakpoints
    assert (bench.q[R12], points.watching, points.stale, points._hooks) == (0, False, False, [])
    points._control[0] = 1
    run(bench, "movl $1, DATA + 64; nop")
    assert bench.q[R12] == 0
    assert bench.q[RSP] == STACK_TOP
    assert bench.q[RIP]
