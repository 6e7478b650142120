"""CMPXCHG8B and CMPXCHG16B change ZF alone, as on the host's own CPU.

Without wide_exchange the operand of the instruction before becomes EFLAGS: IOPL 3 and virtual-8086 mode here, for user code too.
"""

import pytest

from tests.domains.cpu.x86.bench import Bench
from tests.domains.cpu.x86.twin import by_guest, by_host

SHOWN = 0x37DD5
"""All flags but IF."""
BEFORE = [
    "add $0x20043000, %ebx",
    "sub $0x7fffffff, %ebx",
    "neg %ebx",
    "adc $0x3000, %ebx",
    "cmp %ebx, %ebx",
]


@pytest.mark.parametrize("width", ["cmpxchg8b", "lock cmpxchg8b", "cmpxchg16b", "lock cmpxchg16b"])
def test_other_flags_are_as_they_were(bench: Bench, width: str) -> None:
    half = 4 if "8b" in width else 8
    parts = []
    for number, before in enumerate(BEFORE * 2):
        parts.append(
            f"mov $0x70000001, %ebx; mov (%rdi), %rax; mov {half}(%rdi), %rdx; {'inc %rax' if number % 2 else ''}\n"
            f"push $2; popfq; {before}; {width} (%rdi)\n"
            f"pushfq; pop %rax; and ${SHOWN:#x}, %eax; mov %eax, {64 + 4 * number}(%rdi)\n"
        )
    source = "xor %ecx, %ecx\n" + "".join(parts)
    data = bytes(128)
    assert by_guest(bench, source, data).hex(" ", 4) == by_host(source, data).hex(" ", 4)
