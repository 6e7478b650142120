"""The same machine code run by the engine and by the host's own CPU, on the same data: what the two leave there must be the same.

The code gets in rdi the address of its data and may use every register; it is position-independent and ends by falling through.
"""

import ctypes
import mmap

from domains.cpu.x86.registers import RDI
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE
from tests.domains.cpu.x86.bench import CODE, DATA, Bench, assemble

CODE_BYTES = 0x10000

SAVE = """
    push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15
    sub $24, %rsp; stmxcsr (%rsp); fnstcw 8(%rsp)
"""
RESTORE = """
    emms; ldmxcsr (%rsp); fldcw 8(%rsp); add $24, %rsp
    pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx
    ret
"""


def by_guest(bench: Bench, source: str, data: bytes) -> bytes:
    """What the guest's CPU makes of `data`."""
    bench.write(DATA, data)
    for page in range(CODE, CODE + CODE_BYTES, PAGE_SIZE):
        bench.v.paging.invalidate_code(bench.v.paging.translate(page) >> PAGE_SHIFT)
    bench.q[RDI] = DATA
    bench.run(f"start: {source}; done")
    return bench.v.paging.read(DATA, len(data))


def by_host(source: str, data: bytes) -> bytes:
    """What the host's CPU makes of `data`."""
    code, _ = assemble(f"{SAVE}\n{source}\n{RESTORE}")
    page = mmap.mmap(-1, len(code), prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    buffer = ctypes.create_string_buffer(data, len(data))
    octets = (ctypes.c_uint8 * len(code)).from_buffer(page)
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(ctypes.addressof(octets))(ctypes.addressof(buffer))
    return buffer.raw
