"""The few pieces of machine code that hooks and signal handlers are made of, where Python would come too late or may not be left
by longjmp: stop_stub, step_stub, io_ports.
"""

import struct

from domains.cpu.x86.emulator.unicorn_library import exported


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
