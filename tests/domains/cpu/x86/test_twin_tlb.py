"""A guest's kernel and its user space have translations of their own (emulator/twin_tlb.py): neither uses the other's, each finds
its own again, and whatever drops translations drops both halves'.

Negative controls: without HF_KERNEL one half runs code of the other's; where another table for user space is no reason to forget,
its old translations are used; with the library's own function a store to code is not seen.
"""

from collections.abc import Callable

import pytest

from domains.cpu.x86.emulator.cpu_state import HF_KERNEL
from domains.cpu.x86.emulator.interpose import Interposer
from domains.cpu.x86.emulator.interposed import interposed
from domains.cpu.x86.emulator.twin_tlb import MACHINE_CODE, SET_DIRTY, SOURCE
from domains.cpu.x86.emulator.unicorn_library import exported
from domains.cpu.x86.pv import pv64_mode
from domains.cpu.x86.pv.direct_paging import DirectPaging
from domains.cpu.x86.registers import EXC_PF, R12, R13, R14, RSP
from hypervisor.machine.paging import PAGE_ACCESSED, PFEC_USER, table_index
from hypervisor.public.callback import CALLBACKTYPE_syscall
from hypervisor.public.types import PAGE_SHIFT
from hypervisor.wire.messages import Effect, EffectRecord
from tests.domains.cpu.x86.assembler import assemble_flat
from tests.domains.cpu.x86.bench import CODE, FLAGS, L1, L4, STACK_TOP, USER_L4, Bench
from tests.domains.cpu.x86.test_fetched_pages import stock_fill
from tests.domains.cpu.x86.test_traps import USER_MODE

USER_L3, USER_L2, USER_L1, OTHER_L4, OTHERS = 100, 101, 102, 103, 110
SHARED_VA = CODE + 0xF000
"""Where each half has a page of its own."""
ANSWERED = 62
RETURN_7, RETURN_9 = bytes.fromhex("b807000000c3"), bytes.fromhex("b809000000c3")


@pytest.fixture
def bench() -> Bench:
    """The page at SHARED_VA is the kernel's own for it, and OTHERS for user space."""
    bench = stock_fill(Bench())
    assert isinstance(bench.v.paging, DirectPaging)
    bench.v.paging.twin = interposed().twin_tlb
    memory = bench.memory
    memory.page(USER_L1)[:] = memory.page(L1)
    memory.page(USER_L1)[table_index(SHARED_VA, 1)] = OTHERS << PAGE_SHIFT | FLAGS
    memory.page(USER_L2)[table_index(CODE, 2)] = USER_L1 << PAGE_SHIFT | FLAGS
    memory.page(USER_L3)[table_index(CODE, 3)] = USER_L2 << PAGE_SHIFT | FLAGS
    memory.page(USER_L4)[table_index(CODE, 4)] = USER_L3 << PAGE_SHIFT | FLAGS
    return bench


def run(bench: Bench, source: str) -> None:
    """`handler` gets user space's system calls and page faults."""
    bench.v.pv.kernel_sp = STACK_TOP
    bench.run(
        USER_MODE + source,
        setup=lambda found: (
            bench.callback(CALLBACKTYPE_syscall, found["handler"]),
            bench.traps((EXC_PF, 0, found["handler"])),
        ),
    )


def user_entry(bench: Bench, value: int | None = None) -> int:
    """User space's entry for SHARED_VA, after it was changed to `value`."""
    table = bench.memory.page(USER_L1)
    if value is not None:
        table[table_index(SHARED_VA, 1)] = value
    return int(table[table_index(SHARED_VA, 1)])


EACH_ITS_OWN = f"""
    start:   mov ${SHARED_VA}, %r15; call *%r15; mov %eax, %r12d; to_user user
    user:    call *%r15; mov %eax, %r13d; syscall
    handler: call *%r15; mov %eax, %r14d; done
"""


def each_its_own(bench: Bench) -> tuple[int, int, int]:
    """What the routine at SHARED_VA gave the kernel, user space, and the kernel again."""
    bench.memory.write((bench.v.paging.translate(SHARED_VA)), RETURN_7)
    bench.memory.write(OTHERS << PAGE_SHIFT, RETURN_9)
    run(bench, EACH_ITS_OWN)
    return bench.q[R12], bench.q[R13], bench.q[R14]


def test_each_half_runs_its_own_code_at_the_same_address(bench: Bench) -> None:
    assert each_its_own(bench) == (7, 9, 7)


def test_control_without_a_mark_user_space_runs_the_kernels(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pv64_mode, "HF_KERNEL", 0)
    bench.v.cpu.set_hflags(HF_KERNEL, 0)
    assert each_its_own(bench) != (7, 9, 7)


def test_what_the_kernel_alone_maps_user_space_does_not_see(bench: Bench) -> None:
    user_entry(bench, 0)
    run(
        bench,
        f"start: mov {SHARED_VA}, %eax; to_user user; user: mov {SHARED_VA}, %eax; ud2; handler: mov (%rsp), %rbx; done",
    )
    assert bench.word(bench.q[RSP] + 16) == PFEC_USER
    assert bench.v.exits["#PF"] == 1


READS_TWICE = f"""
    start:   to_user user
    user:    mov {SHARED_VA}, %r12; syscall
    again:   mov {SHARED_VA}, %r13; inc %ebp; syscall
    handler: test %ebp, %ebp; jnz end; hypercall {ANSWERED}; to_user again
    end:     done
"""


def reads_twice(bench: Bench, answer: Callable[[], list[EffectRecord]]) -> tuple[int, int]:
    """What user space read at SHARED_VA before and after its kernel's hypercall, during which `answer` changes things."""
    for mfn in (OTHERS, OTHERS + 1):
        bench.memory.write(mfn << PAGE_SHIFT, mfn.to_bytes(8, "little"))
    bench.gate.answers[ANSWERED] = lambda *_: (0, answer())
    run(bench, READS_TWICE)
    return bench.q[R12], bench.q[R13]


def test_user_space_finds_its_translations_again(bench: Bench) -> None:
    def clear_accessed() -> list[EffectRecord]:
        user_entry(bench, OTHERS << PAGE_SHIFT | FLAGS & ~PAGE_ACCESSED)
        return []

    assert reads_twice(bench, clear_accessed) == (OTHERS, OTHERS)
    assert not user_entry(bench) & PAGE_ACCESSED, "the page tables were not walked again"


def move(bench: Bench, *effects: EffectRecord) -> Callable[[], list[EffectRecord]]:
    """An answer: user space has another page at SHARED_VA, and these effects."""

    def answer() -> list[EffectRecord]:
        user_entry(bench, OTHERS + 1 << PAGE_SHIFT | FLAGS)
        return list(effects)

    return answer


DROPPED_BY: dict[str, EffectRecord] = {
    "a flush": [Effect.FLUSH_TLB],
    "the page": [Effect.INVLPG, SHARED_VA],
    "the kernel's table": [Effect.LOAD_CR3, L4],
    "its own table anew": [Effect.LOAD_USER_CR3, USER_L4],
}


@pytest.mark.parametrize("effect", DROPPED_BY.values(), ids=DROPPED_BY)
def test_what_drops_translations_drops_those_put_aside(bench: Bench, effect: EffectRecord) -> None:
    assert reads_twice(bench, move(bench, effect)) == (OTHERS, OTHERS + 1)


def test_control_the_old_ones_are_used_where_they_are_not_forgotten(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DirectPaging, "forget_aside", lambda _paging: None)
    effect = DROPPED_BY["its own table anew"]
    assert reads_twice(bench, move(bench, effect)) == (OTHERS, OTHERS)


CODE_ASIDE = f"""
    start:   mov ${SHARED_VA}, %r15; to_user user
    user:    movb $0xc3, 5(%r15); call *%r15; mov %eax, %r12d; syscall
    again:   movb $8, 1(%r15); call *%r15; mov %eax, %r13d; inc %ebp; syscall
    handler: test %ebp, %ebp; jnz end; movb $0, 64(%r15); movb $0, 64(%r15); to_user again
    end:     done
"""


def code_aside(bench: Bench) -> tuple[int, int]:
    """What a routine of user space's gave before and after it was altered; in between the kernel stored to that address."""
    bench.memory.write(OTHERS << PAGE_SHIFT, RETURN_9)
    run(bench, CODE_ASIDE)
    return bench.q[R12], bench.q[R13]


def test_stores_of_one_half_leave_the_others_code_watched(bench: Bench) -> None:
    assert code_aside(bench) == (9, 8)


def test_control_by_the_librarys_own_function_they_do_not(bench: Bench) -> None:
    interposer = Interposer()
    interposer.replace(SET_DIRTY, exported(SET_DIRTY))
    try:
        assert code_aside(bench) == (9, 9)
    finally:
        interposer.replace(SET_DIRTY, interposed().twin_tlb.set_dirty)


def test_the_bytes_are_those_of_the_listing() -> None:
    code, _ = assemble_flat(SOURCE)
    assert code == MACHINE_CODE
