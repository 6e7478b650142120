"""Code that the guest alters is executed as it stands, whatever address the store goes to (emulator/fetched_pages.py).

Negative control: where a frame that has code is taken for data, what was translated first is executed again.
"""

import ctypes

import pytest

from domains.cpu.x86.emulator.fetched_pages import CODE_AT, FILL, FILLS, MACHINE_CODE, SOURCE, FetchedPages
from domains.cpu.x86.emulator.stop_stub import CPU_CLASS
from domains.cpu.x86.emulator.unicorn_library import exported, peek
from domains.cpu.x86.registers import RBX
from hypervisor.machine.paging import PAGE_NX
from tests.domains.cpu.x86.assembler import assemble_flat
from tests.domains.cpu.x86.bench import CODE, FIRST_FREE, FLAGS, L1, Bench

ROUTINE = CODE + 0x1800
ALIAS = 0x20000
"""How far behind each page of CODE its frame is mapped once more."""
TIMES = 200
ALTER = """
    start:
        movl $0x000000b8, ({at})            # mov $0, %eax
        movb $0xc3, 5({at})                 # ret
        xor %ebx, %ebx
        mov ${times}, %r12d
    1:  {before}
        movb %r12b, 1({store})
        call *%r13
        movzbl %al, %eax
        add %eax, %ebx
        dec %r12d
        jnz 1b
        done
"""
SUM = sum(number & 0xFF for number in range(1, TIMES + 1))
BEFORE = {
    "at once": "",
    "after it was data": "mov $64, %ecx; 2: movq $0, 64(%r14); dec %ecx; jnz 2b",
    "after other pages": "mov $0x410000, %rcx; 2: mov (%rcx), %rax; add $0x1000, %rcx; cmp $0x420000, %rcx; jb 2b",
}


def stock_fill(bench: Bench) -> Bench:
    """The same, its TLB filled by Unicorn's own function, whatever the laboratory has put into its place in this process."""
    cpu_class = int.from_bytes(peek((bench.cpu.library.cpu.value or 0) + CPU_CLASS, 8), "little")
    for place in FILLS:
        ctypes.c_uint64.from_address(cpu_class + place).value = exported(FILL)
    bench.cpu._fetched = FetchedPages(bench.cpu.library, bench.memory)
    return bench


@pytest.fixture
def bench() -> Bench:
    return stock_fill(Bench())


def altered(bench: Bench, routine: int, store: int, before: str) -> int:
    """What the altered routine gave, all together."""
    source = f"mov ${routine}, %r13; mov ${store}, %r14;"
    text = ALTER.replace("start:", "start: " + source, 1)
    bench.run(text.format(at="%r14", store="%r14", before=before, times=TIMES))
    return int(bench.q[RBX])


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("offset", [0, 0x7FD], ids=["within a page", "across a page's end"])
@pytest.mark.parametrize("far", [0, ALIAS], ids=["by its own address", "by another"])
def test_altered_code_is_executed_as_it_stands(bench: Bench, far: int, offset: int, before: str) -> None:
    assert altered(bench, ROUTINE + offset, ROUTINE + offset + far, BEFORE[before]) == SUM


def test_so_it_is_by_an_address_that_is_not_executable(bench: Bench) -> None:
    slot = (ROUTINE + ALIAS) >> 12 & 511
    bench.memory.page(L1)[slot] = FIRST_FREE + 1 << 12 | FLAGS | PAGE_NX
    assert altered(bench, ROUTINE, ROUTINE + ALIAS, "") == SUM


def test_negative_control_a_frame_with_code_is_taken_for_data(bench: Bench) -> None:
    page = bench.cpu._fetched._page
    test = MACHINE_CODE.index(bytes.fromhex("f60001 75"))  # testb $HAS_CODE, (%rax); jnz
    page.put(CODE_AT + test, b"\x90" * 5)
    assert altered(bench, ROUTINE, ROUTINE + ALIAS, "") != SUM


def test_only_frames_that_were_fetched_from_have_code(bench: Bench) -> None:
    bench.run("start: movq $1, DATA; done")
    assert bench.cpu._fetched.has_code(FIRST_FREE)
    assert not bench.cpu._fetched.has_code(FIRST_FREE + 0x18)


def test_the_bytes_are_those_of_the_listing() -> None:
    code, _ = assemble_flat(SOURCE)
    assert code[CODE_AT:] == MACHINE_CODE
