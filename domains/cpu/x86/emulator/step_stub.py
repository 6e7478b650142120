"""Machine code that is called before each instruction while the guest has a breakpoint (breakpoints).

rdi = uc, rsi = rip, rcx = control      control:   0  breakpoints on data that were hit
                                                   8  rip of DR0 … DR3, or NO_RIP
        cmpq  $0, (%rcx); jne due
        is a slice's end asked for? (stop_stub); jne leave
        is RF set? jne resume
        cmp   %rsi, 8 … 32(%rcx); je raise
 ret:   ret
 due:   in the shadow of a move to SS? jne ret
 raise: raise_exception_err(env, #DB, 0)             both leave by longjmp, from where rip is right
 leave: cpu_loop_exit_noexc(cpu)
 resume: clear RF: it is for this one instruction; ret
"""

import struct
from typing import Final, NamedTuple

from domains.cpu.x86.emulator.cpu_state import HF_INHIBIT_IRQ, HFLAGS, RFLAGS
from domains.cpu.x86.emulator.machine_code import jump_to, load_rax, load_rdi, raise_exception
from domains.cpu.x86.emulator.stop_stub import INTERRUPT_REQUEST
from domains.cpu.x86.registers import EFLAGS_RF, EXC_DB, U32

NO_RIP: Final = 1 << 63
"""Not canonical."""


class Row(NamedTuple):
    """Code, and where the short jump at its end goes, if there is one."""

    code: bytes
    jump: str = ""
    label: str = ""


def step_stub(env: int, cpu: int) -> bytes:
    """The code for the CPU whose CPUX86State and CPUState lie there."""
    flags = load_rax(env + 8 * RFLAGS)
    compared = [Row(bytes.fromhex("483971") + bytes([8 * n]) + b"\x74", "raise") for n in (1, 2, 3, 4)]
    return linked(
        Row(bytes.fromhex("48833900 75"), "due"),
        Row(load_rax(cpu + INTERRUPT_REQUEST) + bytes.fromhex("833800 75"), "leave"),
        Row(flags + b"\xf7\x00" + struct.pack("<I", EFLAGS_RF) + b"\x75", "resume"),
        *compared,
        Row(b"\xc3", label="ret"),
        Row(load_rax(env + 4 * HFLAGS) + b"\xf6\x00" + bytes([HF_INHIBIT_IRQ]) + b"\x75", "ret", "due"),
        Row(raise_exception(env, EXC_DB), label="raise"),
        Row(load_rdi(cpu) + jump_to("cpu_loop_exit_noexc_x86_64"), label="leave"),
        Row(b"\x81\x20" + struct.pack("<I", ~EFLAGS_RF & U32) + b"\xc3", label="resume"),
    )


def linked(*rows: Row) -> bytes:
    """The rows in order, with their jumps."""
    places, at = {}, 0
    for row in rows:
        places[row.label] = at
        at += len(row.code) + bool(row.jump)
    out = bytearray()
    for row in rows:
        out += row.code
        if row.jump:
            out += struct.pack("<b", places[row.jump] - len(out) - 1)
    return bytes(out)
