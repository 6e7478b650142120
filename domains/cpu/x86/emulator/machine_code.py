"""The few pieces of machine code that hooks and signal handlers are made of, where Python would come too late or may not be left
by longjmp (stop_stub, step_stub, io_ports), and the pages in which code lies that takes the place of the library's (interposed).
"""

import ctypes
import mmap
import struct

from domains.cpu.x86.emulator.unicorn_library import exported


class CodePage:
    """`size` bytes of memory that can be executed, at `address`, for as long as this object lives."""

    def __init__(self, size: int = mmap.PAGESIZE) -> None:
        self._memory = mmap.mmap(-1, size, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._octets = (ctypes.c_uint8 * size).from_buffer(self._memory)
        self.address = ctypes.addressof(self._octets)

    def put(self, at: int, code: bytes) -> None:
        """Write `code` to `at` bytes behind the beginning."""
        self._memory[at : at + len(code)] = code

    def put_functions(self, *names: str) -> None:
        """Write the addresses of these functions of the library's, or of libc, to the beginning, eight bytes each."""
        self.put(0, struct.pack(f"<{len(names)}Q", *(exported(name) for name in names)))


def load_rdi(value: int) -> bytes:
    """movabs $value, %rdi"""
    return b"\x48\xbf" + struct.pack("<Q", value)


def load_rax(value: int) -> bytes:
    """movabs $value, %rax"""
    return b"\x48\xb8" + struct.pack("<Q", value)


def jump_to(function: str) -> bytes:
    """movabs $function, %rax; jmp *%rax: on to one of the library's functions, which returns to our caller."""
    return load_rax(exported(function)) + b"\xff\xe0"


def raise_exception(env: int, vector: int) -> bytes:
    """raise_exception_err(env, vector, 0): the guest's exception with error code 0; leaves by longjmp.

    movabs $env, %rdi; mov $vector, %esi; xor %edx, %edx; …
    """
    arguments = load_rdi(env) + b"\xbe" + struct.pack("<I", vector) + b"\x31\xd2"
    return arguments + jump_to("raise_exception_err_x86_64")
