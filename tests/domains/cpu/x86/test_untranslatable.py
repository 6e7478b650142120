"""LOCK before a bit instruction on a register is an invalid opcode, to any kind of guest. Of it Unicorn's translator makes code
which it cannot finish, and ends the process.

Negative control: without our code in the library's place the same program ends its process by SIGABRT.
"""

import signal
import subprocess
import sys

import pytest

from domains.cpu.x86.registers import R8, R9, RBX
from tests.domains.cpu.x86.bench import Bench
from tests.domains.cpu.x86.hvm_bench import HvmBench

INSTRUCTIONS = [
    *(".byte 0xf0, 0x0f, 0xa3, 0xc1", ".byte 0xf0, 0x0f, 0xab, 0xc1", ".byte 0xf0, 0x0f, 0xb3, 0xc1"),
    *(
        ".byte 0xf0, 0x0f, 0xbb, 0xc1",
        ".byte 0xf0, 0x0f, 0xba, 0xe9, 3",
        ".byte 0xf0, 0x48, 0x0f, 0xba, 0xf1, 3",
    ),
]
PROGRAM = """start: long_mode; gate 6, handler; xor %r8d, %r8d; jmp 1f
    1: inc %r8d; nop
    fault: {instruction}
    done
    handler: pop %r9; mov $6, %ebx; done"""


@pytest.mark.parametrize("instruction", INSTRUCTIONS)
@pytest.mark.parametrize("shadow_frames", [0, 64], ids=["nested", "shadow"])
def test_it_is_undefined_and_what_is_before_it_is_done_once(instruction: str, shadow_frames: int) -> None:
    guest = HvmBench(shadow_frames)
    guest.run(PROGRAM.format(instruction=instruction))
    assert (guest.q[RBX], guest.q[R9], guest.q[R8]) == (6, guest.labels["fault"], 1)


def test_it_is_to_a_pv_guest(bench: Bench) -> None:
    bench.run(
        f"start: xor %ebx, %ebx; jmp 1f; 1: inc %ebx; {INSTRUCTIONS[1]}; done; handler: done",
        setup=lambda found: bench.traps((6, 0, found["handler"])),
    )
    assert (bench.v.exits["#UD"], bench.q[RBX]) == (1, 1)


def test_it_is_each_time(bench: Bench) -> None:
    bench.run(
        f"start: mov $100, %ebp; jmp fault; fault: {INSTRUCTIONS[1]}; done; handler: dec %ebp; jz over; jmp fault; over: done",
        setup=lambda found: bench.traps((6, 0, found["handler"])),
    )
    assert bench.v.exits["#UD"] == 100


CONTROL = f"""
from domains.cpu.x86.emulator import interposed
interposed.Untranslatable = lambda _: None
from tests.domains.cpu.x86.hvm_bench import HvmBench
HvmBench().run({PROGRAM.format(instruction=INSTRUCTIONS[1])!r})
"""


def test_control_without_our_code_the_process_ends() -> None:
    done = subprocess.run([sys.executable, "-c", CONTROL], capture_output=True, check=False)
    assert done.returncode == -signal.SIGABRT
