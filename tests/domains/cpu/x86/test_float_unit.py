"""Floating point and string comparisons give bit for bit what the host's CPU gives, exceptions included.

Unicorn by itself never sets MXCSR's exception flags, raises no #XM, ignores FTZ, computes fprem and the transcendental
functions in double precision, and finds no partial match at the end of a string (PCMPISTRI, equal ordered). MXCSR.DE, which
stays clear, is left out here.
"""

import itertools
import random
import struct

import pytest

from domains.cpu.x86.emulator.float_code import CODE, LABELS, tables
from domains.cpu.x86.emulator.float_listing import SOURCE
from domains.cpu.x86.registers import EXC_DB, EXC_XM, R12, RBP, RBX
from tests.domains.cpu.x86.assembler import assemble_flat
from tests.domains.cpu.x86.bench import DATA, Bench
from tests.domains.cpu.x86.twin import by_guest, by_host

pytestmark = pytest.mark.slow  # an assembler's run for each of many

ROWS = 64
"""Of 64 bytes: two operands of 16 bytes, then room for results."""
INTERESTING = (
    *(0.0, -0.0, 1.0, -1.0, 3.0, 0.1, 1e308, -1e308, 1e-308, 5e-324, -3e-310, 2.0**63, -(2.0**63), 1e19),
    *(float("inf"), float("-inf"), float("nan"), 1 + 2.0**-52, 2.0**-60, 12345.678, -0.75, 1e300, 1e-300),
)


def rows(seed: int, form: str = "d") -> bytes:
    """Operands: interesting values and random ones."""
    dice = random.Random(seed)
    out = b""
    for _ in range(ROWS):
        values = [
            dice.choice(INTERESTING) if dice.random() < 0.5 else dice.uniform(-1e6, 1e6) for _ in range(4)
        ]
        if form == "f":
            packed = struct.pack(
                "<8I",
                *(dice.choice((0x3F800000, 0x00000001, 0x7F7FFFFF, dice.getrandbits(32))) for _ in range(8)),
            )
        else:
            packed = struct.pack("<4d", *values)
        out += packed + bytes(32)
    return out


def over_rows(body: str, mxcsr: int = 0x1F80) -> str:
    """`body` for each row; rdi points at it, MXCSR starts afresh and is stored at 48, without DE."""
    return f"""
        mov ${ROWS}, %r8d
    1:  movl ${mxcsr:#x}, 52(%rdi); ldmxcsr 52(%rdi)
        movups (%rdi), %xmm0; movups 16(%rdi), %xmm1
        {body}
        stmxcsr 48(%rdi); andl $~2, 48(%rdi)
        add $64, %rdi; dec %r8d; jnz 1b
    """


def assert_same(bench: Bench, source: str, data: bytes) -> None:
    guest, host = by_guest(bench, source, data), by_host(source, data)
    wrong = [n for n in range(0, len(data), 64) if guest[n : n + 64] != host[n : n + 64]]
    assert not wrong, [(guest[n : n + 64].hex(" ", 8), host[n : n + 64].hex(" ", 8)) for n in wrong[:4]]


@pytest.mark.parametrize(
    ("mxcsr", "operation"),
    [
        *itertools.product(
            (0x1F80, 0x3F80, 0x5F80, 0x7F80, 0x9F80, 0x1FC0, 0x9FC0),
            ("addpd", "subsd", "mulpd", "divpd", "sqrtpd", "ucomisd", "comisd"),
        ),
        *itertools.product(
            (0x1F80, 0x9F80), ("minsd", "maxpd")
        ),  # with DAZ they keep a denormal: docs/x86.md
    ],
)
def test_sse_results_and_flags_are_the_hosts(bench: Bench, operation: str, mxcsr: int) -> None:
    body = f"{operation} %xmm1, %xmm0; movups %xmm0, 32(%rdi)"
    assert_same(bench, over_rows(body, mxcsr), rows(1))


@pytest.mark.parametrize(
    "body",
    [
        "mulps %xmm1, %xmm0; movups %xmm0, 32(%rdi)",
        "cvtsd2si %xmm0, %rax; mov %rax, 32(%rdi)",
        "cvttpd2dq %xmm0, %xmm2; movups %xmm2, 32(%rdi)",
        "cvtpd2ps %xmm0, %xmm2; movups %xmm2, 32(%rdi)",
        "cmpltpd %xmm1, %xmm0; movups %xmm0, 32(%rdi)",
        "roundpd $0, %xmm0, %xmm2; movups %xmm2, 32(%rdi)",
    ],
)
def test_conversions_and_flags_are_the_hosts(bench: Bench, body: str) -> None:
    assert_same(bench, over_rows(body), rows(2, "f" if "ps %xmm1" in body else "d"))


def test_a_flag_stays_until_it_is_cleared(bench: Bench) -> None:
    bench.write(DATA, struct.pack("<2I3d", 0x1F80, 0, 1.0, 3.0, 4.0))
    bench.run(
        """
        start: ldmxcsr DATA; movsd DATA + 8, %xmm0; divsd DATA + 16, %xmm0
        movsd DATA + 8, %xmm0; divsd DATA + 24, %xmm0; stmxcsr DATA + 64; mov DATA + 64, %ebx
        ldmxcsr DATA; movsd DATA + 8, %xmm0; divsd DATA + 24, %xmm0; stmxcsr DATA + 64; mov DATA + 64, %ebp
        divsd DATA + 16, %xmm0; fxsave DATA + 512; mov DATA + 512 + 24, %r12d; done
        """
    )
    assert (bench.q[RBX], bench.q[RBP], bench.q[R12]) == (0x1FA0, 0x1F80, 0x1FA0)


X87_ROWS = """
        mov $%d, %%r8d
    1:  fninit; fldl 8(%%rdi); fldl (%%rdi)
        %s
        fstpt 32(%%rdi); fnstsw %%ax; and $%#x, %%ax; mov %%ax, 48(%%rdi); fninit
        add $64, %%rdi; dec %%r8d; jnz 1b
"""
NO_DE = 0xFFFF & ~(2 | 0x3800 | 0x200)
"""Of the status word: all but DE, TOP and C1, which tells how the last result was rounded."""


@pytest.mark.parametrize(
    "operation",
    [
        "fprem",
        "fprem1",
        "fsin",
        "fcos",
        "fpatan",
        "fyl2x",
        "f2xm1",
        "fyl2xp1",
        "fptan",
        "fsincos",
        "fxtract",
        "fscale",
    ],
)
def test_x87_functions_are_the_hosts_in_full_precision(bench: Bench, operation: str) -> None:
    assert_same(bench, X87_ROWS % (ROWS, operation, NO_DE), rows(3))


@pytest.mark.parametrize("operation", ["faddp", "fmulp", "fdivp", "fsubrp", "fsqrt", "frndint"])
def test_x87_arithmetic_sets_the_status_word(bench: Bench, operation: str) -> None:
    assert_same(bench, X87_ROWS % (ROWS, operation, NO_DE & ~0x4700), rows(4))


@pytest.mark.parametrize("instruction", ["pcmpistri", "pcmpistrm", "pcmpestri", "pcmpestrm"])
def test_string_comparisons_are_the_hosts_with_every_immediate(bench: Bench, instruction: str) -> None:
    dice = random.Random(5)
    data = b"".join(bytes(dice.choices((0, 1, 2, 3), (1, 8, 8, 8), k=32)) + bytes(32) for _ in range(ROWS))
    for first in range(0, 128, 32):
        one = "".join(
            f"""
            mov ${n % 19 - 9}, %eax; mov ${n % 7 * 3}, %edx; xor %ecx, %ecx
            movups (%rdi), %xmm1; movups 16(%rdi), %xmm2; {instruction} ${n}, %xmm2, %xmm1
            pushfq; pop %rax; and $0x8d5, %eax; shl $16, %rax; add %rcx, %rax
            movq %xmm0, %rcx; add %rcx, %rax; rol $7, %r9; xor %rax, %r9
            """
            for n in range(first, first + 32)
        )
        source = f"""
            mov ${ROWS}, %r8d
        1:  xor %r9d, %r9d; pxor %xmm0, %xmm0
            {one}
            mov %r9, 32(%rdi); add $64, %rdi; dec %r8d; jnz 1b
        """
        assert_same(bench, source, data)


UNMASKED = """
start: ldmxcsr DATA
    movsd DATA + 8, %xmm0
    movsd DATA + 16, %xmm1
culprit: divsd %xmm1, %xmm0
    movsd %xmm0, DATA + 64
    done
handler: stmxcsr DATA + 32
    movsd %xmm0, DATA + 40
    mov 16(%rsp), %rbx
    done
"""


def test_an_unmasked_exception_is_raised_before_the_instruction_has_an_effect(bench: Bench) -> None:
    bench.write(DATA, struct.pack("<2I2d", 0x1F80 & ~0x200, 0, 1.0, 0.0))
    culprit = 0

    def setup(symbols: dict[str, int]) -> None:
        nonlocal culprit
        culprit = symbols["culprit"]
        bench.traps((EXC_XM, 0, symbols["handler"]))

    bench.run(UNMASKED, setup=setup)
    assert bench.q[RBX] == culprit
    assert bench.word(DATA + 32) & 0x3F == 0x04
    assert struct.pack("<Q", bench.word(DATA + 40)) == struct.pack("<d", 1.0)


MASKED_AGAIN = """
start: ldmxcsr DATA
    movsd DATA + 8, %xmm0
    ldmxcsr DATA + 4
    addsd %xmm0, %xmm0
    movq $1, DATA + 64
    done
handler: movq $2, DATA + 64
    done
"""


def test_masking_the_last_exception_is_no_single_step_of_the_guests(bench: Bench) -> None:
    """While an exception is unmasked the engine steps for its own ends. The step that ends it is not the guest's: a #DB there
    makes Linux, which masks all when it delivers SIGFPE, warn of a trap that it did not ask for.
    """
    bench.write(DATA, struct.pack("<2I2d", 0x1F80 & ~0x200, 0x1F80, 1.0, 0.0))
    bench.run(MASKED_AGAIN, setup=lambda symbols: bench.traps((EXC_DB, 0, symbols["handler"])))
    assert bench.word(DATA + 64) == 1


def test_an_exception_of_another_kind_than_the_unmasked_one_is_not_raised(bench: Bench) -> None:
    bench.write(DATA, struct.pack("<2I2d", 0x1F80 & ~0x200, 0, 1.0, 3.0))
    bench.run(UNMASKED, setup=lambda symbols: bench.traps((EXC_XM, 0, symbols["handler"])))
    assert struct.pack("<Q", bench.word(DATA + 64)) == struct.pack("<d", 1.0 / 3.0)


def test_the_bytes_are_those_of_the_listing() -> None:
    code, places = assemble_flat(SOURCE)
    assert code == CODE + tables()
    assert {name: places[name] for name in LABELS} == LABELS
