"""Sums, differences, products and quotients of floating-point numbers by the host's own instructions, where they are certain to
be the same.

The library has such a way, too (QEMU's hardfloat): while the inexact exception has been gathered already and rounding is to the
nearest, an operation on normal numbers that gives a normal number has no other effect than its result. But it asks libm's
functions about each operand and result, which takes longer than all the rest. Here the exponents tell: e - 2, of as many bits as
an exponent has, is less than the largest e - 2 for a normal number. The least normal numbers, e = 1, do not count: a result may
have become one by rounding, which is an underflow. All else is left to the library.

     0    the library's eight functions                          rdi, rsi = a, b as bits; rdx = float_status
    64    for each: testb $INEXACT, FLAGS(%rdx); jz 1f; cmpb $0, ROUNDING(%rdx); jne 1f
          mov %rdi, %rax; shr $52, %rax; sub $2, %eax; and $0x7ff, %eax; cmp $0x7fd, %eax; jae 1f           and %rsi likewise
          movq %rdi, %xmm0; movq %rsi, %xmm1; addsd %xmm1, %xmm0; movq %xmm0, %rax            or mulsd, subsd, divsd
          mov %rax, %rcx; shr $52, %rcx; sub $2, %ecx; and $0x7ff, %ecx; cmp $0x7fd, %ecx; jae 1f; ret
          1: jmp *function                                       single precision: the same with edi, esi, 23, 0xff and 0xfd

Source: Intel SDM vol. 1 §4.8; QEMU fpu/softfloat.c (can_use_fpu).
"""

import struct
from typing import Final, NamedTuple

from domains.cpu.x86.emulator.interpose import Interposer
from domains.cpu.x86.emulator.machine_code import CodePage

OPERATIONS: Final = ("add", "mul", "sub", "div")
OPCODES: Final = (0x58, 0x59, 0x5C, 0x5E)
ROUNDING, FLAGS = 1, 2
"""Of a float_status: bytes. 0: to the nearest."""
INEXACT: Final = 0x20


class Width(NamedTuple):
    """A precision: `whole` is the prefix of an instruction on that much of a general register, `scalar` that of one of SSE's;
    `last`: the largest exponent, which infinities and NaNs have.
    """

    name: str
    whole: bytes
    scalar: bytes
    exponent_at: int
    last: int


WIDTHS: Final = (Width("float64", b"\x48", b"\xf2", 52, 0x7FF), Width("float32", b"", b"\xf3", 23, 0xFF))
FUNCTIONS: Final = tuple(f"{width.name}_{operation}_x86_64" for width in WIDTHS for operation in OPERATIONS)
_CODE_AT, _CODE_SIZE = 64, 128
_JZ, _JNZ, _JAE = b"\x74", b"\x75", b"\x73"
_RDI_TO_RAX: Final = (b"\x89\xf8", b"\xc1\xe8", b"\x83\xe8\x02", b"\x25", b"\x3d")
"""mov, shr, sub $2, and, cmp: without the number that follows."""
_RSI_TO_RAX: Final = (b"\x89\xf0", b"\xc1\xe8", b"\x83\xe8\x02", b"\x25", b"\x3d")
_RAX_TO_RCX: Final = (b"\x89\xc1", b"\xc1\xe9", b"\x83\xe9\x02", b"\x81\xe1", b"\x81\xf9")


class HostFloat:
    """Machine code in the place of the library's functions from now on."""

    def __init__(self, interposer: Interposer) -> None:
        self._page = CodePage()
        self._page.put_functions(*FUNCTIONS)
        for number, name in enumerate(FUNCTIONS):
            at = _CODE_AT + number * _CODE_SIZE
            width, opcode = WIDTHS[number // len(OPERATIONS)], OPCODES[number % len(OPERATIONS)]
            self._page.put(at, _routine(width, opcode, 8 * number - at))
            interposer.replace(name, self._page.address + at)

    def address(self, name: str) -> int:
        """Where the routine lies that takes the place of this one of FUNCTIONS."""
        return self._page.address + _CODE_AT + FUNCTIONS.index(name) * _CODE_SIZE


def _routine(width: Width, opcode: int, function: int) -> bytes:
    """The address of the library's function lies `function` bytes from its beginning."""
    whole = b"\x66" + width.whole + b"\x0f"
    compute = whole + bytes.fromhex("6ec7") + whole + bytes.fromhex("6ece")
    compute += width.scalar + bytes([0x0F, opcode, 0xC1]) + whole + bytes.fromhex("7ec0")
    to_library = [
        bytes([0xF6, 0x42, FLAGS, INEXACT]) + _JZ,
        bytes([0x80, 0x7A, ROUNDING, 0]) + _JNZ,
        _exponent(width, _RDI_TO_RAX) + _JAE,
        _exponent(width, _RSI_TO_RAX) + _JAE,
        compute + _exponent(width, _RAX_TO_RCX) + _JAE,
    ]
    end = sum(len(part) + 1 for part in to_library) + 1
    code = b""
    for part in to_library:
        code += part + bytes([end - len(code) - len(part) - 1])
    code += b"\xc3\xff\x25"
    return code + struct.pack("<i", function - len(code) - 4)


def _exponent(width: Width, instructions: tuple[bytes, ...]) -> bytes:
    """Copy a number and compare its exponent: above or equal if it may be none of a normal number."""
    move, shift, subtract, mask, compare = instructions
    code = width.whole + move + width.whole + shift + bytes([width.exponent_at]) + subtract
    return code + mask + struct.pack("<I", width.last) + compare + struct.pack("<I", width.last - 2)
